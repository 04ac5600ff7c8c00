"""A real S3-protocol server on the loopback for tests, reached as in production: through the environment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import s3fs

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """These variables for a while. New clients see them; those made before keep their own."""
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    forget_clients()
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        forget_clients()


def forget_clients() -> None:
    """Make the next user of S3 look at the environment again."""
    from pipeline.engine.s3 import PatientS3

    for kind in (PatientS3, s3fs.S3FileSystem):
        kind.clear_instance_cache()


@contextmanager
def moto(*buckets: str) -> Iterator[str]:
    """The address of a moto server of one's own with these buckets; it stands in the environment meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from moto.server import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        with environment({**CREDENTIALS, "AWS_ENDPOINT_URL": url}):
            _wait(port)
            fs = s3fs.S3FileSystem(skip_instance_cache=True)
            for name in buckets:
                fs.mkdir(name)
            yield url
    finally:
        server.kill()
        server.wait()


def _wait(port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    msg = "the S3 server did not start"
    raise RuntimeError(msg)

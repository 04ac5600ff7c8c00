"""S3 that expects trouble: s3fs with bounded retries, answers checked for their length, and errors that say what to do.

One request is tried at most 20 times within PATIENCE_SECONDS: botocore's `standard` mode pauses 0 to 1, 2, 4 s at random
(so that a thousand workers do not come back together), s3fs goes round again after 0.1 to 0.8 s; about 20 s in all, since
a store that is down longer is better met by trying the part again. A body that breaks off is asked for again, at most
5 times. Then it is StorageUnavailable, which is not retried below the part.

Credentials are whatever botocore finds in the environment or the profile; no setting here takes any. Listings are never
cached: a file that another worker wrote a moment ago is seen.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp
import s3fs
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from fsspec.asyn import sync
from s3fs.core import add_retryable_error, set_custom_error_handler

from pipeline.engine.storage import StorageRefused, StorageUnavailable

PATIENCE_SECONDS = 300.0
READ_AHEAD_BYTES = 8 << 20
CONFIG: Mapping[str, Any] = {
    "retries": {"mode": "standard", "total_max_attempts": 4},
    "connect_timeout": 10,
    "read_timeout": 30,
    "max_pool_connections": 32,
}
TRANSIENT_STATUS = (429, 500, 502, 503, 504)
TRANSIENT_CODES = ("InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class ShortAnswer(OSError):
    """Fewer bytes came than were asked for, and the file goes on."""


def is_transient(error: BaseException | None) -> bool:
    """Whether the store said that another try may help."""
    if not isinstance(error, ClientError):
        return False
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(error.response.get("Error", {}).get("Code", ""))
    return status in TRANSIENT_STATUS or code.startswith(TRANSIENT_CODES)


# s3fs's own hooks, for the whole process: what its retry loop takes for passing trouble
set_custom_error_handler(is_transient)
add_retryable_error(aiohttp.ClientError)
add_retryable_error(ShortAnswer)


class PatientS3(s3fs.S3FileSystem):  # type: ignore[misc]
    """s3fs with the policy above. Registered for `s3://`, so that inputs are read under it as well."""

    def __init__(self, *args: Any, config_kwargs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("use_listings_cache", False)
        kwargs.setdefault("default_block_size", READ_AHEAD_BYTES)
        super().__init__(*args, config_kwargs={**CONFIG, **(config_kwargs or {})}, **kwargs)

    async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
        what = f"{method} s3://{'/'.join(str(kwargs[key]) for key in ('Bucket', 'Key', 'Prefix') if kwargs.get(key))}"
        with explained(what):
            async with asyncio.timeout(PATIENCE_SECONDS):
                found = await super()._call_s3(method, *args, **kwargs)
        if method == "get_object":
            _check_range(kwargs.get("Range"), found)
        return found

    async def _cat_file(
        self, path: str, version_id: str | None = None, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """One request whatever the size: s3fs would first ask for it, and does not retry broken bodies of pieces."""
        with explained(f"read of s3://{self._strip_protocol(path)}"):
            return bytes(await super()._cat_file(path, version_id, start, end, max_concurrency=1))

    async def _get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        with explained(f"download of s3://{self._strip_protocol(rpath)}"):
            await super()._get_file(rpath, lpath, **{**kwargs, "max_concurrency": 1})

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = super()._open(path, mode, **kwargs)
        if "r" in mode:
            file.cache.fetcher = _explaining(file.cache.fetcher, f"read of s3://{self._strip_protocol(path)}")
        return file

    def put_if(self, path: str, data: bytes, **conditions: str) -> str | None:
        """One PUT under `IfMatch` or `IfNoneMatch`: the new ETag, or None when the store says that it does not hold.

        A store that does not know conditions writes in any case: read back what is there.
        """
        bucket, key, _ = self.split_path(path)
        try:
            answer = self.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **conditions)
        except OSError as error:
            if isinstance(error.__cause__, ClientError) and _status(error.__cause__) in (404, 409, 412):
                return None
            raise
        return str(answer.get("ETag", ""))

    def abort_uploads(self, folder: str) -> int:
        """Forget unfinished multipart uploads below `folder`, which a killed worker leaves; returns their number."""
        return int(sync(self.loop, self._abort_uploads, folder))

    async def _abort_uploads(self, folder: str) -> int:
        bucket, key, _ = self.split_path(folder)
        found = await self._call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key.rstrip('/')}/")
        uploads = found.get("Uploads", [])
        for upload in uploads:
            await self._call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(uploads)


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _explaining(fetch: Callable[[int, int], bytes], what: str) -> Callable[[int, int], bytes]:
    def fetched(start: int, end: int) -> bytes:
        with explained(what):
            return fetch(start, end)

    return fetched


def _check_range(asked: str | None, answer: Mapping[str, Any]) -> None:
    """Raise ShortAnswer unless the body is announced with all the bytes of the range that exist."""
    wanted = _RANGE.fullmatch(asked or "")
    if wanted is None:
        return
    first, last = int(wanted[1]), int(wanted[2]) if wanted[2] else None
    given = _CONTENT_RANGE.fullmatch(str(answer.get("ContentRange", "")))
    if given is None:
        if first == 0:
            return  # some stores answer a range that is the whole file with the whole file
        msg = f"asked for {asked}, got an answer without a range: does the store support ranged reads?"
        raise ShortAnswer(msg)
    total = int(given[3]) if given[3] != "*" else None
    ends = [one for one in (last, None if total is None else total - 1) if one is not None]
    expected = min(ends) - first + 1 if ends else None
    if int(given[1]) != first or (expected is not None and int(answer.get("ContentLength", expected)) != expected):
        msg = f"asked for {asked}, got {given[0]} with {answer.get('ContentLength')} bytes"
        raise ShortAnswer(msg)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what is left after all retries into StorageUnavailable or StorageRefused, with what to do about it."""
    started = time.monotonic()
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        msg = (
            f"{what}: {error}. Credentials come from the usual AWS places: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE), or the machine's role"
        )
        raise StorageRefused(msg) from error
    except (StorageUnavailable, StorageRefused):
        raise
    except (OSError, BotoCoreError, ClientError, aiohttp.ClientError) as error:
        if _code(error) == "NoSuchBucket":
            msg = (
                f"{what}: there is no such bucket; create it, or mend the address (AWS_ENDPOINT_URL, region, spelling)"
            )
            raise StorageRefused(msg) from error
        if not _is_passing(error):
            raise
        msg = (
            f"{what}: the object store gave no good answer in {time.monotonic() - started:.0f} s of tries "
            f"({_in_short(error)}). Check that it is up and reachable from here (AWS_ENDPOINT_URL, network, its own status), "
            "then run the same command again: finished parts stay"
        )
        raise StorageUnavailable(msg) from error


def _code(error: BaseException) -> str:
    """The store's own name of an error, also where s3fs made a Python error of it."""
    said = error if isinstance(error, ClientError) else error.__cause__
    return str(said.response.get("Error", {}).get("Code", "")) if isinstance(said, ClientError) else ""


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        return is_transient(error)
    if isinstance(error, (BotoCoreError, aiohttp.ClientError, ShortAnswer, TimeoutError, ConnectionError)):
        return True
    return is_transient(error.__cause__)


def _in_short(error: BaseException) -> str:
    text = str(error) or "no answer in time"
    return f"{type(error).__name__}: {text[:300]}"

"""A small HTTP proxy in front of an S3 server that spoils a seeded share of the requests. Real sockets, both sides.

    python -m tests.faults.s3_proxy http://127.0.0.1:5000 --share 0.06 --seed 1

It forwards what a client sends byte for byte (Host included: it is part of the signature) and closes each connection
after one answer. A fault is one of KINDS; those that come `after` reach the server first, so that the client must cope with a
request that was done though its answer was lost. POST to `/-/share` with a number sets the share, GET `/-/counts` tells the counts.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KINDS = ("error_500", "slow_down_503", "delay", "half_body", "reset", "reset_after")
_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code} by the proxy</Message></Error>'
)
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-authorization"}


class FaultyProxy:
    """Serves on a free port of the loopback from `start` to `stop`."""

    def __init__(
        self,
        target: str,
        *,
        share: float,
        seed: int,
        kinds: tuple[str, ...] = KINDS,
        delay: float = 0.7,
        without: tuple[str, ...] = (),
    ) -> None:
        """`without` names headers that are not passed on, as by a store that does not know them."""
        self.target = urlsplit(target)
        self.share, self.kinds, self.delay, self.without = share, kinds, delay, without
        self._random = random.Random(seed)
        self._mutex = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.methods: Counter[str] = Counter()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True, name="s3-proxy").start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def draw(self, method: str) -> str:
        """What to do with the next request: a fault, or `good`."""
        with self._mutex:
            fault = self._random.choice(self.kinds) if self._random.random() < self.share else "good"
            self.counts[fault] += 1
            self.methods[method] += 1
            return fault

    def faulty_share(self) -> float:
        """Of all requests so far."""
        return 1 - self.counts["good"] / max(1, self.counts.total())


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers, which aws-chunked has within the body
                pass
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _any(self) -> None:
        self.close_connection = True
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self._body()
        if self.path.startswith("/-/"):
            self._control(body)
            return
        fault = self.proxy.draw(self.command)
        if fault == "error_500":
            self._refuse(500, "InternalError")
        elif fault == "slow_down_503":
            self._refuse(503, "SlowDown")
        elif fault == "reset":
            self._reset()
        else:
            if fault == "delay":
                time.sleep(self.proxy.delay)
            self._forward(body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

    def _control(self, body: bytes) -> None:
        if self.path == "/-/share":
            self.proxy.share = float(body)
        self._answer(200, [], json.dumps(dict(self.proxy.counts)).encode())

    def _refuse(self, status: int, code: str) -> None:
        body = b"" if self.command == "HEAD" else _ERROR.format(code=code).encode()
        self._answer(status, [("Content-Type", "application/xml")], body)

    def _reset(self) -> None:
        with contextlib.suppress(OSError):  # linger 0: the peer sees RST, not an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _forward(self, body: bytes, fault: str) -> None:
        target = self.proxy.target
        server = http.client.HTTPConnection(target.hostname or "127.0.0.1", target.port or 80, timeout=60)
        try:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in (*_HOP_BY_HOP, *self.proxy.without, "content-length", "expect"):
                    server.putheader(name, value)
            server.putheader("Content-Length", str(len(body)))
            server.putheader("Connection", "close")
            server.endheaders(body)
            answer = server.getresponse()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
            content = answer.read()
        except OSError:
            self._reset()
            return
        finally:
            server.close()
        if fault == "reset_after" or (fault == "half_body" and (not content or self.command == "HEAD")):
            self._reset()  # of an answer without a body, half is nothing at all
            return
        announced = None
        if self.command == "HEAD":
            announced = next((value for name, value in headers if name.lower() == "content-length"), "0")
        cut = len(content) // 2 if fault == "half_body" else None
        self._answer(answer.status, headers, content, announced=announced, cut=cut)

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        announced: str | None = None,
        cut: int | None = None,
    ) -> None:
        """Send it; with `cut`, all of its length is announced, but only so many bytes come."""
        with contextlib.suppress(OSError):
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() != "content-length":
                    self.send_header(name, value)
            if status not in (204, 304):
                self.send_header("Content-Length", announced or str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body if cut is None else body[:cut])
            self.wfile.flush()


def main() -> None:
    """Serve until interrupted; prints the address first and the counts last."""
    parser = argparse.ArgumentParser(description="A proxy that spoils a share of the requests to an S3 server.")
    parser.add_argument("target")
    parser.add_argument("--share", type=float, default=0.06)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    proxy = FaultyProxy(options.target, share=options.share, seed=options.seed, kinds=tuple(options.kinds)).start()
    print(proxy.url, flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print(json.dumps(dict(proxy.counts)))


if __name__ == "__main__":
    main()

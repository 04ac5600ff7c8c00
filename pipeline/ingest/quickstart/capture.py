"""Serve pages over HTTP on the loopback interface and capture them into a WARC file, as a crawler would.

A real server, real sockets, real HTTP messages; only the host's name is virtual, and the clock: a page's capture
time is its Last-Modified, so that the same pages give the same WARC file, byte for byte. About 1 ms a page.
"""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

TIMEOUT = 30  # seconds without a byte between two ends of a loopback connection: something is badly wrong
USER_AGENT = "tokenmill-quickstart"


@dataclass(frozen=True)
class Page:
    """What a URL serves."""

    body: bytes
    modified: datetime
    content_type: str = "text/html; charset=utf-8"


@contextmanager
def served(page: Callable[[str], Page | None]) -> Iterator[int]:
    """A server on 127.0.0.1 that answers with `page(path)`, or 404. Yields its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # header and body leave together: two small writes would wait for each other's acknowledgement
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            found = page(self.path)
            answer = found or Page(
                b"<html><body><h1>404 Not Found</h1></body></html>", datetime(1970, 1, 1, tzinfo=UTC)
            )
            self.send_response_only(200 if found else 404)
            # Not send_response: its Date is the clock's, which would make every capture another file.
            self.send_header("Server", "tokenmill-docs")
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Last-Modified", format_datetime(answer.modified, usegmt=True))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the WARC file is the log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(TIMEOUT)


def capture(port: int, host: str, paths: Iterable[str], out: BinaryIO) -> int:
    """Fetch `paths` over one connection and write a request and a response record for each. Returns the pages fetched."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    writer = WARCWriter(out, gzip=True)
    count = 0
    try:
        for path in paths:
            headers = [("Host", host), ("User-Agent", USER_AGENT), ("Accept", "text/html")]
            connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            body = response.read()
            time = parsedate_to_datetime(response.headers["Last-Modified"])
            request = StatusAndHeaders(f"GET {path} HTTP/1.1", headers, is_http_request=True)
            answer = StatusAndHeaders(f"{response.status} {response.reason}", response.getheaders(), "HTTP/1.1")
            url = f"http://{host}{path}"
            _write(writer, "request", url, time, request, b"")
            _write(writer, "response", url, time, answer, body)
            count += 1
    finally:
        connection.close()
    return count


def _write(writer: WARCWriter, kind: str, url: str, time: datetime, http: StatusAndHeaders, body: bytes) -> None:
    # A record id must be unique, not random: one that is derived makes the file the same every time.
    fields = {
        "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{kind} {url} {time.isoformat()}')}>",
        "WARC-Date": time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    writer.write_record(
        writer.create_warc_record(url, kind, io.BytesIO(body), len(body), warc_headers_dict=fields, http_headers=http)
    )

"""A web server on loopback that gives parts of files, and misbehaves as it is told."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[["Handler", bytes], bool]
"""Given the handler and the bytes asked for: whether it answered in a way of its own."""


class Server(ThreadingHTTPServer):
    """Serves `root`; `fault` may take over requests of names that match `pattern`, `times` times."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.requests: list[tuple[str, str]] = []
        self.released = threading.Event()
        self.behave()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def misbehave(self, fault: Fault, pattern: str = r"\.tar$", times: int = 10**9) -> None:
        self._fault, self._pattern, self._left = fault, pattern, times

    def behave(self) -> None:
        self.misbehave(lambda handler, data: False, "$^")

    def asked(self, pattern: str = r"\.tar$") -> int:
        return sum(bool(re.search(pattern, name)) for name, _ in self.requests)

    def answers_otherwise(self, handler: Handler, data: bytes) -> bool:
        if self._left < 1 or not re.search(self._pattern, handler.path):
            return False
        self._left -= 1
        return self._fault(handler, data)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range", "")))
        path = self.server.root / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data, status = path.read_bytes(), 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            if int(match[1]) >= len(data):
                self.send_error(416)
                return
            data, status = data[int(match[1]) : int(match[2]) + 1], 206
        if not self.server.answers_otherwise(self, data):
            self.answer(data, status)

    def answer(self, data: bytes, status: int = 206, promised: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if promised is None else promised))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def stall(handler: Handler, data: bytes) -> bool:
    handler.send_response(206)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[:10])
    handler.wfile.flush()
    handler.server.released.wait(60)
    handler.close_connection = True
    return True


def answer_500(handler: Handler, data: bytes) -> bool:
    handler.send_error(500)
    return True


def forbid(handler: Handler, data: bytes) -> bool:
    handler.send_error(403)
    return True


def close_early(handler: Handler, data: bytes) -> bool:
    handler.answer(data[: len(data) // 2], promised=len(data))
    handler.close_connection = True
    return True


def flip(handler: Handler, data: bytes) -> bool:
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    handler.answer(bytes(flipped))
    return True


def ignore_ranges(handler: Handler, data: bytes) -> bool:
    handler.answer((handler.server.root / handler.path.lstrip("/")).read_bytes(), 200)
    return True


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    with Server(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()

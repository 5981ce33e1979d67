"""A small hub: serves folders below a directory as `owner/name` repositories, with the few addresses that downloads
use."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


@contextmanager
def serve(root: Path, requested: list[str]) -> Iterator[str]:
    """Serve `root`/owner/name; yields the address, and notes every file that was asked for in `requested`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

        def _answer(self, with_body: bool) -> None:
            words = self.path.partition("?")[0].strip("/").split("/")
            if words[:2] == ["api", "models"]:
                repo = root / words[2] / words[3]
                body = _tree(repo) if "tree" in words else _info(repo)
                self._send(json.dumps(body).encode(), "application/json", with_body)
                return
            file = root.joinpath(words[0], words[1], *words[4:])  # owner/name/resolve/revision/...
            if not file.is_file():
                self.send_error(404)
                return
            if with_body:
                requested.append("/".join(words[4:]))
            self._send(file.read_bytes(), "application/octet-stream", with_body)

        def _send(self, body: bytes, kind: str, with_body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _files(repo: Path) -> list[Path]:
    return sorted(file for file in repo.rglob("*") if file.is_file())


def _info(repo: Path) -> dict[str, object]:
    names = [{"rfilename": file.relative_to(repo).as_posix()} for file in _files(repo)]
    return {"id": f"{repo.parent.name}/{repo.name}", "sha": COMMIT, "siblings": names, "private": False}


def _tree(repo: Path) -> list[dict[str, object]]:
    return [
        {
            "type": "file",
            "path": file.relative_to(repo).as_posix(),
            "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
            "size": file.stat().st_size,
        }
        for file in _files(repo)
    ]

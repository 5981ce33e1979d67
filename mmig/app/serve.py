"""The page as a server on a socket: what it lets in and out, from the first free port to the last visitor."""

import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI

from mmig.app.asking import RequestError
from mmig.app.page import CSS, Page, theme
from mmig.app.uploads import LARGEST_FILE

FIRST_PORT, LAST_PORT = 7860, 7959
PATIENCE = 2
"""Seconds that open connections get at the end; a browser keeps one open for news."""


class Server(uvicorn.Server):
    """A server that says when it is ready.

    Args:
        config: of uvicorn.
        ready: called once it takes connections.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As the parent's, then say so."""
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As the parent's, without a word on the connections that open pages hold until they are cut."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


def serve(page: Page, listening: socket.socket, ready: Callable[[], object]) -> Server:
    """A server of a page, to be run with `run(sockets=[listening])`.

    Nothing is fetched from elsewhere, nothing is shared, and no files are readable but results and what was sent.
    """
    blocks, app = page.build(), FastAPI(openapi_url=None)
    host, port = listening.getsockname()[:2]
    served: dict[str, Any] = {"server_name": host, "server_port": port, "ssr_mode": False, "show_error": True}
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        allowed_paths=[str(page.handlers.root / "visits")],
        max_file_size=LARGEST_FILE,
        theme=theme(),
        css_paths=CSS,
        **served,
    )
    blocks.is_running = True  # until it is closed; keeps connections of visitors who wait alive
    blocks.has_launched = True  # without it Gradio takes a file from wherever a request says that it is
    settings: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": PATIENCE, "ws": "none"}
    return Server(uvicorn.Config(app, **settings), ready)


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Args:
        host: name or number.
        port: 0 takes the first free one from `FIRST_PORT` on.

    Raises:
        RequestError: it cannot be had.
    """
    error: OSError | None = None
    for number in [port] if port else range(FIRST_PORT, LAST_PORT + 1):
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            found = socket.socket(family, kind)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(128)
            return found
        except OSError as refused:
            error = refused
    where = f"--port {port}" if port else f"ports {FIRST_PORT} to {LAST_PORT}"
    raise RequestError(f"{where} at --host {host}: cannot be listened at ({error}); give another") from error


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def served(page: Page, host: str = "127.0.0.1") -> Iterator[str]:
    """The address of a page that is served by a thread while one is inside."""
    listening, ready = listen(host, 0), Event()
    server = serve(page, listening, ready.set)
    thread = Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        ready.wait()
        yield f"http://{host}:{listening.getsockname()[1]}/"
    finally:
        page.handlers.desk.close()
        server.should_exit = True
        thread.join()

"""The served page over HTTP: every visitor gets the edit of its own picture; what is not a visitor's stays shut."""

import html
import io
import json
import re
import secrets
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from mmig.app.handlers import Handlers
from mmig.app.systems import System
from mmig.evaluation.overrides import with_sampling
from mmig.run.edit import edit_image
from tests.mmig.app.conftest import encoded, picture, saved

FAST = "num_steps=1"
PATIENCE = 300
"""Seconds; so many visitors are served one after another."""


class RefusedError(Exception):
    """The server ends a call with an error."""


class Visit:
    """A browser's session, without the browser."""

    def __init__(self, address: str) -> None:
        self.address, self.session = address, secrets.token_hex(8)

    def edit(self, path: Path, instruction: str, seed: int = 0, steps: int = 1, **more: Any) -> tuple[str, str]:
        """HTML of the results, and of the status."""
        with path.open("rb") as file:
            sent = httpx.post(f"{self.address}gradio_api/upload", files={"files": file}, timeout=PATIENCE)
        return self.edit_file(sent.raise_for_status().json()[0], instruction, seed, steps, **more)

    def edit_file(
        self,
        place: str,
        instruction: str,
        seed: int = 0,
        steps: int = 1,
        count: int = 1,
        resolution: int | None = None,
    ) -> tuple[str, str]:
        """The same with a file that is at a place of the server."""
        picture = {"path": place, "meta": {"_type": "gradio.FileData"}}
        values = [picture, instruction, "", None, ["tiny_instruction"], seed, count, resolution, True]
        settings = [steps, 2.5, 1.5, "instruction"]
        found = self.call("edit", [*values, *settings])
        return found[0], found[1]

    def call(self, name: str, values: list[Any]) -> list[Any]:
        """Values that a handler gives at its end.

        Raises:
            RefusedError: it gives none.
        """
        url = f"{self.address}gradio_api/call/{name}"
        asked = httpx.post(url, json={"data": values, "session_hash": self.session}, timeout=PATIENCE)
        if asked.is_error:
            raise RefusedError(asked.text)
        event = ""
        with httpx.stream("GET", f"{url}/{asked.json()['event_id']}", timeout=PATIENCE) as news:
            for line in news.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event in ("complete", "error"):
                    found = json.loads(line.removeprefix("data: "))
                    if event == "error":
                        raise RefusedError(str(found))
                    return found
        raise RefusedError("no end")

    def archive(self, shown: str) -> zipfile.ZipFile:
        """The first download of the results."""
        link = html.unescape(re.search(r'href="([^"]+)"', shown)[1])
        return zipfile.ZipFile(io.BytesIO(httpx.get(self.address + link, timeout=PATIENCE).raise_for_status().content))


def directly(system: System, image: Image.Image, instruction: str, seed: int) -> bytes:
    """The same edit, without any page."""
    editor = with_sampling(system.editor, [FAST])
    return encoded(edit_image(editor, image, instruction, seed=seed, resolution=system.opened.resolution)[0])


@pytest.fixture
def visit(address: str) -> Visit:
    return Visit(address)


def test_an_edit_over_http_is_the_edit_of_the_direct_call(visit: Visit, system: System, tmp_path: Path) -> None:
    path = saved(picture(7), tmp_path / "mine.png")
    shown, status = visit.edit(path, "make it night", seed=11)
    assert "Done" in status
    with visit.archive(shown) as archive:
        assert archive.read("edited/edited.png") == directly(system, picture(7), "make it night", 11)
        assert archive.read("edited/source.png") == path.read_bytes()


@pytest.mark.parametrize("visitors", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_visitors_at_once_each_get_the_edit_of_their_own_picture_and_seed(
    visitors: int, address: str, system: System, tmp_path: Path
) -> None:
    paths = [saved(picture(number), tmp_path / f"{number}.png") for number in range(visitors)]

    def come(number: int) -> bytes:
        visit = Visit(address)
        shown, status = visit.edit(paths[number], f"make the shape number {number} blue", seed=number)
        assert "Done" in status, status
        with visit.archive(shown) as archive:
            return archive.read("edited/edited.png")

    with ThreadPoolExecutor(visitors) as pool:
        found = list(pool.map(come, range(visitors)))
    expected = [
        directly(system, picture(number), f"make the shape number {number} blue", number) for number in range(visitors)
    ]
    assert [number for number in range(visitors) if found[number] != expected[number]] == []
    assert len(set(found)) == visitors


REFUSED = {
    "text": (b"this is text", {}, "Picture: this is no picture that can be read"),
    "long": (None, {"instruction": "red " * 3_000}, "12,000 characters and at most 2,000"),
    "empty": (None, {"instruction": " "}, "“Instruction”: expected words"),
    "steps": (None, {"steps": 100_000}, "num_steps: 100,000 is more than the page takes"),
    "seed": (None, {"seed": -3}, "-3 is less than"),
    "results": (None, {"count": 500}, "500"),
    "side": (None, {"resolution": 50_000}, "Resolution: 50000"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_said_and_the_page_goes_on(name: str, visit: Visit, tmp_path: Path) -> None:
    data, given, said = REFUSED[name]
    path = tmp_path / "sent.png"
    path.write_bytes(data or encoded(picture(1)))
    given = {"instruction": "make it night"} | given
    try:
        _, status = visit.edit(path, **given)
    except RefusedError as error:  # limits of a component are Gradio's to say
        status = str(error)
    assert said in html.unescape(status)
    assert str(tmp_path) not in status
    shown, status = visit.edit(saved(picture(2), tmp_path / "good.png"), "make it night")
    assert "Done" in status
    assert shown


def test_what_is_typed_is_shown_as_text(visit: Visit, tmp_path: Path) -> None:
    typed = "<img src=x onerror=alert(1)> ${alert(1)} {{value}} `x`"
    shown, _ = visit.edit(saved(picture(1), tmp_path / "a.png"), typed)
    assert "<img src=x" not in shown
    assert not set("${}`") & set(shown)
    assert typed in html.unescape(shown)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "visits/../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "file:///etc/passwd",
    ],
)
def test_no_file_but_a_visits_own_can_be_read(path: str, address: str, handlers: Handlers) -> None:
    for start in ("", f"{handlers.root}/visits/"):
        answer = httpx.get(f"{address}gradio_api/file={start}{path}", timeout=PATIENCE)
        assert answer.status_code in (403, 404), (start, path, answer.text[:200])


@pytest.mark.parametrize(
    "place", ["{here}/a.png", "../../../..{here}/a.png", "file://{here}/a.png", "http://127.0.0.1:9/a.png"]
)
def test_no_picture_of_the_server_can_be_edited(place: str, visit: Visit, tmp_path: Path) -> None:
    saved(picture(1), tmp_path / "a.png")
    with pytest.raises(RefusedError):
        visit.edit_file(place.format(here=tmp_path), "make it night")


def test_no_file_of_the_server_can_be_attached(visit: Visit, tmp_path: Path) -> None:
    attached = [{"path": str(saved(picture(1), tmp_path / "a.png")), "meta": {"_type": "gradio.FileData"}}]
    values = [None, "make it night", "", attached, ["tiny_instruction"], 0, 1, None, True, 1, 2.5, 1.5, "instruction"]
    with pytest.raises(RefusedError):
        visit.call("edit", values)


def test_files_that_are_too_large_do_not_even_arrive(address: str) -> None:
    large = {"files": ("large.png", b"\0" * (21 * 2**20), "image/png")}
    answer = httpx.post(f"{address}gradio_api/upload", files=large, timeout=PATIENCE)
    assert answer.status_code == 413, answer.text


def test_other_sites_cannot_make_a_visitors_browser_edit(address: str) -> None:
    headers = {"origin": "https://elsewhere.example"}
    answer = httpx.options(
        f"{address}gradio_api/queue/join",
        headers={**headers, "access-control-request-method": "POST"},
        timeout=PATIENCE,
    )
    assert "access-control-allow-origin" not in answer.headers

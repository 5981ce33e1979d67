"""What the page shows of an edit, and that the command below it makes the same picture, bit for bit."""

import json
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edit
from mmig.app.asking import EditRequest
from mmig.app.examples import Example, Examples, png
from mmig.app.results import Part, Result, make_result, marked
from mmig.app.systems import System, open_systems
from tests.mmig.app.conftest import CPU, picture

FAST = {"num_steps": 2}


@pytest.fixture(scope="module")
def writer() -> System:
    """An untrained MMIG on the tiny backbones: it writes a description, and says where it looked."""
    return open_systems(["configs/demo/stage1.yaml"], CPU)[0]


def made(system: System, request: EditRequest, source: Image.Image, folder: Path, examples: Examples) -> Result:
    given = folder / "given"
    given.mkdir(parents=True, exist_ok=True)
    (given / "source.png").write_bytes(png(source))
    return make_result(system, request, given, folder / "result", examples)


def run_command(result: Result, root: Path, place: Path, patch: pytest.MonkeyPatch) -> bytes:
    """Unpack the archive and run its command there, as a visitor does."""
    place.mkdir()
    (place / "configs").symlink_to(root / "configs")
    with zipfile.ZipFile(result.archive) as archive:
        archive.extractall(place)
    patch.chdir(place)
    words = shlex.split((place / "edited" / "command.txt").read_text())
    assert words[:2] == ["python", "edit.py"]
    edit.main(words[2:])
    return (place / "edited" / "again.png").read_bytes()


def test_an_edit_comes_with_verdict_difference_and_a_command_that_repeats_it(
    system: System,
    example: Example,
    examples: Examples,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = EditRequest(example.instruction, picture="source.png")
    assert example.picture is not None
    result = made(system, request, example.picture, tmp_path, examples)
    assert result.verdict["success"] == result.verdict["preservation"] == 1
    assert result.notes == ()
    with Image.open(result.edited) as edited, Image.open(result.difference) as difference:
        before, after = (np.asarray(image, dtype=float) for image in (example.picture, edited))
        expected = np.abs(before - after).mean(2) * 255 / 128
        assert np.abs(np.asarray(difference, dtype=float) - expected.clip(0, 255)).max() <= 0.51
    assert run_command(result, root, tmp_path / "again", monkeypatch) == result.edited.read_bytes()
    facts = json.loads((tmp_path / "again" / "edited" / "edit.json").read_text())
    assert (facts["instruction"], facts["seed"], facts["system"]) == (example.instruction, 0, "tiny_instruction")


def test_an_edit_with_attention_and_other_settings_is_repeated_too(
    writer: System,
    example: Example,
    examples: Examples,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = EditRequest(
        "-- make it night; $HOME",
        picture="source.png",
        seed=5,
        attention=True,
        settings={**FAST, "guidance_scale": 4.5},
    )
    assert example.picture is not None
    result = made(writer, request, example.picture, tmp_path, examples)
    assert result.is_written
    assert result.maps
    for number in range(len(result.maps)):
        with Image.open(result.folder / f"map{number}.png") as drawn:
            assert drawn.size == (256, 256)
    shown = [part for part in result.description if part.map is not None]
    assert [part.text.lower() for part in shown] == [result.maps[part.map].lower() for part in shown]
    assert run_command(result, root, tmp_path / "again", monkeypatch) == result.edited.read_bytes()
    assert (tmp_path / "again/edited/attention.png").read_bytes() == (result.folder / "attention.png").read_bytes()


def test_attention_changes_no_bit_of_the_edit(
    writer: System, example: Example, examples: Examples, tmp_path: Path
) -> None:
    assert example.picture is not None
    with_it, without = (
        made(
            writer,
            EditRequest("make it night", picture="source.png", attention=attention, settings=FAST),
            example.picture,
            tmp_path / str(attention),
            examples,
        ).edited.read_bytes()
        for attention in (True, False)
    )
    assert with_it == without


def test_another_instruction_is_judged_by_what_it_asks_for_and_another_picture_not_at_all(
    system: System, example: Example, examples: Examples, tmp_path: Path
) -> None:
    assert example.picture is not None
    request = EditRequest("remove the orange square", picture="source.png", settings=FAST)
    assert made(system, request, example.picture, tmp_path / "a", examples).verdict.keys() >= {"success"}
    assert made(system, request, picture(3), tmp_path / "b", examples).verdict == {}
    vague = EditRequest("surprise me", picture="source.png", settings=FAST)
    assert made(system, vague, example.picture, tmp_path / "c", examples).verdict == {}


def test_what_a_system_does_not_read_is_left_out_and_said(
    system: System, example: Example, examples: Examples, tmp_path: Path
) -> None:
    assert example.picture is not None
    request = EditRequest("x", response="a red ball", picture="source.png", settings=FAST)
    result = made(system, request, example.picture, tmp_path, examples)
    assert result.notes == ("It reads no description.",)
    assert "--response" not in result.command


def test_words_are_marked_once_and_never_inside_one_another() -> None:
    parts = marked("a red square and a square", ["square", "red square", "and", "moon"])
    assert parts == (Part("a red "), Part("square", 0), Part(" "), Part("and", 2), Part(" a square"))
    assert "".join(part.text for part in parts) == "a red square and a square"
    assert marked("", ["a"]) == ()

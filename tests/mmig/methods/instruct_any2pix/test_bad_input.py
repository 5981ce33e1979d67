"""edit.py with odd sounds and pictures: a defined reading, or one line."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import edit
from mmig.evaluation.opening import open_checkpoint
from mmig.methods.instruct_any2pix.editor import Any2PixSampling
from mmig.methods.instruct_any2pix.export import open_editor
from mmig.methods.instruct_any2pix.refiner import Refiner
from tests.mmig.methods.instruct_any2pix.support import build_refiner, language


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported editor, pictures and sounds."""
    root = tmp_path_factory.mktemp("odd")
    sampling = Any2PixSampling(num_steps=2, guidance_scale=2.0, max_new_tokens=2)
    language(decoder=True, sampling=sampling).export(root / "editor", {})
    draw = np.random.default_rng(0)
    for name, values, rate in (
        ("silence", np.zeros(16_000), 16_000),
        ("fast", draw.uniform(-0.5, 0.5, (96_000, 2)), 96_000),
        ("long", np.zeros(8_000 * 600), 8_000),
    ):
        soundfile.write(root / f"{name}.wav", values, rate)
    (root / "broken.wav").write_bytes(b"RIFF nothing WAVE")
    for name, colour in (("red", "red"), ("same", "red")):
        Image.new("RGB", (64, 48), colour).save(root / f"{name}.png")
    return root


def run(folder: Path, instruction: str, *attached: str) -> Path:
    out = folder / "out.png"
    out.unlink(missing_ok=True)
    options = [word for name in attached for word in ("--attach", f"{_kind(name)}={folder / name}")]
    edit.main(["--checkpoint", str(folder / "editor"), "--instruction", instruction, "--out", str(out), *options])
    return out


def _kind(name: str) -> str:
    return "audio" if name.endswith("wav") else "image"


@pytest.mark.parametrize("sound", [pytest.param("silence.wav", marks=pytest.mark.slow), "fast.wav"])
def test_silence_and_a_stereo_sound_of_96_khz_are_heard(folder: Path, sound: str):
    with Image.open(run(folder, "add <audio:0> to <image:1>", sound, "red.png")) as picture:
        assert picture.size == (64, 64)


@pytest.mark.parametrize(
    ("sound", "words"),
    [("long.wav", "expected at most audio_seconds=10, found 600 seconds"), ("broken.wav", "--attach")],
)
def test_ten_minutes_of_sound_and_a_broken_file_are_one_line(folder: Path, sound: str, words: str):
    with pytest.raises(SystemExit) as caught:
        run(folder, "add <audio:0> to <image:1>", sound, "red.png")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_picture_a_new_one_is_drawn_and_of_two_equal_ones_the_first_is_edited(folder: Path):
    assert run(folder, "draw <audio:0>", "silence.wav").exists()
    assert run(folder, "mix <image:0> and <image:1>", "red.png", "same.png").exists()


def test_a_placeholder_of_nothing_is_one_line(folder: Path):
    with pytest.raises(SystemExit, match=r"<audio:1> names no attached audio; --attach gives <image:0>"):
        run(folder, "add <audio:1>", "red.png")


def test_an_exported_folder_is_opened_as_an_editor_that_looks_at_pictures_in_its_own_size(folder: Path):
    opened = open_checkpoint(folder / "editor")
    assert opened.data["attachment_size"] == opened.resolution == 64


def test_a_detector_without_a_segmenter_is_refused(folder: Path):
    with pytest.raises(ValueError, match=r"^detector, segmenter: expected both or none"):
        open_editor(str(folder / "editor"), detector="somewhere")
    with pytest.raises(ValueError, match=r"^subject_decoder: expected a detector and a segmenter beside it"):
        open_editor(str(folder / "editor"), subject_decoder="somewhere")


@torch.no_grad()
def test_a_refiner_is_named_beside_the_parts(folder: Path, tmp_path: Path):
    settings = open_checkpoint(folder / "editor").editor.reader.config
    editor = open_editor(str(folder / "editor"), language=settings, refiner=build_refiner(tmp_path / "refiner"))
    (last,) = editor.afterwards
    assert isinstance(last, Refiner) and last.strength == 0.3
    assert editor.to("cpu") is editor

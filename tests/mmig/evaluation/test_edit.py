from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import edit
from mmig.editor import EditOutput, NoSettings, ResponseSource
from mmig.evaluation.pictures import editing_size, read_image
from mmig.run.edit import edit_image
from mmig.run.edit_options import EditError, configured


@dataclass
class Sampling:
    """As the methods keep their settings."""

    num_steps: int = 50
    response: ResponseSource = "given"


class Echo:
    """Returns the source; its text is the response, given or its own."""

    def __init__(self, pipeline: object = None, sampling: Sampling | None = None) -> None:
        self.pipeline, self.sampling = pipeline, sampling or Sampling()

    @property
    def response_source(self) -> ResponseSource:
        return self.sampling.response

    @property
    def required_fields(self) -> tuple[str, ...]:
        return ("source", "instruction", *(["response"] if self.response_source == "given" else []))

    def __call__(self, batch: dict, generator: Sequence[torch.Generator]) -> EditOutput:
        given = self.response_source == "given"
        return EditOutput(batch["source"], batch["response"] if given else ["written by the model"])


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.fromarray(data.chelsea()[:120, :100]).save(path)
    return path


def test_edit_writes_an_image_of_the_same_size(run_directory: Path, photograph: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    edit.main(["--checkpoint", str(run_directory), "--image", str(photograph), "--instruction", "x", "--out", str(out)])
    with Image.open(out) as edited:
        assert edited.size == (100, 120)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.png"]


def test_the_seed_decides_the_edit(run_directory: Path, photograph: Path, tmp_path: Path) -> None:
    given = ["--checkpoint", str(run_directory), "--image", str(photograph), "--instruction", "x"]
    outs = [tmp_path / f"{name}.png" for name in "abc"]
    for out, seed in zip(outs, ("0", "0", "1"), strict=True):
        edit.main([*given, "--out", str(out), "--seed", seed])
    first, second, third = (out.read_bytes() for out in outs)
    assert first == second != third


def test_an_image_of_the_models_resolution_is_not_resampled() -> None:
    pixels = data.chelsea()[:64, :64]
    edited, _ = edit_image(Echo(None, Sampling(response="none")), Image.fromarray(pixels), "x", resolution=64)
    assert np.array_equal(np.asarray(edited), pixels)


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((64, 64), 64, (64, 64)),
        ((640, 427), 512, (512, 336)),
        ((427, 640), 512, (336, 512)),
        ((4000, 1), 512, (512, 16)),
        ((50, 30), None, (48, 32)),
    ],
)
def test_the_editor_sees_the_shape_of_the_image(
    size: tuple[int, int], resolution: int | None, expected: tuple[int, int]
) -> None:
    assert editing_size(size, resolution) == expected


def test_an_oblong_image_keeps_its_size() -> None:
    edited, _ = edit_image(Echo(None, Sampling(response="none")), Image.new("RGB", (90, 60)), "x", resolution=64)
    assert edited.size == (90, 60)


def test_without_a_response_the_model_writes_it() -> None:
    editor = configured(Echo(), None, None)
    assert editor.response_source == "generated"
    assert edit_image(editor, Image.new("RGB", (64, 64)), "x")[1].texts == ["written by the model"]


def test_a_given_response_is_used() -> None:
    editor = configured(Echo(), None, "a red ball")
    assert edit_image(editor, Image.new("RGB", (64, 64)), "x", "a red ball")[1].texts == ["a red ball"]


def test_steps_change_this_editor_only() -> None:
    shared = Echo()
    assert configured(shared, 7, "x").sampling.num_steps == 7
    assert shared.sampling.num_steps == 50


def test_an_editor_that_cannot_write_a_response_asks_for_one() -> None:
    class Reader(Echo):
        response_source, required_fields = "given", ("source", "response")

    with pytest.raises(EditError, match="--response"):
        configured(Reader(None, NoSettings()), None, None)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "I;16"])
def test_images_that_are_not_rgb_are_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new(mode, (20, 10)).save(path)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "no.png"], "--image no.png: no such file"),
        (["--image", "README.md"], "--image README.md: cannot be read as an image"),
        (["--out", "edited"], "--out edited: expected an image suffix"),
        (["--checkpoint", "no/run"], "no checkpoint at no/run"),
        (["--device", "banana"], "--device banana: cannot be used"),
        (["--device", "cuda:99"], "--device cuda:99: cannot be used"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    options: list[str], message: str, run_directory: Path, photograph: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    out = photograph.with_name("out.png")
    given = ["--checkpoint", str(run_directory), "--image", str(photograph), "--instruction", "x", "--out", str(out)]
    with pytest.raises(SystemExit, match=message):
        edit.main([*given, *options])
    assert not out.exists()

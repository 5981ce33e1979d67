"""edit.py without a run, without a picture, and with pictures and sounds attached."""

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import edit
from mmig.editor import EditOutput, NoSettings
from mmig.run.edit_options import EditError, check_given
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from tests.tiny_fixtures import build_stable_diffusion

OWN = "tests.mmig.evaluation.test_edit_options"


class Collage:
    """Draws the first attached picture; its text says what came with it."""

    sampling = NoSettings()
    required_fields: tuple[str, ...] = ("instruction", "attachment_images")
    optional_fields: tuple[str, ...] = ("attachment_audio",)
    response_source = "none"

    def __call__(self, batch: dict[str, Any], generator: Sequence[torch.Generator]) -> EditOutput:
        size = batch["source"].shape[2:]
        first = batch["attachment_images"][:, 0]
        lengths = batch["attachment_audio_samples"][0].tolist()
        said = f"{batch['attachment_kinds'][0]} {batch['attachment_words'][0]} {lengths} {list(first.shape[2:])}"
        return EditOutput(torch.nn.functional.interpolate(first, size), [said])


class Needy(Collage):
    """Needs both kinds."""

    required_fields = ("attachment_images", "attachment_audio")


@dataclass
class Drawing:
    """What can be set."""

    num_steps: int = 3


class Drawer:
    """Draws a grey picture of the size that it is given."""

    required_fields: tuple[str, ...] = ("target_caption",)
    response_source = "given"
    resolution: int | None = None

    def __init__(self, resolution: int | None = None) -> None:
        self.resolution, self.sampling = resolution, Drawing()

    def __call__(self, batch: dict[str, Any], generator: Sequence[torch.Generator]) -> EditOutput:
        return EditOutput(torch.zeros_like(batch["target"]), batch["target_caption"])


class CollageModule(TrainingModule):
    """A run whose editor takes attachments."""

    def __init__(self) -> None:
        super().__init__(OptimizerConfig(lr=1.0), {"nothing": 1.0})
        self.weight = nn.Parameter(torch.ones(1))

    def make_pipeline(self) -> Collage:
        """The collage."""
        return Collage()


def config(folder: Path, name: str, **arguments: Any) -> list[str]:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"editor": {"class_path": f"{OWN}.{name}", "init_args": arguments}}))
    return ["--config", str(path)]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A red and a blue picture, a second of silence, and something else."""
    Image.new("RGB", (40, 20), "red").save(tmp_path / "red.png")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "blue.png")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * 16_000))
    (tmp_path / "notes.png").write_text("no picture")
    return tmp_path


def options(files: Path, *attached: str) -> list[str]:
    return [word for name in attached for word in ("--attach", name.replace("=", f"={files}/"))]


def test_a_method_that_draws_needs_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.png")
    drawer = config(tmp_path, "Drawer")
    edit.main([*drawer, "--instruction", "a red ball", "--resolution", "50", "--out", out, "--steps", "2"])
    assert Image.open(out).size == (48, 48) and Image.open(out).getpixel((0, 0)) == (128, 128, 128)
    assert "response (given): a red ball" in capsys.readouterr().out
    edit.main([*drawer, "--instruction", "x", "--response", "a blue ball", "--resolution", "64", "--out", out])
    assert "response (given): a blue ball" in capsys.readouterr().out


def test_it_draws_at_the_resolution_of_its_training(tmp_path: Path) -> None:
    out = str(tmp_path / "out.png")
    edit.main([*config(tmp_path, "Drawer", resolution=80), "--instruction", "x", "--out", out])
    assert Image.open(out).size == (80, 80)


def test_a_text_to_image_unet_draws_without_a_run(tmp_path: Path) -> None:
    path = tmp_path / "draw.yaml"
    arguments = {"path": str(build_stable_diffusion(tmp_path / "sd")), "sampling": {"num_steps": 2}}
    editor = {"class_path": "mmig.methods.latent_diffusion.pipeline.open_editor", "init_args": arguments}
    path.write_text(yaml.safe_dump({"editor": editor}))
    out = tmp_path / "out.png"
    given = ["--config", str(path), "--instruction", "a red ball", "--out", str(out)]
    edit.main(given)
    assert Image.open(out).size == (64, 64)  # what its UNet was made for
    edit.main([*given, "--resolution", "32"])
    assert Image.open(out).size == (32, 32)


def test_attachments_reach_the_editor_in_their_order(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attached = options(files, "image=red.png", "audio=sound.wav", "image=blue.png")
    instruction = "a <image:0> ball beside <image:2>, loud as <audio:1>"
    out = str(files / "out.png")
    given = ["--instruction", instruction, "--resolution", "32", "--out", out]
    edit.main([*config(files, "Collage"), *attached, *given])
    assert Image.open(out).getpixel((5, 5)) == (255, 0, 0)
    said = capsys.readouterr().out
    assert "['image', 'audio', 'image'] [(12, 16), None, None] [0, 16000, 0] [224, 224]" in said
    assert instruction[12:16] == "ball"


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tiff"])
def test_attached_pictures_may_have_the_formats_of_a_source(
    files: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 20), "red").save(files / f"red.{suffix}")
    out = str(files / "out.png")
    given = ["--instruction", "x", "--resolution", "32", "--out", out]
    edit.main([*config(files, "Collage"), *options(files, f"image=red.{suffix}"), *given])
    assert Image.open(out).getpixel((5, 5)) == (255, 0, 0)


def test_the_settings_of_the_training_data_decide_the_tensors(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = files / "run"
    (run / "checkpoints").mkdir(parents=True)
    model = {"class_path": f"{OWN}.CollageModule", "init_args": {}}
    data = {"class_path": "datamodules.shard_data.ShardData", "init_args": {"attachment_size": 24, "resolution": 48}}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    checkpoint = {"state_dict": {"weight": torch.zeros(1)}, "version": "0.2.0", "step": 1, "backbones": {}}
    torch.save(checkpoint, run / "checkpoints" / "step-00000001.ckpt")
    out = str(files / "out.png")
    attached = options(files, "image=red.png")
    edit.main(["--checkpoint", str(run), *attached, "--instruction", "x", "--out", out])
    assert Image.open(out).size == (48, 48)
    assert "[24, 24]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("editor", "given", "message"),
    [
        ("Drawer", [], "--resolution: nothing says how large the picture is to be"),
        ("Drawer", ["--image", "red.png"], "--image: Drawer draws without a picture; leave it out"),
        ("Drawer", ["--attach", "image=red.png"], "--attach image=FILE: Drawer takes no attached image; leave it out"),
        ("Drawer", ["--attach", "audio=sound.wav"], "--attach audio=FILE: Drawer takes no attached audio"),
        ("Drawer", ["--sampling", "steps=2"], "--sampling steps=2: expected NAME=VALUE with one of num_steps"),
        ("Drawer", ["--layered"], "--layered: Drawer does not edit in layers"),
        ("Drawer", ["--layered", "--mask", "red.png"], "--mask: it says where the object is in --image, and none is"),
        ("Drawer", ["--no-ema"], "--no-ema: only a run has an average of its weights"),
        ("Collage", [], "--attach image=FILE: Collage needs an attached image, and none is given"),
        ("Collage", ["--attach", "image=red.png", "--response", "x"], "--response: Collage reads no description"),
        ("Collage", ["--attach", "image=red.png", "--steps", "2"], "--steps: Collage has no denoising steps to set"),
        (
            "Needy",
            ["--attach", "image=red.png"],
            "--attach audio=FILE: Needy needs an attached audio, and none is given",
        ),
        ("Collage", ["--attach", "red.png"], "--attach red.png: expected KIND=FILE, of the kinds image, audio"),
        ("Collage", ["--attach", "video=red.png"], "--attach video=red.png: expected KIND=FILE"),
        ("Collage", ["--attach", "image=no.png"], "--attach image=no.png: no such file"),
        ("Collage", ["--attach", "image=notes.png"], "--attach image .*notes.png: cannot be read as an image"),
        ("Collage", ["--attach", "image=red.png", "--attach", "audio=red.png"], r"--attach: .*attachments\[1\]"),
        ("Collage", ["--attach", "image=red.png"] * 5, "--attach: .*at most max_attachments=4"),
        (
            "Collage",
            ["--attach", "image=red.png", "--instruction", "a <image:1> dog"],
            r"--instruction: <image:1> names no attached image; --attach gives <image:0>",
        ),
        (
            "Collage",
            ["--attach", "image=red.png", "--instruction", "a <audio:0> dog"],
            r"--instruction: <audio:0> names no attached audio; --attach gives <image:0>",
        ),
        ("Drawer", ["--instruction", "a <image:0> dog"], "names no attached image; --attach gives nothing"),
        ("Missing", [], "cannot load"),
    ],
)
def test_what_does_not_fit_is_one_line(
    editor: str, given: list[str], message: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    resolution = [] if message.startswith("--resolution") else ["--resolution", "32"]
    with pytest.raises(SystemExit, match=message) as stopped:
        edit.main([*config(files, editor), "--instruction", "x", "--out", "out.png", *resolution, *given])
    assert str(stopped.value).startswith("error: ") and "\n" not in str(stopped.value)
    assert not (files / "out.png").exists()


def test_a_method_that_edits_says_that_it_needs_a_picture(run_directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    with pytest.raises(SystemExit, match="--image: NoisyCopy edits a picture, and none is given"):
        edit.main(["--checkpoint", str(run_directory), "--instruction", "x", "--out", str(out)])


@pytest.mark.parametrize("given", [[], ["--checkpoint", "a", "--config", "b"]])
def test_there_is_one_thing_to_edit_with(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        edit.main([*given, "--instruction", "x", "--out", "out.png"])
    assert "--checkpoint" in capsys.readouterr().err


def test_an_editor_by_a_description_of_the_goal_is_not_given_the_instruction_for_one() -> None:
    class Editor(Drawer):
        required_fields = ("source", "target_caption")

    with pytest.raises(EditError, match="--response: Editor edits by a description of the goal, and none is given"):
        check_given(Editor(), True, None, [])
    check_given(Editor(), True, "a red ball", [])

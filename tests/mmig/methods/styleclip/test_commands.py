"""edit.py with the configurations of the two ways that train nothing."""

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import edit
from mmig.methods.styleclip.__main__ import main
from tests.mmig.methods.styleclip.reference import W_DIM, random_state
from tests.mmig.methods.styleclip.support import CLIP

QUICK = ["--sampling", "text=instruction", "inversion_steps=2", "inversion_limit=9"]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published file, converted by the command."""
    folder = tmp_path_factory.mktemp("published")
    torch.save({"g_ema": random_state(), "latent_avg": torch.zeros(W_DIM)}, folder / "file.pt")
    assert main(["convert-generator", str(folder / "file.pt"), "--out", str(folder / "generator")]) == 0
    return folder / "generator"


def edited(name: str, folder: Path, sampling: list[str], **parts: str) -> None:
    """Edit a picture by a configuration of the small world, around other parts."""
    config = yaml.safe_load(Path(f"configs/styleclip/tinyworld_{name}.yaml").read_text(encoding="utf-8"))
    config["editor"]["init_args"] |= {"clip": CLIP, **parts}
    (folder / "editor.yaml").write_text(yaml.safe_dump(config))
    Image.new("RGB", (48, 48), "red").save(folder / "picture.png")
    arguments = ["--config", str(folder / "editor.yaml"), "--image", str(folder / "picture.png"), "--device", "cpu"]
    arguments += ["--instruction", "a red circle", "--out", str(folder / "out.png"), *QUICK, *sampling]
    edit.main(arguments)


def test_latent_optimisation_edits_with_a_published_generator(generator: Path, tmp_path: Path) -> None:
    edited("latent", tmp_path, ["num_steps=2"], generator=str(generator))
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (48, 48)


@pytest.fixture(scope="module")
def directions(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of that generator, measured by the command."""
    few = ["--num-codes", "20", "--num-images", "1", "--max-side", "4", "--device", "cpu", "--clip-normalise"]
    out = str(tmp_path_factory.mktemp("directions"))
    assert main(["directions", "--generator", str(generator), "--clip", CLIP, "--out", out, *few]) == 0
    return out


def test_global_directions_edit_with_a_published_generator(generator: Path, directions: str, tmp_path: Path) -> None:
    edited("directions", tmp_path, ["neutral=a circle", "beta=0"], generator=str(generator), directions=directions)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (48, 48)


def test_what_cannot_be_edited_is_said_in_one_line(generator: Path, directions: str, tmp_path: Path) -> None:
    parts = {"generator": str(generator), "directions": directions}
    with pytest.raises(SystemExit, match=r"^error: sampling.neutral: expected words for what the sources show"):
        edited("directions", tmp_path, [], **parts)
    with pytest.raises(
        SystemExit, match=r"^error: directions: .*expected config.json of measured directions, found none"
    ):
        edited("directions", tmp_path, [], **parts | {"directions": str(tmp_path / "none")})

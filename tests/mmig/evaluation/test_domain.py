"""Pictures outside of an editor's domain: what the tiny editors know, how that is measured, and how it travels."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn

from datamodules.schema import image_to_tensor
from datamodules.shards import write_shards
from datamodules.tinyworld.sample import make_sample
from mmig.backbones.diffusion import load_vae
from mmig.backbones.fingerprint import fingerprint
from mmig.diffusion.saving import DOMAIN_FILE, save_parts
from mmig.editor import autoencoder_of
from mmig.evaluation import domain
from mmig.evaluation.domain import outside
from mmig.evaluation.editors import AutoencoderCeiling, Identity
from mmig.evaluation.opening import open_config
from mmig.evaluation.turns import InTurns
from tests.tiny_diffusion import build_vae

ROOT = Path(__file__).parents[3]
TINY = ROOT / "assets/tiny/stable-diffusion"
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


@pytest.fixture(scope="module")
def editor() -> AutoencoderCeiling:
    return AutoencoderCeiling(str(TINY))


def scene(index: int, field: str = "source") -> Tensor:
    return image_to_tensor(make_sample(0, "test", index, level="plain")[field])


def photograph(name: str, side: int | None = None) -> Tensor:
    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    return image_to_tensor(image if side is None else image.resize((side, side), Image.Resampling.BICUBIC))


def test_held_out_scenes_of_the_small_world_are_inside(editor: AutoencoderCeiling) -> None:
    images = torch.stack([scene(index, field) for index in range(150) for field in ("source", "target")])
    known = domain.limit_of(editor.vae)
    share = (domain.reconstruction_errors(editor.vae, images) <= known.limit).float().mean()
    assert share >= 0.97  # of 300 images with a chance of 1 % each: below it once in a thousand


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("side", [64, None], ids=["as small", "as it is"])
def test_photographs_are_outside(editor: AutoencoderCeiling, name: str, side: int | None) -> None:
    verdict = outside(editor, photograph(name, side))
    assert verdict.is_outside
    assert verdict.error > 2 * verdict.limit


def test_noise_is_outside_at_any_size(editor: AutoencoderCeiling) -> None:
    for size in ((64, 64), (48, 80), (100, 71)):
        noise = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        assert outside(editor, noise).is_outside


def test_a_scene_is_inside_in_another_size_too(editor: AutoencoderCeiling) -> None:
    large = make_sample(0, "test", 0, level="plain")["source"].resize((256, 256), Image.Resampling.BICUBIC)
    assert not outside(editor, image_to_tensor(large)).is_outside


def test_an_error_that_is_no_number_is_outside() -> None:
    assert domain.DomainVerdict(float("nan"), 1.0).is_outside


def test_an_editor_without_an_autoencoder_has_no_verdict() -> None:
    assert outside(Identity(), scene(0)) is None


def test_an_autoencoder_of_which_nothing_was_measured_has_no_verdict(tmp_path: Path) -> None:
    build_vae(tmp_path / "vae")
    assert outside(AutoencoderCeiling(str(tmp_path / "vae")), scene(0)) is None


def test_a_limit_of_other_weights_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_vae(tmp_path / "vae")
    shutil.copy(TINY / "vae" / DOMAIN_FILE, tmp_path / "vae")
    assert outside(AutoencoderCeiling(str(tmp_path / "vae")), scene(0)) is None
    assert "was measured of other weights" in caplog.text


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    shutil.copytree(TINY / "vae", tmp_path / "vae")
    (tmp_path / "vae" / DOMAIN_FILE).write_text('{"limit": 1}')
    with pytest.raises(ValueError, match=r"domain.json: expected what `python -m mmig.evaluation.domain` writes"):
        outside(AutoencoderCeiling(str(tmp_path / "vae")), scene(0))


def test_in_bfloat16_the_verdict_is_the_same() -> None:
    vae = load_vae(TINY, dtype="bfloat16")

    class Half:
        pass

    editor: Any = Half()
    editor.vae = vae
    assert outside(editor, photograph("coffee", 64)).is_outside
    assert not outside(editor, scene(0)).is_outside


def test_every_tiny_editor_says_its_autoencoder() -> None:
    opened = open_config(ROOT / "configs/editors/tiny_instruction.yaml").editor
    assert isinstance(autoencoder_of(opened), nn.Module)
    assert outside(opened, photograph("coffee", 64)).is_outside
    assert autoencoder_of(InTurns(opened)) is autoencoder_of(opened)


def test_what_was_measured_goes_with_the_autoencoder_and_changes_no_fingerprint(tmp_path: Path) -> None:
    save_parts(tmp_path, {"vae": load_vae(TINY)})
    assert (tmp_path / "vae" / DOMAIN_FILE).read_bytes() == (TINY / "vae" / DOMAIN_FILE).read_bytes()
    assert outside(AutoencoderCeiling(str(tmp_path)), scene(0)) is not None
    before = fingerprint(tmp_path, "vae")
    (tmp_path / "vae" / DOMAIN_FILE).unlink()
    assert fingerprint(tmp_path, "vae") == before


@pytest.fixture
def data(tmp_path: Path) -> Path:
    samples = [make_sample(0, "train", index, level="plain") for index in range(260)]
    write_shards(samples, tmp_path / "train", samples_per_shard=100)
    text = f"data: {{class_path: datamodules.shard_data.ShardData, init_args: {{train: {tmp_path / 'train'}}}}}"
    (tmp_path / "data.yaml").write_text(text)
    return tmp_path / "data.yaml"


def test_the_command_writes_the_limit_beside_the_weights(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(TINY / "vae", tmp_path / "vae")
    (tmp_path / "vae" / DOMAIN_FILE).unlink()
    domain.main(["--vae", str(tmp_path / "vae"), "--data", str(data), "--limit", "256", "--device", "cpu"])
    written = json.loads((tmp_path / "vae" / DOMAIN_FILE).read_text())
    shipped = json.loads((TINY / "vae" / DOMAIN_FILE).read_text())
    assert written["num_images"] == 512 and written["resolution"] == 64 and written["data"] == "data.yaml"
    assert written["median"] == pytest.approx(shipped["median"], rel=0.1)
    assert written["probe"] == pytest.approx(shipped["probe"], rel=0.01)
    assert "limit" in capsys.readouterr().out
    assert outside(AutoencoderCeiling(str(tmp_path / "vae")), photograph("coffee", 64)).is_outside


def test_too_few_images_are_refused_in_one_line(data: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: --limit: expected samples with at least 500 images, found 32"):
        domain.main(["--vae", str(TINY), "--data", str(data), "--limit", "16", "--device", "cpu"])

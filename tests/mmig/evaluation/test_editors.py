"""Editors that no method trains: identity, the autoencoder's ceiling, folders of ready-made pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmig.backbones.diffusion import load_vae
from mmig.editor import check_fields
from mmig.evaluation.editors import AutoencoderCeiling, FolderOfPictures, Identity
from mmig.evaluation.pictures import PictureError
from tests.mmig.metrics.support import random_batch
from tests.tiny_fixtures import build_stable_diffusion

NOBODY: Any = None


def picture(path: Path, value: int, size: tuple[int, int] = (64, 64)) -> None:
    Image.new("RGB", size, (value, value, value)).save(path)


def test_identity_returns_the_source() -> None:
    batch: Any = random_batch(3)
    output = Identity()(batch, NOBODY)
    assert torch.equal(output.images, batch["source"]) and output.texts == ["", "", ""]


def test_the_ceiling_is_the_reconstructed_target(tmp_path: Path) -> None:
    folder = build_stable_diffusion(tmp_path)
    batch: Any = random_batch(2)
    vae = load_vae(folder)
    expected = vae.decode(vae.encode(batch["target"]).latent_dist.mode()).sample.clamp(-1, 1)
    found = AutoencoderCeiling(str(folder))(batch, torch.Generator()).images
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_pictures_are_found_by_key_and_seed_and_take_the_size_of_the_samples(tmp_path: Path) -> None:
    batch: Any = random_batch(3)
    batch["key"] = ["a", "b/c", "d%"]
    picture(tmp_path / "a.png", 255)
    picture(tmp_path / "a.1.webp", 0, (128, 128))
    picture(tmp_path / "b%2Fc.1.JPG", 0)
    picture(tmp_path / "d%25.png", 0)
    (tmp_path / "notes.md").write_text("no picture")
    (tmp_path / "texts.json").write_text(json.dumps({"a.1": "a black ball", "b%2Fc.1": "nothing"}))
    editor = FolderOfPictures(tmp_path)
    assert (editor.response_source, editor.seeds) == ("generated", [0, 1])
    check_fields(editor, batch)
    first, second = (editor.at_seed(seed)(batch, NOBODY) for seed in (0, 1))
    assert first.extras["missing"] == [False, True, False] and second.extras["missing"] == [False, False, True]
    assert (first.images[0] == 1).all() and first.images[1].isnan().all() and (first.images[2] == -1).all()
    assert second.images.shape == (3, 3, 64, 64) and (second.images[0] == -1).all()
    assert (first.texts, second.texts) == (["", "", ""], ["a black ball", "nothing", ""])


def test_a_picture_without_texts_has_no_response(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 255)
    assert FolderOfPictures(tmp_path).response_source == "none"


def test_pixels_come_as_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "sample0-000.png")
    found = FolderOfPictures(tmp_path)(random_batch(1), NOBODY).images[0]
    assert np.array_equal(((found + 1) / 2 * 255).round().byte().permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "no such folder"),
        ({}, "no picture there; expected KEY.png"),
        ({"a.png": 1, "a.0.jpg": 1}, "a.0.jpg and a.png are both the picture of 'a' under seed 0"),
        ({"a.png": 1, "texts.json": "{"}, "texts.json: is not JSON"),
        ({"a.png": 1, "texts.json": '["a"]'}, "texts.json: expected one text a picture"),
        ({"a.png": 1, "texts.json": '{"a": 1}'}, "texts.json: expected one text a picture"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(files: dict[str, Any] | None, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    if files is not None:
        folder.mkdir()
    for name, content in (files or {}).items():
        if isinstance(content, str):
            (folder / name).write_text(content)
        else:
            picture(folder / name, content)
    with pytest.raises(PictureError, match=message) as refused:
        FolderOfPictures(folder)
    assert "\n" not in str(refused.value)


def test_a_seed_that_no_picture_has_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    with pytest.raises(PictureError, match="no picture of seed 1, found seeds 0"):
        FolderOfPictures(tmp_path).at_seed(1)


@pytest.mark.parametrize("broken", [b"no picture", b""])
def test_a_picture_that_cannot_be_read_is_named(broken: bytes, tmp_path: Path) -> None:
    (tmp_path / "sample0-000.png").write_bytes(broken)
    with pytest.raises(PictureError, match=r"--images .*sample0-000.png: cannot be read as an image"):
        FolderOfPictures(tmp_path)(random_batch(1), NOBODY)


def test_a_picture_of_another_shape_is_refused_and_not_squashed(tmp_path: Path) -> None:
    picture(tmp_path / "sample0-000.png", 1, (128, 96))
    with pytest.raises(PictureError, match=r"expected the shape of the sample's images, 64x64 or larger .* 128x96"):
        FolderOfPictures(tmp_path)(random_batch(1), NOBODY)

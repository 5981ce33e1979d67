"""CLIP's image side against the whole CLIP and its processor."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.schema import image_to_tensor
from mmig.backbones.clip_image import CLIP_MEAN, CLIP_STD, load_clip_image
from mmig.backbones.parts import BackboneError
from tests.tiny_fixtures import build_clip_vision
from tests.tiny_saving import seeded

SIDE = 32


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with both towers, in the layout of openai/clip-vit-large-patch14."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder, blocks = tmp_path_factory.mktemp("clip"), {"num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"hidden_size": 40, "intermediate_size": 80, "image_size": SIDE, "patch_size": 16, "projection_dim": 24}
    text = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 99, "projection_dim": 24}
    config = CLIPConfig(vision_config=vision | blocks, text_config=text | blocks, projection_dim=24)
    with seeded(0):
        CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_embeddings_are_those_of_the_whole_clip(whole: Path) -> None:
    from transformers import CLIPImageProcessor, CLIPModel

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    pixels = CLIPImageProcessor.from_pretrained(whole)(picture, return_tensors="pt")["pixel_values"]
    found = CLIPModel.from_pretrained(whole).get_image_features(pixel_values=pixels)
    expected = found if isinstance(found, torch.Tensor) else found.pooler_output
    encoder = load_clip_image(whole)
    assert (encoder.width, encoder.projects, encoder.mean, encoder.std) == (24, True, CLIP_MEAN, CLIP_STD)
    torch.testing.assert_close(encoder(image_to_tensor(picture)[None]), expected, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@torch.no_grad()
def test_pictures_of_any_shape_are_squashed(whole: Path) -> None:
    encoder, left_half = load_clip_image(whole), torch.ones(1, 3, 40, 100)
    left_half[..., :50] = -1
    square = torch.ones(1, 3, SIDE, SIDE)
    square[..., : SIDE // 2] = -1
    torch.testing.assert_close(encoder(left_half), encoder(square), rtol=0.1, atol=0.02)


@torch.no_grad()
def test_it_is_written_and_read_again(whole: Path, tmp_path: Path) -> None:
    pictures = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    for projected in (True, False):
        encoder = load_clip_image(whole, projected=projected)
        encoder.mean = (0.1, 0.2, 0.3)
        encoder.save_pretrained(tmp_path / str(projected))
        again = load_clip_image(tmp_path / str(projected), projected=projected)
        assert again.pixels == encoder.pixels and again.width == (24 if projected else 40)
        assert torch.equal(again(pictures), encoder(pictures))


def test_a_tower_without_projection_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"1 missing \(visual_projection\.weight\)"):
        load_clip_image(build_clip_vision(tmp_path / "tower"))

"""CLIP for metrics through open_clip: local folders, built-in names, QuickGELU, long captions."""

from pathlib import Path

import open_clip
import pytest
import torch

from mmig.backbones import BackboneError
from mmig.backbones.clip import load_open_clip
from tests.tiny_fixtures import TinyBackbones


def test_a_local_folder_gives_model_tokenizer_and_constants(tiny: TinyBackbones):
    clip = load_open_clip(tiny.open_clip)
    assert (clip.image_size, clip.mean, clip.std, clip.context_length) == (64, (0.5,) * 3, (0.25,) * 3, 77)
    assert clip.model.encode_image(torch.zeros(2, 3, 64, 64)).shape == (2, 32)
    assert clip.model.encode_text(clip.tokenizer(["a red star"])).shape == (1, 32)
    assert not clip.model.training
    assert not any(weight.requires_grad for weight in clip.model.parameters())


def test_the_schema_of_open_clip_is_understood(tiny: TinyBackbones):
    ids = load_open_clip(tiny.open_clip).tokenizer(["a red star"])
    same = load_open_clip(f"local-dir:{tiny.open_clip}")
    want, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tiny.open_clip}")
    assert torch.equal(same.model.encode_text(ids), want.eval().encode_text(ids))


def test_long_captions_keep_their_end_of_text_token(tiny: TinyBackbones):
    tokenizer = load_open_clip(tiny.open_clip).tokenizer
    ids = tokenizer(["red " * 300, "star " * 300])
    assert ids.shape == (2, 77)
    assert (ids[:, -1] == ids.max()).all()
    assert not torch.equal(ids[0], ids[1])


def test_a_built_in_model_takes_a_weights_file(tmp_path: Path):
    name = "ViT-S-32-alt"
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    torch.save(model.state_dict(), tmp_path / "weights.bin")
    clip = load_open_clip(name, tmp_path / "weights.bin")
    ids = clip.tokenizer(["a photo of a dog"])
    assert torch.equal(clip.model.encode_text(ids), model.eval().encode_text(ids))
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert clip.std == pytest.approx((0.26862954, 0.26130258, 0.27577711))


def test_openai_weights_want_the_quickgelu_name():
    with pytest.raises(BackboneError, match=r"trained with QuickGELU.*use the model name ViT-L-14-quickgelu"):
        load_open_clip("ViT-L-14", "openai")


def test_other_weights_do_not_want_the_quickgelu_name():
    with pytest.raises(BackboneError, match=r"trained without QuickGELU.*use the model name RN50$"):
        from mmig.backbones.open_clip_weights import _check_activation

        _check_activation("RN50-quickgelu", "some", {"quick_gelu": True}, {"quick_gelu": False})


def test_unknown_names_and_tags_are_named():
    with pytest.raises(BackboneError, match="no model 'ViT-X-14'"):
        load_open_clip("ViT-X-14", "openai")
    with pytest.raises(BackboneError, match="'opanai' is no file and no pretrained tag; known tags: openai"):
        load_open_clip("ViT-L-14-quickgelu", "opanai")
    with pytest.raises(BackboneError, match="expected weights, a file or one of: openai"):
        load_open_clip("ViT-L-14-quickgelu")


def test_a_folder_with_weights_beside_is_refused(tiny: TinyBackbones):
    with pytest.raises(BackboneError, match="leave weights out"):
        load_open_clip(tiny.open_clip, "openai")

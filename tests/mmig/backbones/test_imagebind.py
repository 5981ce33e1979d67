"""ImageBind from its published layout: the vectors of the original, key by key, and one line for what does not fit."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mmig.backbones.__main__ import main
from mmig.backbones.clip_image import CLIP_MEAN, CLIP_STD
from mmig.backbones.fetch import find_references
from mmig.backbones.imagebind import load_imagebind, load_imagebind_tokenizer, text_ids
from mmig.backbones.imagebind_model import ImageBindConfig, ImageBindModel
from mmig.backbones.imagebind_sound import sound_features
from mmig.backbones.loading import num_parameters
from mmig.backbones.original_imagebind import published_names
from mmig.backbones.parts import BackboneError
from tests.tiny_imagebind import DIM, SIDE, embed_audio, embed_image, embed_text, published_state
from tests.tiny_text import write_clip_tokenizer

TEXTS = ["a red circle", "remove the blue square", " ".join(["a small green ring"] * 40)]


class Converted(NamedTuple):
    """A published file and the folder made of it."""

    file: Path
    tokenizer: Path
    state: dict[str, Tensor]
    folder: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    root = tmp_path_factory.mktemp("imagebind")
    state = published_state(write_clip_tokenizer(root / "tokenizer"))
    torch.save(state, root / "imagebind_tiny.pth")
    arguments = ["--tokenizer", str(root / "tokenizer"), "--out", str(root / "converted")]
    assert main(["convert-imagebind", str(root / "imagebind_tiny.pth"), *arguments]) == 0
    return Converted(root / "imagebind_tiny.pth", root / "tokenizer", state, root / "converted")


@pytest.fixture(scope="module")
def model(made: Converted) -> ImageBindModel:
    return load_imagebind(made.folder)


@torch.no_grad()
def test_pictures_have_the_vectors_of_the_published_layout(made: Converted, model: ImageBindModel) -> None:
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    expected = embed_image(made.state, ((images + 1) / 2 - mean) / std)
    found = model.embed_images(images)
    assert found.shape == (3, DIM) and (found[0] - found[1]).abs().max() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_texts_have_the_vectors_of_the_published_layout(made: Converted, model: ImageBindModel) -> None:
    ids = text_ids(load_imagebind_tokenizer(made.folder), TEXTS)
    assert ids.shape == (3, 77)
    padded = ids.clone()
    for row, end in zip(padded, ids.argmax(dim=-1).tolist(), strict=True):
        row[end + 1 :] = 0  # as ImageBind's own tokenizer pads
    expected = embed_text(made.state, padded)
    torch.testing.assert_close(model.embed_texts(ids, scaled=True), expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(model.embed_texts(ids), expected / 20, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.embed_texts(ids[:1, :8]), expected[:1] / 20, atol=1e-5, rtol=0)


@torch.no_grad()
def test_sounds_have_the_vectors_of_the_published_layout(made: Converted, model: ImageBindModel) -> None:
    lengths = torch.tensor([80_000, 16_000])
    sounds = torch.rand(2, 80_000, generator=torch.Generator().manual_seed(2)) - 0.5
    sounds[0, 40_000:] *= 0.01
    sounds[1, 16_000:] = 0
    expected = embed_audio(made.state, sound_features(sounds, lengths, model.config.audio_config.sounds))
    found = model.embed_sounds(sounds, lengths, scaled=True)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert found[0].norm() < 20 - 1e-3 and found[1].norm().item() == pytest.approx(20, abs=1e-3)
    unit = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(model.embed_sounds(sounds, lengths), unit, atol=1e-5, rtol=0)


@torch.no_grad()
def test_silence_short_and_absent_sounds_have_vectors_too(model: ImageBindModel) -> None:
    found = model.embed_sounds(torch.zeros(3, 32_000), torch.tensor([32_000, 10, 0]))
    assert found.isfinite().all() and torch.equal(found[1], found[2])
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))


def test_every_published_weight_comes_to_one_place_and_none_is_left(made: Converted, model: ImageBindModel) -> None:
    """A thing changed in any one entry of the file changes the weights made of it, and no others."""
    table, own = published_names(model.config), dict(model.state_dict())
    assert table.keys() == own.keys()
    used = {place.name for place in table.values()}
    assert {name for name in made.state if name not in used} == {
        "modality_preprocessors.text.mask",
        "modality_trunks.imu.blocks.0.attn.bias_k",
        "modality_preprocessors.thermal.rgbt_stem.proj.weight",
        "modality_heads.depth.2.weight",
        *(f"modality_postprocessors.{name}.1.log_logit_scale" for name in ("depth", "thermal", "imu")),
    }
    for name in used:
        total = sum(own[ours].double().sum() for ours, place in table.items() if place.name == name)
        torch.testing.assert_close(total, made.state[name].double().sum(), atol=1e-4, rtol=1e-6)


def test_the_encoder_is_frozen_and_keeps_its_length_in_half_precision(made: Converted, model: ImageBindModel) -> None:
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    half, images = load_imagebind(made.folder, dtype="bfloat16"), torch.rand(2, 3, SIDE, SIDE)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    found = half.embed_images(images)
    assert found.dtype == torch.float32 and (found * model.embed_images(images)).sum(1).min() > 0.99
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2))


def test_it_is_written_and_read_again(model: ImageBindModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = load_imagebind(tmp_path).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_the_published_sizes_are_those_of_vit_h_and_of_the_audio_tower() -> None:
    """Vision and text are OpenCLIP's ViT-H-14; audio, counted by hand: 12 blocks of 7,087,872 + 1,536, and the rest."""
    from open_clip import get_model_config
    from open_clip.model import CLIP

    with torch.device("meta"):
        published, clip = ImageBindModel(ImageBindConfig()), CLIP(**get_model_config("ViT-H-14"))
    assert published.config.embed_dim == 1024 and published.config.audio_config.num_patches == 228
    assert num_parameters(published.vision) + num_parameters(published.text) + 1 == num_parameters(clip)
    blocks, stem, head = 12 * (7_087_872 + 2 * 768), 16 * 16 * 768 + 2 * 768 + 230 * 768, 2 * 768 + 768 * 1024
    assert num_parameters(published.audio) == blocks + stem + head


def test_towers_of_two_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one for vision, text and audio, found \[1024, 1024, 512\]"):
        ImageBindConfig(audio_config={"projection_dim": 512})


def test_a_configuration_that_names_it_needs_its_tokenizer_too() -> None:
    (found,) = find_references({"model": {"imagebind": "owner/imagebind"}}, "c.yaml")
    assert [part.name for part in found.parts] == ["imagebind", "imagebind_tokenizer"]


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.__delitem__(name)


def replaced(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.__setitem__(name, value)


FAULTS = {
    "missing": (without("modality_heads.audio.0.bias"), r"found 1 missing \(modality_heads\.audio\.0\.bias\)"),
    "tower": (
        without("modality_trunks.audio.blocks.0.mlp.fc1.weight"),
        r"expected modality_trunks\.audio\.blocks\.0\.",
    ),
    "unknown": (
        replaced("modality_heads.touch.0.weight", torch.zeros(1)),
        r"1 unexpected \(modality_heads\.touch\.0\.weight\)",
    ),
    "shape": (replaced("modality_preprocessors.audio.cls_token", torch.zeros(1, 1, 32)), "1 of another shape"),
    "mask": (replaced("modality_preprocessors.text.mask", torch.zeros(77, 77)), "expected the causal mask"),
    "width": (
        replaced("modality_trunks.vision.blocks.0.mlp.fc1.weight", torch.zeros(640, 150)),
        "vision: expected heads of 80, found a width of 150",
    ),
    "space": (
        replaced("modality_heads.audio.2.weight", torch.zeros(24, 64)),
        r"expected one for vision, text and audio, found \[48, 48, 24\]",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_one_line(
    fault: str, made: Converted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = FAULTS[fault]
    state = dict(made.state)
    change(state)
    torch.save(state, tmp_path / "other.pth")
    arguments = ["--tokenizer", str(made.tokenizer), "--out", str(tmp_path / "out")]
    assert main(["convert-imagebind", str(tmp_path / "other.pth"), *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'other.pth'}: ") and said.count("\n") == 1
    assert re.search(message, said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.pth"]


def test_code_in_a_file_is_not_run(made: Converted, tmp_path: Path) -> None:
    from mmig.backbones.original_imagebind import convert_imagebind

    torch.save({"weights": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(BackboneError, match="cannot be read as weights"):
        convert_imagebind(tmp_path / "code.pth", str(made.tokenizer), tmp_path / "out")


def test_a_tokenizer_of_another_vocabulary_and_an_existing_folder_are_one_line(
    made: Converted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = dict(made.state)
    name = "modality_preprocessors.text.token_embedding.weight"
    torch.save(state | {name: state[name][:-1]}, tmp_path / "other.pth")
    arguments = ["convert-imagebind", str(tmp_path / "other.pth"), "--tokenizer", str(made.tokenizer), "--out"]
    assert main([*arguments, str(tmp_path / "out")]) == 1
    assert f"expected a tokenizer of {len(state[name]) - 1} entries" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path)]) == 1
    assert "exists already; give a new folder" in capsys.readouterr().err


def test_a_folder_of_another_model_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(BackboneError, match="expected model_type imagebind, found 'clip'"):
        load_imagebind(tmp_path)

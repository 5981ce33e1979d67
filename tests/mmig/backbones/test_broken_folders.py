"""A wrong folder, file or key is one clear BackboneError that names it; nothing is silently filled with random
numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmig.backbones import BackboneError
from mmig.backbones.blip2 import load_blip2_processor
from mmig.backbones.clip import load_clip_vision, load_open_clip
from mmig.backbones.diffusion import load_text_encoder, load_tokenizer, load_unet, load_vae
from mmig.backbones.llm import load_llm, load_llm_tokenizer
from tests.tiny_fixtures import TinyBackbones, build_llama

Copy = Callable[[Path], Path]


def _edit_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def _edit_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(BackboneError, match=r"vae: the folder .*/nowhere does not exist"):
        load_vae(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path):
    (tmp_path / "model.bin").write_text("x")
    with pytest.raises(BackboneError, match=r"model.bin is a file, expected a folder"):
        load_vae(tmp_path / "model.bin")


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_a_file_that_is_no_weights_of_ours_is_named(tmp_path: Path, name: str):
    (tmp_path / name).write_text("x")
    with pytest.raises(BackboneError, match=rf"{name}: a file or run that cannot serve as a backbone: cannot read"):
        load_vae(tmp_path / name)


def test_a_folder_without_the_part_says_what_was_expected_and_found(tiny: TinyBackbones):
    with pytest.raises(BackboneError, match=r"expected config.json of a vae, .* in its subfolder vae; found .*unet"):
        load_vae(tiny.instruct_pix2pix)


def test_another_part_in_the_folder_is_named(tiny: TinyBackbones):
    with pytest.raises(BackboneError, match=r"unet/config.json: expected _class_name AutoencoderKL, found 'UNet2D"):
        load_vae(tiny.stable_diffusion / "unet")
    with pytest.raises(BackboneError, match=r"config.json: expected model_type .*llama, found 'clip_vision_model'"):
        load_llm(tiny.clip_vision)
    with pytest.raises(BackboneError, match=r"config.json: expected model_type clip_vision_model or clip, .*'llama'"):
        load_clip_vision(tiny.llama)


def test_an_unreadable_config_is_named(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.stable_diffusion / "vae")
    (folder / "config.json").write_text("{")
    with pytest.raises(BackboneError, match=r"vae/config.json: expected readable JSON"):
        load_vae(folder)


def test_missing_weights_are_named(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.stable_diffusion / "vae")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"vae: expected weights .*safetensors.*found config.json"):
        load_vae(folder)


@pytest.mark.parametrize("size", [0, 1000])
def test_a_cut_weights_file_is_named(tiny: TinyBackbones, copied: Copy, size: int):
    for load, part in ((load_unet, "unet"), (load_text_encoder, "text_encoder")):
        folder = copied(tiny.stable_diffusion / part)
        (file,) = folder.glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(BackboneError, match=rf"{part}/{file.name}: .*fetch the model again"):
            load(folder)


def test_a_missing_shard_is_named(tmp_path: Path):
    folder = build_llama(tmp_path / "llama", max_shard_size="100KB")
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(BackboneError, match=rf"model.safetensors.index.json: expected {lost.name} beside it"):
        load_llm(folder)


@pytest.mark.parametrize(
    ("load", "folder", "key"),
    [
        (load_unet, "unet", "mid_block.resnets.0.conv1.weight"),
        (load_vae, "vae", "encoder.conv_in.bias"),
        (load_text_encoder, "text_encoder", "text_model.final_layer_norm.weight"),
    ],
)
def test_a_missing_key_is_an_error_with_file_and_key(
    tiny: TinyBackbones, copied: Copy, load: Callable, folder: str, key: str
):
    broken = copied(tiny.stable_diffusion / folder)
    (file,) = broken.glob("*.safetensors")
    _edit_weights(file, lambda weights: weights.pop(key))
    with pytest.raises(BackboneError, match=rf"{file.name}: .*1 missing \(.*{key.removeprefix('text_model.')}\)"):
        load(broken)


def test_missing_keys_of_the_llm_are_an_error(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.llama)
    _edit_weights(folder / "model.safetensors", lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(BackboneError, match=r"model.safetensors: .*1 missing \(lm_head.weight\)"):
        load_llm(folder)


@pytest.mark.parametrize(("load", "folder"), [(load_unet, "unet"), (load_text_encoder, "text_encoder")])
def test_an_unexpected_key_is_an_error(tiny: TinyBackbones, copied: Copy, load: Callable, folder: str):
    broken = copied(tiny.stable_diffusion / folder)
    (file,) = broken.glob("*.safetensors")
    _edit_weights(file, lambda weights: weights.update({"extra.weight": torch.zeros(2)}))
    with pytest.raises(BackboneError, match=r"1 unexpected \(extra.weight\)"):
        load(broken)


def test_a_config_of_another_width_is_an_error(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.stable_diffusion / "unet")
    _edit_json(folder / "config.json", cross_attention_dim=40)
    with pytest.raises(BackboneError, match=r"unet/diffusion_pytorch_model.safetensors: .*attn2"):
        load_unet(folder)
    folder = copied(tiny.llama)
    _edit_json(folder / "config.json", vocab_size=300)
    with pytest.raises(BackboneError, match=r"llama/model.safetensors: .*(embed_tokens|lm_head)"):
        load_llm(folder)


def test_broken_tokenizers_are_named(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.stable_diffusion / "tokenizer")
    (folder / "merges.txt").unlink()
    with pytest.raises(BackboneError, match=r"expected tokenizer.json or vocab.json \+ merges.txt"):
        load_tokenizer(folder)
    folder = copied(tiny.llama)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BackboneError, match="llama: cannot be read as a tokenizer"):
        load_llm_tokenizer(folder)
    folder = copied(tiny.blip2)
    (folder / "processor_config.json").write_text("[]")
    with pytest.raises(BackboneError, match="blip2: cannot be read as a BLIP-2 processor"):
        load_blip2_processor(folder)


def test_broken_open_clip_folders_are_named(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.open_clip)
    _edit_weights(folder / "open_clip_model.safetensors", lambda weights: weights.pop("ln_final.weight"))
    with pytest.raises(BackboneError, match=r"open_clip .*/clip: cannot be loaded: .*ln_final.weight"):
        load_open_clip(folder)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"clip: expected weights"):
        load_open_clip(folder)
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(BackboneError, match=r"expected open_clip_config.json of a open_clip"):
        load_open_clip(folder)

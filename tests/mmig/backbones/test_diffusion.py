"""Loaders of Stable Diffusion's parts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmig.backbones import BackboneError
from mmig.backbones.diffusion import (
    check_compatible,
    check_tokenizer,
    load_scheduler,
    load_text_encoder,
    load_tokenizer,
    load_unet,
    load_vae,
)
from tests.tiny_fixtures import TinyBackbones, build_text_encoder, build_unet, build_vae
from tests.tiny_text import write_clip_tokenizer

Copy = Callable[[Path], Path]


def test_parts_load_from_the_root_and_from_their_own_folder(tiny: TinyBackbones):
    root = tiny.stable_diffusion
    for load, part in ((load_vae, "vae"), (load_unet, "unet"), (load_text_encoder, "text_encoder")):
        for a, b in zip(load(root).parameters(), load(root / part).parameters(), strict=True):
            assert torch.equal(a, b)
    assert load_tokenizer(root)("a red star").input_ids == load_tokenizer(root / "tokenizer")("a red star").input_ids


def test_a_vae_turns_64_pixels_into_16_latents_and_back(tiny: TinyBackbones):
    vae = load_vae(tiny.stable_diffusion)
    latents = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mode()
    assert latents.shape == (1, 4, 16, 16)
    assert vae.decode(latents).sample.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16"])
def test_weights_come_in_the_wanted_precision(tiny: TinyBackbones, dtype: torch.dtype | str):
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    for load in (load_vae, load_unet, load_text_encoder):
        assert {weight.dtype for weight in load(tiny.stable_diffusion, dtype=dtype).parameters()} == {wanted}


def test_an_unknown_precision_is_named(tiny: TinyBackbones):
    with pytest.raises(BackboneError, match=r"dtype: expected float32.*found 'int8'"):
        load_vae(tiny.stable_diffusion, dtype="int8")


def test_frozen_parts_ask_for_no_gradient_and_others_do(tiny: TinyBackbones):
    assert not any(weight.requires_grad for weight in load_unet(tiny.stable_diffusion).parameters())
    trainable = load_unet(tiny.stable_diffusion, frozen=False)
    assert trainable.training
    assert all(weight.requires_grad for weight in trainable.parameters())


def test_a_widened_unet_ignores_its_new_channels_bit_for_bit(tiny: TinyBackbones):
    narrow, wide = load_unet(tiny.stable_diffusion), load_unet(tiny.stable_diffusion, in_channels=8)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, 16, 16, generator=generator)
    text, time = torch.randn(2, 77, 32, generator=generator), torch.tensor([10, 900])
    want = narrow(noisy, time, text).sample
    for image_latents in (torch.zeros_like(noisy), torch.randn(noisy.shape, generator=generator)):
        assert torch.equal(wide(torch.cat([noisy, image_latents], 1), time, text).sample, want)


def test_a_widened_unet_says_so_in_its_config_and_can_be_saved_and_loaded(tiny: TinyBackbones, tmp_path: Path):
    wide = load_unet(tiny.stable_diffusion, in_channels=8)
    assert wide.config.in_channels == 8
    wide.save_pretrained(tmp_path / "unet")
    again = load_unet(tmp_path, in_channels=8)
    assert torch.equal(again.conv_in.weight, wide.conv_in.weight)
    assert torch.equal(again.conv_in.bias, load_unet(tiny.stable_diffusion).conv_in.bias)


def test_an_8_channel_unet_loads_as_it_is(tiny: TinyBackbones):
    assert load_unet(tiny.instruct_pix2pix).conv_in.weight[:, 4:].abs().sum() > 0


def test_a_unet_is_not_narrowed(tiny: TinyBackbones):
    with pytest.raises(BackboneError, match=r"in_channels 8, the config wants 4"):
        load_unet(tiny.instruct_pix2pix, in_channels=4)


def test_published_text_encoders_keep_a_prefix_and_position_ids(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.stable_diffusion / "text_encoder")
    weights = load_file(folder / "model.safetensors")
    assert all(name.startswith("text_model.") for name in weights)
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ids = torch.tensor([[1, 2, 3]])
    want = load_text_encoder(tiny.stable_diffusion)(ids).last_hidden_state
    assert torch.equal(load_text_encoder(folder)(ids).last_hidden_state, want)


def test_text_encoders_load_with_the_new_key_names_too(tmp_path: Path):
    old = build_text_encoder(tmp_path / "old", 600, old_keys=True)
    new = build_text_encoder(tmp_path / "new", 600, old_keys=False)
    assert load_file(old / "model.safetensors").keys() != load_file(new / "model.safetensors").keys()
    ids = torch.tensor([[1, 2, 3]])
    a, b = (load_text_encoder(folder)(ids).last_hidden_state for folder in (old, new))
    assert torch.equal(a, b)


def test_published_vaes_keep_the_old_names_of_attention(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.stable_diffusion / "vae")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    for new, old in names.items():
        weights = {name.replace(f".{new}.", f".{old}."): value for name, value in weights.items()}
    assert any(".proj_attn." in name for name in weights)
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    image = torch.zeros(1, 3, 64, 64)
    a, b = (load_vae(path).encode(image).latent_dist.mean for path in (folder, tiny.stable_diffusion))
    assert torch.equal(a, b)


def test_both_tokenizer_layouts_give_equal_ids(tmp_path: Path):
    write_clip_tokenizer(tmp_path / "old", "old")
    write_clip_tokenizer(tmp_path / "new", "new")
    assert {file.name for file in (tmp_path / "old").iterdir()} >= {"vocab.json", "merges.txt"}
    assert not (tmp_path / "new" / "vocab.json").exists()
    old, new = load_tokenizer(tmp_path / "old"), load_tokenizer(tmp_path / "new")
    for text in ("A red circle in the top left.", "naïve 5 dögs!", ""):
        assert old(text).input_ids == new(text).input_ids
    assert old.model_max_length == new.model_max_length == 77


def test_a_cut_text_keeps_its_end_token(tiny: TinyBackbones):
    tokenizer = load_tokenizer(tiny.stable_diffusion)
    ids = tokenizer("red " * 200, truncation=True, max_length=77).input_ids
    assert len(ids) == 77
    assert ids[-1] == tokenizer.eos_token_id


def test_the_scheduler_is_the_one_named(tiny: TinyBackbones):
    assert type(load_scheduler(tiny.stable_diffusion)).__name__ == "PNDMScheduler"
    assert type(load_scheduler(tiny.instruct_pix2pix)).__name__ == "EulerAncestralDiscreteScheduler"
    assert load_scheduler(tiny.stable_diffusion).alphas_cumprod[500].item() == pytest.approx(0.276332, abs=1e-6)


def test_an_unknown_scheduler_is_named(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.stable_diffusion / "scheduler")
    (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": "NoSuchScheduler"}))
    with pytest.raises(BackboneError, match=r"scheduler_config.json: expected _class_name.*NoSuchScheduler"):
        load_scheduler(folder)


def test_fitting_parts_pass_the_check(tiny: TinyBackbones):
    text_encoder, vae = load_text_encoder(tiny.stable_diffusion), load_vae(tiny.stable_diffusion)
    tokenizer = load_tokenizer(tiny.stable_diffusion)
    for unet in (load_unet(tiny.stable_diffusion), load_unet(tiny.instruct_pix2pix)):
        check_compatible(unet, text_encoder, vae, tokenizer)


def test_a_text_encoder_of_another_width_is_refused_by_name(tiny: TinyBackbones, tmp_path: Path):
    unet = load_unet(build_unet(tmp_path / "unet", cross_attention_dim=48))
    with pytest.raises(BackboneError, match=r"unet: cross_attention_dim 48 does not fit hidden_size 32 .*text_encoder"):
        check_compatible(unet, load_text_encoder(tiny.stable_diffusion))


def test_a_vae_of_other_latents_is_refused_by_name(tiny: TinyBackbones, tmp_path: Path):
    vae = load_vae(build_vae(tmp_path / "vae", latent_channels=8))
    with pytest.raises(BackboneError, match=r"unet: out_channels 4 does not fit latent_channels 8 of .*vae"):
        check_compatible(load_unet(tiny.stable_diffusion), vae=vae)


def test_a_unet_of_9_channels_is_refused(tiny: TinyBackbones, tmp_path: Path):
    unet = load_unet(build_unet(tmp_path / "unet", in_channels=9))
    with pytest.raises(BackboneError, match="in_channels 9 is neither the 4 latent channels"):
        check_compatible(unet, vae=load_vae(tiny.stable_diffusion))


def test_a_tokenizer_of_another_vocabulary_is_refused(tiny: TinyBackbones, tmp_path: Path):
    small = load_text_encoder(build_text_encoder(tmp_path / "text_encoder", 100))
    with pytest.raises(BackboneError, match=r"tokens, but .*text_encoder has a vocab_size of 100"):
        check_tokenizer(load_tokenizer(tiny.stable_diffusion), small)

"""Loaders of the LLM, CLIP vision and BLIP-2."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmig.backbones import BackboneError
from mmig.backbones.blip2 import load_blip2, load_blip2_processor
from mmig.backbones.clip import load_clip_vision
from mmig.backbones.diffusion import check_tokenizer
from mmig.backbones.llm import load_llm, load_llm_tokenizer
from tests.tiny_fixtures import LLM_WIDTH, NUM_QUERY_TOKENS, VISION_WIDTH, TinyBackbones, build_llama

Copy = Callable[[Path], Path]


def test_the_llm_gives_logits_and_hidden_states(tiny: TinyBackbones):
    llm, tokenizer = load_llm(tiny.llama), load_llm_tokenizer(tiny.llama)
    check_tokenizer(tokenizer, llm)
    ids = tokenizer(["a red star", "a small blue circle"], padding=True, return_tensors="pt")
    out = llm(**ids, output_hidden_states=True)
    assert out.logits.shape == (*ids.input_ids.shape, llm.config.vocab_size)
    assert out.hidden_states[-1].shape == (*ids.input_ids.shape, LLM_WIDTH)


def test_an_llm_in_several_files_loads_like_one(tiny: TinyBackbones, tmp_path: Path):
    folder = build_llama(tmp_path / "llama", seed=2, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    whole, shards = load_llm(tiny.llama).state_dict(), load_llm(folder).state_dict()
    assert all(torch.equal(whole[name], shards[name]) for name in whole)


def test_published_llamas_store_rotary_frequencies(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.llama)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_llm(folder).config.num_hidden_layers == 2


def test_a_bin_file_is_read_where_there_is_no_safetensors(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.llama)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    a, b = load_llm(folder).state_dict(), load_llm(tiny.llama).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_bin_file_that_runs_code_is_refused(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.llama)
    torch.save({"a": Path("/tmp")}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"pytorch_model.bin: cannot be read"):
        load_llm(folder)


@pytest.mark.parametrize("kind", ["metaspace", "bytelevel"])
def test_both_kinds_of_llm_tokenizers_begin_pad_and_decode(tmp_path: Path, kind: str):
    folder = build_llama(tmp_path / "llama", tokenizer=kind)
    tokenizer = load_llm_tokenizer(folder)
    ids = tokenizer("A red circle, dög").input_ids
    assert ids[0] == tokenizer.bos_token_id == 1
    assert ids[-1] != tokenizer.eos_token_id == 2
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "A red circle, dög"
    assert len(tokenizer) <= 2000
    assert tokenizer(["a", "a red star"], padding=True).attention_mask[0][-1] == 0


def test_a_lost_start_token_is_put_back(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.llama)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("add_bos_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_llm_tokenizer(folder)("a red star").input_ids[0] == 1


def test_clip_vision_gives_a_state_for_every_block(tiny: TinyBackbones):
    out = load_clip_vision(tiny.clip_vision)(torch.zeros(2, 3, 64, 64), output_hidden_states=True)
    assert len(out.hidden_states) == 7
    assert out.hidden_states[-1].shape == (2, 17, VISION_WIDTH)


def test_clip_vision_loads_from_a_whole_clip(tmp_path: Path):
    from transformers import CLIPConfig, CLIPModel

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text, size = vision | {"vocab_size": 100}, {"image_size": 32, "patch_size": 16}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision | size, projection_dim=32)).eval()
    whole.save_pretrained(tmp_path)
    pixels = torch.ones(1, 3, 32, 32)
    want = whole.vision_model(pixels).last_hidden_state
    assert torch.equal(load_clip_vision(tmp_path)(pixels).last_hidden_state, want)


def test_the_captioner_sees_the_image(tiny: TinyBackbones):
    model, processor = load_blip2(tiny.blip2), load_blip2_processor(tiny.blip2)
    inputs = processor(images=Image.new("RGB", (64, 64), "red"), text=["a red"], return_tensors="pt")
    assert (inputs.input_ids == model.config.image_token_id).sum() == NUM_QUERY_TOKENS
    pixels = inputs.pixel_values.clone().requires_grad_()
    model(pixels, inputs.input_ids, labels=inputs.input_ids).loss.backward()
    assert pixels.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in model.parameters())


def test_a_captioner_without_placeholder_is_refused(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.blip2)
    config = json.loads((folder / "config.json").read_text())
    config["image_token_index"] = None
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="expected image_token_index, found none"):
        load_blip2(folder)


def test_a_processor_without_query_tokens_is_refused(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.blip2)
    config = json.loads((folder / "processor_config.json").read_text())
    config.pop("num_query_tokens")
    (folder / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="expected num_query_tokens, found none"):
        load_blip2_processor(folder)

"""configs/mgie and configs/lgie: the published recipe, and LGIE as MGIE without eyes."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from bench.stages.sizes import PUBLISHED
from mmig.backbones.loading import num_parameters
from mmig.backbones.mllm_vision import QwenVision
from mmig.methods.mgie.head import EditHead
from tests.test_configs import by_its_command

ROOT = Path(__file__).resolve().parents[4]


def test_the_published_command_is_the_published_recipe() -> None:
    """Fu et al. 2024: sizes, losses, drops, batch and both learning rates; decay and schedule of the released code."""
    config = by_its_command("configs/mgie/published.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (model["sees"], model["drop"], model["loss_weights"]) == (True, 0.05, {"text": 1.0, "sdm": 0.5})
    assert (model["language"]["num_image_tokens"], model["language"]["rows"]) == (8, "all")
    assert model["head"] == {"dim": 512, "num_queries": 77, "heads": 4, "layers": 4, "feed_forward": 2048}
    optimizer = model["optimizer"]
    assert (optimizer["lr"], optimizer["groups"]["unet"]["lr"]) == (5e-4, 1e-4)
    assert (optimizer["weight_decay"], optimizer["schedule"]) == (0.0, "cosine")
    assert optimizer["warmup_steps"] == round(0.03 * config["trainer"]["max_steps"])
    assert (data["global_batch_size"], data["resolution"]) == (128, 256)
    assert config["trainer"]["max_steps"] * 128 == 40 * 1_000_000


def test_lgie_is_mgie_that_does_not_see() -> None:
    models = [by_its_command(f"configs/{name}/published.yaml")["model"]["init_args"] for name in ("mgie", "lgie")]
    assert [model.pop("sees") for model in models] == [True, False]
    assert models[0] == models[1]


def test_qwen_vl_is_the_published_recipe_on_another_mllm() -> None:
    ours, published = (by_its_command(f"configs/mgie/{name}.yaml") for name in ("qwen_vl", "published"))
    models = [config["model"]["init_args"] for config in (ours, published)]
    language, mllm = ([model.pop(name) for model in models] for name in ("language", "mllm"))
    assert models[0] == models[1] and mllm[0] != mllm[1]
    assert ours["trainer"]["max_steps"] == published["trainer"]["max_steps"]
    assert (
        "what will this image be like if '{instruction}'\n<|vision_start|>{image}<|vision_end|>"
        in language[0]["prompt"]
    )


def test_qwen_vl_has_the_numbers_that_its_header_says() -> None:
    """Of the published sizes, without memory."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    places = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    text |= {"num_key_value_heads": 4, "rope_parameters": places}
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config={"hidden_size": 1280})
        )
        head, vae = EditHead(3584), AutoencoderKL(**PUBLISHED.vae)
        unet = UNet2DConditionModel(**PUBLISHED.unet | {"in_channels": 8})
    tables = 2 * model.get_input_embeddings().weight.numel()
    mllm, learned, eyes = num_parameters(model), num_parameters(head) + num_parameters(unet), num_parameters(vae)
    counted = {"1,090 M": tables, "891 M": learned + 16 * 3584, "8,292 M": mllm}
    sizes = {
        "29.0 GiB": (learned + 16 * 3584) * 16 + 2 * mllm + 4 * eyes,
        "43.2 GiB": (learned + tables) * 16 + 2 * (mllm - tables) + 4 * eyes,
    }
    assert {words: f"{number / 1e6:,.0f} M" for words, number in counted.items()} == {words: words for words in counted}
    assert {words: f"{number / 2**30:.1f} GiB" for words, number in sizes.items()} == {words: words for words in sizes}
    header = (ROOT / "configs/mgie/qwen_vl.yaml").read_text(encoding="utf-8")
    assert all(words in header for words in (*counted, *sizes))
    language = by_its_command("configs/mgie/qwen_vl.yaml")["model"]["init_args"]["language"]
    assert QwenVision(model, language["image_size"]).num_tokens == 256

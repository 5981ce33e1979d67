"""The tiny CLIP in the published layouts: open_clip, `CLIPVisionModel`, and Stable Diffusion's `CLIPTextModel`.

The same weights three times; a test compares their features. Weights are written in half precision.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from experiments.tiny_backbones.clip_model import ClipSize, model_config
from mmig.backbones.clip_image import CLIP_MEAN, CLIP_STD
from mmig.base.files import replacing, write_json

TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
Weights = dict[str, Tensor]


def write_weights(path: Path, weights: Weights) -> None:
    """Write half-precision safetensors."""
    halves = {name: value.detach().cpu().half().contiguous() for name, value in weights.items()}
    with replacing(path) as temporary:
        save_file(halves, temporary, metadata={"format": "pt"})


def copy_tokenizer(source: Path, destination: Path) -> None:
    """Copy the four files of the CLIP tokenizer unless they are already there."""
    destination.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).resolve() != (destination / name).resolve():
            shutil.copyfile(source / name, destination / name)


def export_open_clip(weights: Weights, size: ClipSize, tokenizer: Path, folder: Path) -> None:
    """Write open_clip_config.json, open_clip_model.safetensors and the tokenizer, for `local-dir:` names."""
    vocabulary = len(weights["token_embedding.weight"])
    config = model_config(size, vocabulary)
    # any non-empty name makes open_clip read the tokenizer from the folder itself
    config["text_cfg"] |= {"hf_tokenizer_name": "local", "tokenizer_kwargs": {"clean": "whitespace"}}
    preprocess = {
        "size": [size.image_size, size.image_size],
        "mean": list(CLIP_MEAN),
        "std": list(CLIP_STD),
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    copy_tokenizer(tokenizer, folder)
    write_weights(folder / "open_clip_model.safetensors", weights)
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess})


def export_vision(weights: Weights, size: ClipSize, folder: Path) -> None:
    """Write the image tower as a `CLIPVisionModel` folder with its preprocessor_config.json."""
    from transformers import CLIPVisionConfig

    config = CLIPVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=int(size.vision_width * size.mlp_ratio),
        projection_dim=size.embed_dim,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_width // size.head_width,
        image_size=size.image_size,
        patch_size=size.patch_size,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
    )
    write_weights(folder / "model.safetensors", vision_weights(weights, size.vision_layers))
    _write_config(folder, config.to_dict(), "CLIPVisionModel")
    write_json(folder / "preprocessor_config.json", preprocessor_config(size.image_size, "CLIPImageProcessor"))


def preprocessor_config(image_size: int, processor: str) -> dict[str, Any]:
    """preprocessor_config.json of a square image size: bicubic resize without crop, CLIP's mean and deviation."""
    return {
        "image_processor_type": processor,
        "do_convert_rgb": True,
        "do_resize": True,
        "do_center_crop": False,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"height": image_size, "width": image_size},
        "crop_size": {"height": image_size, "width": image_size},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }


def export_text(weights: Weights, size: ClipSize, tokenizer: Path, root: Path) -> None:
    """Write the text tower as `root`/text_encoder and the tokenizer as `root`/tokenizer, as Stable Diffusion 1.5."""
    from transformers import CLIPTextConfig

    vocabulary = len(weights["token_embedding.weight"])
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=size.text_width,
        intermediate_size=int(size.text_width * size.mlp_ratio),
        projection_dim=size.embed_dim,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_width // size.head_width,
        max_position_embeddings=size.context_length,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    copy_tokenizer(tokenizer, root / "tokenizer")
    write_weights(root / "text_encoder" / "model.safetensors", text_weights(weights, size.text_layers))
    _write_config(root / "text_encoder", config.to_dict(), "CLIPTextModel")


def vision_weights(weights: Weights, layers: int) -> Weights:
    """open_clip names -> `CLIPVisionModel` names with the published prefix."""
    visual = {name.removeprefix("visual."): value for name, value in weights.items() if name.startswith("visual.")}
    out = {
        "embeddings.class_embedding": visual["class_embedding"],
        "embeddings.patch_embedding.weight": visual["conv1.weight"],
        "embeddings.position_embedding.weight": visual["positional_embedding"],
        **_renamed(visual, {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}),
        **_blocks(visual, layers),
    }
    return {f"vision_model.{name}": value for name, value in out.items()}


def text_weights(weights: Weights, layers: int) -> Weights:
    """open_clip names -> `CLIPTextModel` names with the published prefix."""
    out = {
        "embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "embeddings.position_embedding.weight": weights["positional_embedding"],
        **_renamed(weights, {"ln_final": "final_layer_norm"}),
        **_blocks(weights, layers),
    }
    return {f"text_model.{name}": value for name, value in out.items()}


def _renamed(weights: Weights, names: dict[str, str], prefix: str = "", new_prefix: str = "") -> Weights:
    return {
        f"{new_prefix}{new}.{kind}": weights[f"{prefix}{old}.{kind}"]
        for old, new in names.items()
        for kind in ("weight", "bias")
    }


def _blocks(weights: Weights, layers: int) -> Weights:
    """Residual blocks: open_clip keeps query, key and value in one matrix, transformers in three."""
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    out: Weights = {}
    for layer in range(layers):
        old, new = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
        out |= _renamed(weights, names, old, new)
        for kind in ("weight", "bias"):
            thirds = weights[f"{old}attn.in_proj_{kind}"].chunk(3)
            for part, value in zip("qkv", thirds, strict=True):
                out[f"{new}self_attn.{part}_proj.{kind}"] = value
    return out


def _write_config(folder: Path, config: dict[str, Any], architecture: str) -> None:
    config |= {"architectures": [architecture], "dtype": "float16"}
    write_json(
        folder / "config.json", {name: value for name, value in config.items() if name != "transformers_version"}
    )


def export_clip(weights: Weights, size: ClipSize, tokenizer: Path, out: Path) -> list[Path]:
    """Write clip/, clip-vision/ and stable-diffusion/{text_encoder,tokenizer}/ below `out`; returns the folders.

    Args:
        weights: state of the `open_clip.CLIP`.
        size: its widths.
        tokenizer: folder of the CLIP tokenizer it was trained with.
    """
    weights = {name: value.detach() for name, value in weights.items() if isinstance(value, torch.Tensor)}
    export_open_clip(weights, size, tokenizer, out / "clip")
    export_vision(weights, size, out / "clip-vision")
    export_text(weights, size, tokenizer, out / "stable-diffusion")
    return [out / name for name in ("clip", "clip-vision", "stable-diffusion")]

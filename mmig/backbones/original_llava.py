"""LLaVA as its original code saved it (Liu et al. 2023, version 1), read as a LLaVA of transformers.

Its file has LLaMA's own names, one linear layer between the image tower and the language model, and no tower: that is a
CLIP which its config.json names. transformers' layout has two layers with an activation between them: the linear one
becomes the first, with no activation and the identity behind it, which gives the same numbers to the bit.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmig.backbones.clip import load_clip_vision
from mmig.backbones.files import read_json, weight_files
from mmig.backbones.hub import locate
from mmig.backbones.mllm import PixelStatistics, pixel_statistics
from mmig.backbones.named import Origin, Source
from mmig.backbones.parts import CLIP_VISION, LLM, BackboneError
from mmig.backbones.weights import read_weights, weight

if TYPE_CHECKING:
    from transformers import LlavaConfig

EMBEDDINGS, OUTPUT = "model.language_model.embed_tokens.weight", "lm_head.weight"
"""The two tables of the language model, by transformers' names."""
_PROJECTOR = "model.mm_projector."
_NOT_OURS = re.compile(r".*rotary_emb\.inv_freq|model\.vision_tower\..*")
"""What is computed, and a tower that later versions of the code stored too: it is the frozen CLIP."""
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
    "bos_token_id",
    "eos_token_id",
)


class OriginalLlava(NamedTuple):
    """What a folder of the original code holds.

    Attributes:
        config: of transformers' `LlavaForConditionalGeneration`.
        state: its weights by transformers' names; EMBEDDINGS and OUTPUT are its tables.
        statistics: how pixels are normalised.
    """

    config: "LlavaConfig"
    state: dict[str, Tensor]
    statistics: PixelStatistics


def read_original_llava(path: str | Path, vision: Source | None = None) -> OriginalLlava:
    """A LLaVA of version 1.

    Args:
        path: folder or hub id: config.json, weights, tokenizer.
        vision: folder or hub id of the CLIP whose tower it sees through; None: the one that config.json names.

    Raises:
        BackboneError: a missing or broken file, or another layout or version.
    """
    folder = locate(path, LLM)
    settings = read_json(folder / "config.json")
    if "mm_vision_tower" not in settings:
        raise BackboneError(
            f"{folder / 'config.json'}: expected mm_vision_tower, as LLaVA's original code writes it, found none; give "
            "the folder of a LLaVA of version 1 (LLaVA-7B-v1)"
        )
    place = Origin(str(vision or settings["mm_vision_tower"]), CLIP_VISION)
    tower = load_clip_vision(place)
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        state |= read_weights(file)
    named = _named(state, folder) | {f"model.vision_tower.{name}": value for name, value in tower.state_dict().items()}
    return OriginalLlava(_config(settings, tower.config, len(named[EMBEDDINGS])), named, pixel_statistics(place))


def _named(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Weights of the language model and of the projector by transformers' names."""
    if f"{_PROJECTOR}0.weight" in state:
        raise BackboneError(
            f"{folder}: expected {_PROJECTOR}weight, the linear layer of LLaVA of version 1, found the layers of a "
            "later version; give LLaVA-7B-v1"
        )
    first, bias = weight(state, f"{_PROJECTOR}weight", 2, folder), weight(state, f"{_PROJECTOR}bias", 1, folder)
    weight(state, "model.embed_tokens.weight", 2, folder)
    named = {
        "model.multi_modal_projector.linear_1.weight": first,
        "model.multi_modal_projector.linear_1.bias": bias,
        "model.multi_modal_projector.linear_2.weight": torch.eye(len(first), dtype=first.dtype),
        "model.multi_modal_projector.linear_2.bias": torch.zeros_like(bias),
    }
    for name, value in state.items():
        if not name.startswith(_PROJECTOR) and not _NOT_OURS.fullmatch(name):
            inside = name.removeprefix("model.")
            named[name if inside == name else f"model.language_model.{inside}"] = value
    return named


def _config(settings: dict[str, Any], vision: Any, vocabulary: int) -> "LlavaConfig":
    from transformers import LlamaConfig, LlavaConfig

    sizes = {name: settings[name] for name in _SIZES if name in settings}
    return LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=LlamaConfig(**sizes, vocab_size=vocabulary, tie_word_embeddings=False).to_dict(),
        projector_hidden_act="linear",
        vision_feature_layer=settings.get("mm_vision_select_layer", -1),  # the original code's own default
        vision_feature_select_strategy="default",
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        tie_word_embeddings=False,
    )

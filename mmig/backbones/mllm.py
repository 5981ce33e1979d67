"""The multimodal language model that reads a picture's patches as tokens among those of a text (LLaVA, Qwen-VL)."""

from typing import TYPE_CHECKING, NamedTuple

import torch

from mmig.backbones.files import read_json
from mmig.backbones.hub import locate
from mmig.backbones.llm import load_llm, load_llm_tokenizer
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.mllm_vision import FAMILIES
from mmig.backbones.named import Origin, Source
from mmig.backbones.parts import MLLM, MLLM_TOKENIZER, BackboneError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Where a folder may say how pictures are normalised; in the newer one below `image_processor`."""


class PixelStatistics(NamedTuple):
    """Normalisation of pixels in [0,1], by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_mllm(
    path: Source,
    *,
    sees: bool = True,
    dtype: torch.dtype | str = torch.float32,
    frozen: bool = True,
    gradient_checkpointing: bool = False,
) -> "PreTrainedModel":
    """One of `FAMILIES`: ids int64 [B,L] and pixels -> logits [B,L,V] and hidden states [B,L,D].

    Frozen with gradient checkpointing it stays in train() mode with all dropouts 0 (`loading.prepare`); call eval()
    for `generate`.

    Args:
        sees: False takes a causal language model without eyes too.

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    import transformers

    folder = locate(path, MLLM)
    kind = read_json(folder / "config.json").get("model_type")
    if kind in FAMILIES:
        model = load_strictly(getattr(transformers, FAMILIES[kind][0]), folder, dtype)
        return prepare(model, frozen=frozen, gradient_checkpointing=gradient_checkpointing)
    if sees:
        raise BackboneError(
            f"{folder / 'config.json'}: expected model_type {' or '.join(FAMILIES)}, found {kind!r}; give the folder "
            "of such a model in transformers' layout, or leave its eyes out (sees: false)"
        )
    return load_llm(folder, dtype=dtype, frozen=frozen, gradient_checkpointing=gradient_checkpointing)


def load_mllm_tokenizer(path: Source) -> "PreTrainedTokenizerFast":
    """A multimodal language model's tokenizer, see `load_llm_tokenizer`; texts of Qwen-VL have no start token.

    Raises:
        BackboneError: a missing or broken file, no end token, or no start token where texts have one.
    """
    config = locate(path, MLLM_TOKENIZER) / "config.json"
    kind = read_json(config).get("model_type", "") if config.is_file() else ""
    origin = path if isinstance(path, Origin) else Origin(str(path), MLLM_TOKENIZER)
    return load_llm_tokenizer(origin, begins=not kind.startswith("qwen"))


def pixel_statistics(path: Source) -> PixelStatistics:
    """How a multimodal language model's folder says that pictures are normalised.

    Raises:
        BackboneError: no such folder, or it does not say it.
    """
    folder = locate(path, MLLM)
    for file in (folder / name for name in _PROCESSORS):
        settings = read_json(file) if file.is_file() else {}
        settings = settings.get("image_processor", settings)
        if {"image_mean", "image_std"} <= settings.keys():
            return PixelStatistics(tuple(settings["image_mean"]), tuple(settings["image_std"]))
    raise BackboneError(f"{folder}: expected image_mean and image_std in {' or '.join(_PROCESSORS)}, found none")

"""CLIP: the vision tower for the multimodal LLM (transformers) and whole models for metrics (open_clip)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmig.backbones.hub import is_hub_id, locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.open_clip_weights import built_in_weights
from mmig.backbones.parts import CLIP_VISION, OPEN_CLIP, BackboneError
from mmig.base.paths import resolved

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import CLIPVisionModel


@dataclass(frozen=True)
class OpenClip:
    """A CLIP for metrics.

    Attributes:
        model: `encode_image` of normalised pixels [B,3,S,S], `encode_text` of ids [B,L] -> embeddings [B,D]; frozen,
            eval.
        tokenizer: texts -> ids int64 [B,L]; longer texts keep their end-of-text token.
        image_size: S, pixels.
        mean, std: of the normalisation, for images in [0,1].
        context_length: L.
    """

    model: nn.Module
    tokenizer: "Callable[..., Tensor]"
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    context_length: int


def load_clip_vision(
    path: Source,
    *,
    dtype: torch.dtype | str = torch.float32,
    frozen: bool = True,
    gradient_checkpointing: bool = False,
) -> "CLIPVisionModel":
    """CLIP's image tower: normalised pixels [B,3,S,S] -> `hidden_states`, each [B,1+patches,D]; a whole CLIP's folder
    serves too.

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    from transformers import CLIPVisionModel

    folder = locate(path, CLIP_VISION)
    rest_of_clip = r"text_model\.|text_projection\.|visual_projection\.|logit_scale"
    model = load_strictly(CLIPVisionModel, folder, dtype, ignore=rest_of_clip)
    return prepare(model, frozen=frozen, gradient_checkpointing=gradient_checkpointing)


def load_open_clip(name: str | Path, weights: str | Path | None = None) -> OpenClip:
    """A CLIP through open_clip, frozen, in eval mode, float32.

    Args:
        name: an open_clip model name ("ViT-L-14-quickgelu"), or a folder or hub id in open_clip's layout (the prefixes
            "local-dir:" and "hf-hub:" are allowed, not needed).
        weights: for a model name: a pretrained tag ("openai", "laion2b_s32b_b82k") or a weights file; for a folder:
            None.

    Raises:
        BackboneError: unknown name or tag, an activation that is not the weights' own (QuickGELU), missing or broken
            files.
    """
    import open_clip

    text = str(name).removeprefix("local-dir:").removeprefix("hf-hub:")
    if resolved(text).is_dir() or is_hub_id(text) or text != str(name):
        if weights is not None:
            raise BackboneError(f"{text}: a folder brings its own weights; leave weights out (found {weights})")
        folder = locate(text, OPEN_CLIP)
        source, options = f"local-dir:{folder}", {}
        origin = str(folder)
    else:
        source = text.replace("/", "-")
        file, preprocessing = built_in_weights(source, weights)
        options = {"pretrained": str(file), "force_preprocess_cfg": preprocessing}
        origin = f"{source} from {file}"
    try:
        model = open_clip.create_model(source, require_pretrained=True, weights_only=True, **options)
        tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:  # open_clip raises RuntimeError, ValueError, OSError, KeyError ...
        reason = " ".join(str(error).split())[:300]
        raise BackboneError(f"open_clip {origin}: cannot be loaded: {reason}; fetch the model again") from error
    _check_finite(model, origin)
    prepare(model.float(), frozen=True, gradient_checkpointing=False)
    return _with_constants(model, tokenizer, origin)


def _with_constants(model: nn.Module, tokenizer: Any, origin: str) -> OpenClip:
    preprocessing = model.visual.preprocess_cfg
    size = preprocessing["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise BackboneError(f"open_clip {origin}: expected square images, found {height}x{width}")
    return OpenClip(
        model=model,
        tokenizer=tokenizer,
        image_size=height,
        mean=tuple(preprocessing["mean"]),
        std=tuple(preprocessing["std"]),
        context_length=tokenizer.context_length,
    )


def _check_finite(model: nn.Module, origin: str) -> None:
    scale = float(model.logit_scale.detach())
    if not math.isfinite(scale):
        raise BackboneError(f"open_clip {origin}: expected finite weights, found a logit_scale of {scale}")

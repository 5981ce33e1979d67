"""How each family of multimodal language models sees: which size of picture, how many tokens it becomes, and what the
decoder must be told of their places.

A picture is one size here, so that the number of its tokens is known before any is seen.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from mmig.backbones.parts import BackboneError


class MLLMVision(Protocol):
    """The eyes of a multimodal language model.

    Attributes:
        image_size: S, pixels a side of what the image tower is shown.
        num_tokens: K, tokens of a picture among those of the text.
    """

    image_size: int
    num_tokens: int

    def tokens(self, pixels: Tensor) -> Tensor:
        """Tokens of normalised pixels [B,3,S,S], [B,K,W]; of the W numbers the first D are what the decoder reads."""

    def decoder_inputs(self, slots: Tensor, attention: Tensor, visual: Tensor) -> dict[str, Any]:
        """What the decoder is given beside its input embeddings and the attention mask.

        Args:
            slots: bool [B,T], True at the K places of each row's picture.
            attention: [B,T], 0 at padding, on either side.
            visual: [B,K,W] of `tokens`.
        """


class LlavaVision:
    """LLaVA: a tower that takes one size, a token a patch, places that count on as those of a text.

    Args:
        llm: `LlavaForConditionalGeneration`.
        image_size: None, or the tower's own.

    Raises:
        BackboneError: another size than the tower takes.
    """

    def __init__(self, llm: Any, image_size: int | None = None) -> None:
        vision = llm.config.vision_config
        if image_size not in (None, vision.image_size):
            raise BackboneError(
                f"language.image_size: the image tower takes {vision.image_size} pixels, found {image_size}; leave it "
                "out"
            )
        self.llm, self.image_size = llm, vision.image_size
        with_class_token = llm.config.vision_feature_select_strategy != "default"
        self.num_tokens = (vision.image_size // vision.patch_size) ** 2 + int(with_class_token)

    def tokens(self, pixels: Tensor) -> Tensor:
        """See `MLLMVision`; W = D."""
        dtype = next(self.llm.model.vision_tower.parameters()).dtype
        return torch.stack(list(self.llm.get_image_features(pixel_values=pixels.to(dtype)).pooler_output))

    def decoder_inputs(self, slots: Tensor, attention: Tensor, visual: Tensor) -> dict[str, Any]:
        """Nothing: the attention mask says all."""
        return {}


class QwenVision:
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures of any size, m by m patches a token, places with three coordinates.

    Qwen3-VL adds features of earlier layers of the tower to the first layers of the decoder ("deepstack"): they stand
    behind the token's own D numbers, W = D (1 + layers).

    Args:
        llm: `Qwen2VLForConditionalGeneration` or one of its successors.
        image_size: S, pixels; a multiple of patch size times m.

    Raises:
        BackboneError: no size, or one that is no such multiple.
    """

    def __init__(self, llm: Any, image_size: int | None) -> None:
        vision = llm.config.vision_config
        unit = vision.patch_size * vision.spatial_merge_size
        if image_size is None or image_size < unit or image_size % unit:
            raise BackboneError(
                f"language.image_size: {llm.config.model_type} takes pictures of any size in steps of {unit} pixels; "
                f"expected a multiple of {unit}, such as {16 * unit}, found {image_size}"
            )
        self.llm, self.image_size = llm, image_size
        self.grid = [1, image_size // vision.patch_size, image_size // vision.patch_size]
        self.num_tokens = (image_size // unit) ** 2

    def tokens(self, pixels: Tensor) -> Tensor:
        """See `MLLMVision`."""
        grid = torch.tensor([self.grid] * len(pixels), device=pixels.device)
        seen = self.llm.get_image_features(pixel_values=self._patches(pixels), image_grid_thw=grid)
        layers = [seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ())]
        return torch.cat([torch.stack(list(layer)) for layer in layers], dim=-1)

    def decoder_inputs(self, slots: Tensor, attention: Tensor, visual: Tensor) -> dict[str, Any]:
        """Places int64 [3,B,T] (time, height, width) by the model's own rule, and the features of earlier layers."""
        places, _ = self.llm.model.get_rope_index(
            slots.long(),  # in place of ids, of which it reads the shape alone
            mm_token_type_ids=slots.int(),
            image_grid_thw=torch.tensor([self.grid] * len(slots), device=slots.device),
            attention_mask=attention,
        )
        width = self.llm.config.get_text_config().hidden_size
        if visual.shape[-1] == width:
            return {"position_ids": places}
        deep = [layer.flatten(0, 1) for layer in visual[..., width:].split(width, dim=-1)]
        return {"position_ids": places, "visual_pos_masks": slots, "deepstack_visual_embeds": deep}

    def _patches(self, pixels: Tensor) -> Tensor:
        """Pixels [B,3,S,S] as the tower takes them, [B patches, 3 frames p p]: the patches of a token stand together,
        and a picture is a film of equal frames.
        """
        vision = self.llm.config.vision_config
        cut = (-1, vision.spatial_merge_size, vision.patch_size)
        blocks = pixels.unflatten(3, cut).unflatten(2, cut)  # [B,3, rows,m,p, columns,m,p]
        blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [B, rows,columns, m,m, 3, p,p]
        frames = blocks.unsqueeze(6).expand(*blocks.shape[:6], vision.temporal_patch_size, *blocks.shape[6:])
        return frames.flatten(0, 4).flatten(1)


FAMILIES: dict[str, tuple[str, type[MLLMVision]]] = {
    "llava": ("LlavaForConditionalGeneration", LlavaVision),
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", QwenVision),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", QwenVision),
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", QwenVision),
}
"""By `model_type`: the class of transformers, and how it sees."""


def vision_of(llm: Any, image_size: int | None) -> MLLMVision:
    """The eyes of a model that `load_mllm` loaded.

    Args:
        image_size: pixels a side; None where the model takes one size.

    Raises:
        BackboneError: a size that the model does not take.
    """
    return FAMILIES[llm.config.model_type][1](llm, image_size)

"""Visual tokens: an image as a few tokens of the LLM, from CLIP's class token at several depths (LaVIN)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmig.backbones.clip_image import CLIP_MEAN, CLIP_STD
from mmig.evaluation.pictures import tower_pixels

ImageStatistics = Literal["clip", "imagenet"]
"""Mean and standard deviation of the pixels: CLIP's own (what the frozen tower was trained on), or ImageNet's, which
the reference implementation uses."""

STATISTICS: dict[ImageStatistics, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "clip": (CLIP_MEAN, CLIP_STD),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def preprocess(images: Tensor, size: int, statistics: ImageStatistics = "clip") -> Tensor:
    """Images [B,3,H,W] in [-1,1] as CLIP's tower takes them, float32 [B,3,size,size]; see `tower_pixels`.

    Raises:
        ValueError: another shape or kind of numbers, or unknown statistics.
    """
    if statistics not in STATISTICS:
        raise ValueError(f"image_statistics: expected one of {', '.join(STATISTICS)}, found {statistics!r}")
    return tower_pixels(images, (size, size), *STATISTICS[statistics])


def depths(num_blocks: int, num_tokens: int = 6) -> tuple[int, ...]:
    """Numbers of the blocks (from 1) after which the class token is taken: evenly spaced, the last one included.

    4, 8, ..., 24 of 24 blocks; 1 to 6 of 6. A tower with fewer blocks than tokens gives some of them twice.

    Raises:
        ValueError: no block or no token.
    """
    if num_blocks < 1 or num_tokens < 1:
        raise ValueError(f"visual tokens: expected blocks and tokens, found {num_blocks} blocks, {num_tokens} tokens")
    return tuple(-(-number * num_blocks // num_tokens) for number in range(1, num_tokens + 1))


def class_tokens(vision: Any, pixels: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """Class token after each of the given blocks, before the final norm.

    Args:
        vision: CLIPVisionModel.
        pixels: as `preprocess` gives them, [B,3,S,S].
        blocks: numbers from 1.

    Returns:
        [B,len(blocks),width].
    """
    states = vision(pixel_values=pixels, output_hidden_states=True).hidden_states  # the first enters block 1
    return torch.stack([states[block][:, 0] for block in blocks], dim=1)


class VisualProjector(nn.Module):
    """From CLIP's width to the LLM's: linear, SiLU, linear (LaVIN's code; its paper says SwiGLU, but has no gate).

    Args:
        vision_dim: CLIP's width.
        llm_dim: the LLM's width.
        inner_dim: width between.
    """

    def __init__(self, vision_dim: int, llm_dim: int, inner_dim: int = 128) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(vision_dim, inner_dim), nn.Linear(inner_dim, llm_dim)
        for linear in (self.down, self.up):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B,N,vision_dim] -> [B,N,llm_dim], dtype of the weights."""
        return self.up(F.silu(self.down(tokens.to(self.down.weight.dtype))))

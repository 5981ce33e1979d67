"""CLIP formulas: pure functions of L2-normalised embeddings, one value a sample. No model and no image is known here.

Notation of the papers: f image embedding, t text embedding, x input (source), y edited, g ground truth (target).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ZERO_DIRECTION = 1e-5
"""Below this norm a difference of two unit vectors is rounding noise, not a direction."""


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of two sets of unit vectors [B,D] -> [B] in [-1,1].

    cos(f_y, t) is CLIP-T (MagicBrush), CTS / 100 (MGIE), CLIPout (EMU Edit); cos(f_x, f_y) is CLIPim (EMU Edit) and
    sim_image (InstructPix2Pix); cos(f_y, f_g) is CLIP-I (MagicBrush), CVS / 100 (MGIE).
    """
    return (first * second).sum(-1).clamp(-1, 1)


def clip_score(image_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
    """CLIP score of Hessel et al. 2021, 2.5 max(cos, 0), clamped per sample: [B] in [0,2.5]; no prompt prefix."""
    return 2.5 * cosine(image_embeddings, text_embeddings).clamp_min(0)


def hundred_cosine(image_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
    """100 cos of each sample, [B] in [-100,100]; torchmetrics' CLIP score is their mean, cut at zero afterwards."""
    return 100 * cosine(image_embeddings, text_embeddings)


def is_zero_direction(start: Tensor, end: Tensor) -> Tensor:
    """Whether two unit vectors [B,D] are the same up to rounding: bool [B]."""
    return torch.linalg.vector_norm(end - start, dim=-1) <= ZERO_DIRECTION


def directional_similarity(source: Tensor, edited: Tensor, source_text: Tensor, target_text: Tensor) -> Tensor:
    """CLIP directional similarity cos(f_y - f_x, t_out - t_in) (StyleGAN-NADA; InstructPix2Pix): [B] in [-1,1].

    NaN where a direction is zero (equal captions, unchanged image): 0/0 is neither a good nor a bad edit.
    """
    image_direction, text_direction = edited - source, target_text - source_text
    norms = torch.linalg.vector_norm(image_direction, dim=-1) * torch.linalg.vector_norm(text_direction, dim=-1)
    undefined = is_zero_direction(source, edited) | is_zero_direction(source_text, target_text)
    similarity = (image_direction * text_direction).sum(-1) / norms.masked_fill(undefined, 1.0)
    return similarity.clamp(-1, 1).masked_fill(undefined, float("nan"))


def directional_similarity_or_zero(source: Tensor, edited: Tensor, source_text: Tensor, target_text: Tensor) -> Tensor:
    """The same as InstructPix2Pix's script has it, [B] in [-1,1]: 0 where a direction is zero to the bit.

    One that is rounding noise has the value that the noise gives it.
    """
    return F.cosine_similarity(edited - source, target_text - source_text)

"""Losses of the diffusion editing model; each returns one value a sample, float32 [B]. Beside them what the layered
ones (eq 15-18) are made from: mixed embeddings, and masks on the latent grid. Losses on attention are in
`mmig/methods/mmig/attention_losses.py`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def noise_loss(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, positions: Tensor | None = None
) -> Tensor:
    """Mean squared error of what the denoiser predicts (L_SDM, MMIG eq 14), in float32 whatever the inputs are.

    Args:
        prediction: output of the denoiser, [B,C,h,w].
        target: `NoiseProcess.target`, same shape.
        weight: `NoiseProcess.weight` of each sample's timestep, [B]; None weighs all alike.
        positions: how much each position counts in its sample's mean, positive, [B,1,h,w]; None weighs all alike.

    Returns:
        Mean over C, h and w of the squared difference, [B].
    """
    squared = (prediction.float() - target.float()).square()
    if positions is not None:
        squared = squared * (positions / positions.mean(dim=(2, 3), keepdim=True))
    error = squared.flatten(1).mean(dim=1)
    return error if weight is None else error * weight.float()


def edit_weights(masks: Tensor, size: tuple[int, int], inside: float) -> Tensor:
    """How much each position of the latents counts: `inside` where a mask of the edit is, else 1, [B,1,h,w].

    Lin et al. 2025 (UniWorld) weigh the edited part so, lest a model that copies its source has nearly no loss.

    Args:
        masks: what the edit changes, in {0, 1}, [B,K,H,W]; their union counts.
        size: (h, w) of the latents.
    """
    changed = mask_to_latents(masks, size).amax(dim=1, keepdim=True)
    return 1 + (inside - 1) * changed


def masked_noise_loss(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor,
    norm: Literal["squared", "l2"] = "squared",
) -> Tensor:
    """Error of what the denoiser predicts inside a mask: L_fg with M_t, L_bg with 1 - M_r (MMIG eq 17, 18), float32.

    The mean is over all positions, not over those of the mask, so the losses of a mask and of its complement add up
    to `noise_loss`. An empty mask gives 0, connected to the graph, with gradient 0.

    Args:
        prediction, target: as in `noise_loss`, [B,C,h,w].
        mask: in {0, 1}, [B,1,h,w] (`mask_to_latents`).
        norm: "squared" is the mean square, as eq 14 and 15 have it; "l2" the Euclidean norm over C, h and w, which is
            what eq 17 and 18 print.

    Raises:
        ValueError: a mask of another shape, or an unknown norm.
    """
    batch, _, height, width = prediction.shape
    if tuple(mask.shape) != (batch, 1, height, width):
        raise ValueError(
            f"masked noise loss: expected a mask of shape {(batch, 1, height, width)}, found {tuple(mask.shape)}; "
            "bring it to the latent grid with mask_to_latents"
        )
    if norm not in ("squared", "l2"):
        raise ValueError(f"masked noise loss: norm must be 'squared' or 'l2', found {norm!r}")
    masked = ((target.float() - prediction.float()) * mask.float()).flatten(1)
    return masked.square().mean(dim=1) if norm == "squared" else torch.linalg.vector_norm(masked, dim=1)


def mix_embeddings(object: Tensor, background: Tensor, alpha: float = 0.7) -> Tensor:
    """e_opt = alpha e_a + (1 - alpha) e_b (MMIG eq 16): text states of object and background as one condition.

    Args:
        object, background: text states of one shape, both padded to one length, [B,L,D].
        alpha: in [0, 1]; 1 is the object's states exactly, 0 the background's.
    """
    if object.shape != background.shape:
        raise ValueError(
            f"mixed embeddings: object {tuple(object.shape)} and background {tuple(background.shape)} must have one "
            "shape; pad both to the same number of tokens"
        )
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"mixed embeddings: alpha must be in [0, 1], found {alpha}")
    return alpha * object + (1 - alpha) * background


def mask_to_latents(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask of an image on the latent grid by max pooling, so that no object is too small to be kept.

    The background is 1 minus the pooled mask of the object, not the pooled mask of the background.

    Args:
        mask: in {0, 1}, [B,K,H,W]; H and W multiples of the latents'.
        size: (h, w) of the latents.

    Returns:
        float32 [B,K,h,w] in {0, 1}.
    """
    (height, width), (rows, columns) = mask.shape[-2:], size
    if height % rows or width % columns:
        raise ValueError(
            f"mask of {width}x{height} pixels: both sides must be multiples of the latents' {columns}x{rows}; "
            "resize the mask with its image"
        )
    return F.max_pool2d(mask.float(), (height // rows, width // columns))

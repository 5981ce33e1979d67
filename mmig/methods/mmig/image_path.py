"""The differentiable way from a denoiser's prediction to the image that the captioner sees (MMIG paper, eq 22).

Which samples of a batch take it, with which weight, and the loss at its end. Predicted images are readable only at low
noise (x0's error grows as s / a of the noise process), so the samples with early timesteps stand for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmig.diffusion.latents import decode
from mmig.diffusion.process import NoiseProcess
from mmig.language.token_loss import TokenLoss
from mmig.methods.mmig.captioner import Captioner
from mmig.training.rng import Draws

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class ImagePathConfig:
    """Which predicted images the captioner sees in training, and how far its gradient goes.

    Attributes:
        max_timestep_fraction: rows count whose timestep lies below this part of the schedule (250 of 1000): a later
            x0 is a blur. Their weight follows from it (4), so that the expectation over the drawn timesteps is kept.
        deliberate_share: 0 takes the rows that the uniform draw gives; above 0, this share of the samples draws its
            timestep below the limit on purpose, and leaves L_SDM, whose timesteps must stay uniform.
        blip_grad: "both" trains the Q-Former and, through the image, what predicted it; "captioner" detaches the
            image.
        decode_batch: most rows that the autoencoder decodes at a time.
    """

    max_timestep_fraction: float = 0.25
    deliberate_share: float = 0.0
    blip_grad: Literal["both", "captioner"] = "both"
    decode_batch: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for a value out of range, by name."""
        if not 0 < self.max_timestep_fraction <= 1:
            raise ValueError(f"max_timestep_fraction must be in (0, 1], found {self.max_timestep_fraction}")
        if not 0 <= self.deliberate_share <= 1:
            raise ValueError(f"deliberate_share must be in [0, 1], found {self.deliberate_share}")
        if self.blip_grad not in ("both", "captioner"):
            raise ValueError(f"blip_grad must be 'both' or 'captioner', found {self.blip_grad!r}")
        if self.decode_batch < 1:
            raise ValueError(f"decode_batch must be at least 1, found {self.decode_batch}")


class TimestepDraw(NamedTuple):
    """Timesteps of a batch and what they mean for its losses.

    Attributes:
        timesteps: as `NoiseProcess.sample_timesteps` gives them, [B].
        caption_weight: of each sample's L_BLIP2, float32 [B]; 0 where the image is too noisy. Its mean is 1.
        in_noise_loss: whether the sample counts in L_SDM, bool [B].
    """

    timesteps: Tensor
    caption_weight: Tensor
    in_noise_loss: Tensor


def draw_timesteps(process: NoiseProcess, draws: Draws, config: ImagePathConfig) -> TimestepDraw:
    """Each sample's timestep, and which predicted images are captioned with which weight.

    The draws are keyed by the sample. Without a deliberate share all timesteps are `process.sample_timesteps`.

    Args:
        process: its own distribution of timesteps gives the share of samples below the limit, and
            so the weight: 1 / 0.25 where timesteps are uniform.

    Raises:
        ValueError: no timestep is below the limit.
    """
    limit = config.max_timestep_fraction * process.num_timesteps
    uniform = draws.uniform("timestep")
    grid = (torch.arange(10_000) + 0.5) / 10_000
    share = (process.sample_timesteps(grid) < limit).float().mean()
    if share == 0:
        raise ValueError(f"max_timestep_fraction {config.max_timestep_fraction} leaves no timestep; raise it")
    if config.deliberate_share == 0:
        timesteps = process.sample_timesteps(uniform)
        return TimestepDraw(timesteps, (timesteps < limit) / share, torch.ones_like(timesteps, dtype=torch.bool))
    chosen = draws.bernoulli("captioned", config.deliberate_share)
    rises = bool(process.sample_timesteps(torch.zeros(1)) < limit)  # flow matching starts at pure noise
    low = uniform * share if rises else 1 - (1 - uniform) * share
    timesteps = process.sample_timesteps(torch.where(chosen, low, uniform))
    return TimestepDraw(timesteps, chosen / config.deliberate_share, ~chosen)


def predicted_images(
    process: NoiseProcess,
    vae: "AutoencoderKL",
    prediction: Tensor,
    noisy: Tensor,
    timesteps: Tensor,
    decode_batch: int = 1,
) -> Tensor:
    """Images that a denoiser's predictions stand for: the decoded x0, with a gradient to the prediction.

    A part's decoder activations are computed again in the backward pass, so that those of one part at most exist at a
    time; the autoencoder's own checkpointing, where it is switched on, lowers those in turn.

    Args:
        process: the noise process.
        vae: frozen.
        prediction, noisy: [B,c,h,w].
        timesteps: [B].
        decode_batch: most rows to decode at a time.

    Returns:
        float32 [B,3,H,W], about in [-1,1], not clamped.
    """
    clean = process.x0_from(prediction.float(), noisy.float(), timesteps).to(vae.dtype)
    parts = [
        checkpoint(decode, vae, part, use_reentrant=False, preserve_rng_state=False)
        for part in clean.split(decode_batch)
    ]
    return torch.cat(parts).float()


def caption_loss(
    captioner: Captioner,
    vae: "AutoencoderKL",
    process: NoiseProcess,
    prediction: Tensor,
    noisy: Tensor,
    timesteps: Tensor,
    captions: Sequence[list[int]],
    weight: Tensor,
    config: ImagePathConfig | None = None,
) -> TokenLoss:
    """L_BLIP2 (MMIG paper, eq 22): cross-entropy of the target captions given the predicted images.

    Only rows with a weight and a caption are decoded and captioned. Where there is none, one row of zeros runs with
    weight 0: on every rank each module runs and each trained weight has a gradient.

    Args:
        prediction, noisy: of the denoiser at `timesteps`, [B,c,h,w]; the forward that L_SDM comes from.
        timesteps: [B].
        captions: `Captioner.encode` of those of the target images, one a sample; [] where there is none.
        weight: `TimestepDraw.caption_weight`, 0 also for samples without a target; [B].
        config: of the image path.

    Returns:
        Weighted sums [B], 0 for rows without weight, and the token counts of *all* captions [B]: the weights make the
        sum over few rows stand for the sum over all.

    Raises:
        ValueError: not one caption and weight a sample.
    """
    config = config or ImagePathConfig()
    if not len(prediction) == len(captions) == len(weight):
        raise ValueError(
            f"caption_loss: {len(prediction)} predictions, {len(captions)} captions, {len(weight)} weights; "
            "give one of each a sample"
        )
    if config.blip_grad == "captioner":
        prediction = prediction.detach()
    counts = torch.tensor([float(len(caption)) for caption in captions], device=noisy.device)
    weight = weight.to(counts) * (counts > 0)
    chosen = weight.nonzero().flatten()
    rows = chosen if len(chosen) else chosen.new_zeros(1)
    prediction, noisy, timesteps = prediction[rows], noisy[rows], timesteps[rows]
    if len(chosen) == 0:  # not the row itself: what is infinite at its timestep would be so after times 0 too
        prediction = prediction.masked_fill(torch.ones_like(prediction, dtype=torch.bool), 0.0)
        noisy, timesteps = torch.zeros_like(noisy), torch.zeros_like(timesteps)
    images = predicted_images(process, vae, prediction, noisy, timesteps, config.decode_batch)
    loss = captioner.loss(images, [captions[row] for row in rows.tolist()])
    sums = torch.zeros_like(weight).index_add(0, rows, loss.sums * weight[rows])
    return TokenLoss(sums, counts)

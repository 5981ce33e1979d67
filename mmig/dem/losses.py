"""Losses of the diffusion editing model; each returns one value a sample, float32 [B]."""

from torch import Tensor


def noise_loss(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, position_weights: Tensor | None = None
) -> Tensor:
    """Mean squared error of what the denoiser predicts (L_SDM, MMIG eq 14), in float32 whatever the inputs are.

    Args:
        prediction: output of the denoiser, [B,C,h,w].
        target: `NoiseProcess.target`, same shape.
        weight: `NoiseProcess.weight` of each sample's timestep, [B]; None weighs all alike.
        position_weights: of each latent position, [B,1,h,w], mean 1 a sample; None weighs all alike.

    Returns:
        Mean over C, h and w of the (weighted) squared difference, [B].
    """
    squared = (prediction.float() - target.float()).square()
    if position_weights is not None:
        squared = squared * position_weights.float()
    losses = squared.flatten(1).mean(dim=1)
    return losses if weight is None else losses * weight.float()


def change_weights(source: Tensor, target: Tensor, emphasis: float, threshold: float = 0.2) -> Tensor:
    """Weights for `noise_loss` that put the positions which an edit changes in front, [B,1,h,w], mean 1 a sample.

    Most edits change a small part of the image, so the plain mean is almost all about what stays as it is. A position
    has changed if the root mean square over the channels of source - target exceeds `threshold`; it weighs
    1 + `emphasis` times as much as an unchanged one.

    Args:
        source, target: latents of about unit variance, [B,c,h,w].
        emphasis: 0 weighs all alike.
        threshold: in units of the latents' standard deviation; an autoencoder's latents differ a little everywhere.
    """
    changed = (source - target).square().mean(dim=1, keepdim=True).sqrt() > threshold
    weights = 1 + emphasis * changed.float()
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)

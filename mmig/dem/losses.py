"""Losses of the diffusion editing model; each returns one value a sample, float32 [B]."""

from torch import Tensor


def noise_loss(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of what the denoiser predicts (L_SDM, MMIG eq 14), in float32 whatever the inputs are.

    Args:
        prediction: output of the denoiser, [B,C,h,w].
        target: `NoiseProcess.target`, same shape.
        weight: `NoiseProcess.weight` of each sample's timestep, [B]; None weighs all alike.

    Returns:
        Mean over C, h and w of the squared difference, [B].
    """
    squared = (prediction.float() - target.float()).square().flatten(1).mean(dim=1)
    return squared if weight is None else squared * weight.float()

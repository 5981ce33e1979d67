"""Adaptive instance normalisation, the step of StyleGAN that modulated convolutions take the place of."""

from torch import Tensor


def adain(features: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-8) -> Tensor:
    """Every feature map brought to mean `shift` and standard deviation |`scale`| (eq 5).

    StyleGAN2 (Karras et al. 2020, section 2.2) divides by the expected deviation instead, folded into the weights: see
    `modulated_conv`. No generator here calls this function; a test shows what replaces it.

    Args:
        features: x, [B,C,H,W].
        scale, shift: y_s and y_b, [B,C].
        eps: added to the variance.
    """
    variance, mean = features.var((2, 3), correction=0, keepdim=True), features.mean((2, 3), keepdim=True)
    return scale[..., None, None] * (features - mean) * (variance + eps).rsqrt() + shift[..., None, None]  # (5)

"""Images to latents and back: posterior, scale and shift of an autoencoder."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


def encode_unscaled(vae: "AutoencoderKL", images: Tensor) -> Tensor:
    """Mode of the posterior as it comes, [B,c,h,w]; InstructPix2Pix's image condition (Brooks et al. 2023)."""
    return vae.encode(images).latent_dist.mode()


def encode(vae: "AutoencoderKL", images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Latents that the denoiser works on: the posterior's mode, or a sample of it where `noise` is given, normalised.

    Args:
        vae: frozen or not; its config's `scaling_factor` and `shift_factor` are applied.
        images: float [B,3,H,W] in [-1,1].
        noise: standard normal of the latents' shape, or None for the mode.

    Returns:
        Latents of about unit variance, [B,c,h,w].
    """
    return from_posterior(vae, vae.encode(images).latent_dist, noise)


def from_posterior(
    vae: "AutoencoderKL", posterior: "DiagonalGaussianDistribution", noise: Tensor | None = None
) -> Tensor:
    """`encode` of images whose posterior is known already; arguments and result as there."""
    return normalise(vae, posterior.mode() if noise is None else posterior.mean + posterior.std * noise)


def normalise(vae: "AutoencoderKL", latents: Tensor) -> Tensor:
    """Raw latents -> (latents - shift) * scale, as the denoiser sees them."""
    return (latents - _shift(vae)) * vae.config.scaling_factor


def unnormalise(vae: "AutoencoderKL", latents: Tensor) -> Tensor:
    """Undo `normalise`."""
    return latents / vae.config.scaling_factor + _shift(vae)


def decode(vae: "AutoencoderKL", latents: Tensor) -> Tensor:
    """Normalised latents [B,c,h,w] -> images [B,3,H,W], about in [-1,1]; not clamped, so that gradients pass."""
    return vae.decode(unnormalise(vae, latents)).sample


def latent_shape(vae: "AutoencoderKL", height: int, width: int) -> tuple[int, int, int]:
    """(c, h, w) of the latents of an image of height x width pixels.

    Raises:
        ValueError: a side is no multiple of the autoencoder's factor.
    """
    factor = reduction(vae)
    if height % factor or width % factor:
        raise ValueError(f"image of {height}x{width} pixels: both sides must be multiples of {factor} for this VAE")
    return vae.config.latent_channels, height // factor, width // factor


def reduction(vae: "AutoencoderKL") -> int:
    """How many pixels a side of a latent stands for."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def usual_resolution(vae: "AutoencoderKL", denoiser: nn.Module) -> int | None:
    """Longer side in pixels of the images that a denoiser was made for; None where its config does not say."""
    size = denoiser.config.sample_size
    return None if size is None else reduction(vae) * (size if isinstance(size, int) else max(size))


def _shift(vae: "AutoencoderKL") -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0

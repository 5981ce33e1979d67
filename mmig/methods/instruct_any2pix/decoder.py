"""F_diffusion: autoencoder, denoiser and projector as one thing that draws vectors, and may be swapped for another one
(Li et al. 2023, sections 3.4.1 and 10.4).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmig.backbones.diffusion import check_compatible, load_scheduler, load_unet, load_vae
from mmig.backbones.named import Origin, Source
from mmig.backbones.parts import SCHEDULER, UNET, VAE, BackboneError
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.latents import usual_resolution
from mmig.diffusion.saving import save_parts
from mmig.diffusion.sdxl import conditioning, pooled_width
from mmig.methods.instruct_any2pix.projectors import (
    PROJECTOR,
    EmbeddingProjector,
    IPAdapterProjector,
    cross_attentions,
    load_projector,
)

DECODER_PARTS = {part.name: part for part in (VAE, UNET, SCHEDULER, PROJECTOR)}
Projector = EmbeddingProjector | IPAdapterProjector


@dataclass
class Decoder:
    """What draws the picture of a vector.

    Attributes:
        vae: autoencoder; in float32, for SDXL's gives black pictures in float16.
        unet: denoiser; told sizes and a pooled vector if it is SDXL's.
        scheduler: any of diffusers.
        projector: from vectors to conditions, installed in the denoiser.
    """

    vae: nn.Module
    unet: nn.Module
    scheduler: Any
    projector: Projector

    @property
    def resolution(self) -> int | None:
        """Of the pictures that the denoiser was made for."""
        return usual_resolution(self.vae, self.unet)

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        return self.unet.device

    def to(self, device: torch.device | str) -> "Decoder":
        """The same, on a device."""
        return Decoder(self.vae.to(device), self.unet.to(device), self.scheduler, self.projector.to(device))

    def branches(self, vectors: Tensor, size: tuple[int, int]) -> dict[str, Conditioning]:
        """Conditions "full" and "null" of a guided denoiser.

        Args:
            vectors: [B,D].
            size: (H, W) in pixels.
        """
        found = {"full": self.projector(vectors), "null": self.projector.null(len(vectors))}
        return {name: conditioning(self.unet, value, size) for name, value in found.items()}


def check_projector(unet: nn.Module, projector: Projector, embed_dim: int) -> None:
    """Raise BackboneError where a projector does not fit denoiser or vectors."""
    wanted = {"embed_dim": embed_dim, "context_dim": unet.config.cross_attention_dim, "pooled_dim": pooled_width(unet)}
    found = {name: projector.config[name] for name in wanted}
    if isinstance(projector, IPAdapterProjector):
        wanted["layers"], found["layers"] = len(cross_attentions(unet)), len(projector.layers)
    if found != wanted:
        name = next(name for name in wanted if found[name] != wanted[name])
        raise BackboneError(
            f"decoder: the projector has {name} {found[name]}, denoiser and encoder need {wanted[name]}; give parts of "
            "one decoder"
        )


def load_decoder(source: Source | dict[str, Origin], embed_dim: int) -> Decoder:
    """A decoder from a folder or a run of `DecoderModule`, or from the origins of its parts; frozen.

    Args:
        source: folder, or origins by the names of `DECODER_PARTS`.
        embed_dim: D of the vectors that it is to draw.

    Raises:
        BackboneError: a part is missing or broken, or they do not fit each other.
    """
    places = source if isinstance(source, dict) else dict.fromkeys(DECODER_PARTS, source)
    vae = load_vae(places["vae"])
    unet = load_unet(places["unet"], in_channels=vae.config.latent_channels).to(memory_format=torch.channels_last)
    check_compatible(unet, vae=vae)
    projector = load_projector(places["projector"])
    check_projector(unet, projector, embed_dim)
    projector.install(unet)
    return Decoder(vae, unet, load_scheduler(places["scheduler"]), projector)


def save_decoder(decoder: Decoder, folder: Path) -> None:
    """Write its parts for `load_decoder`."""
    save_parts(folder, {name: getattr(decoder, name) for name in DECODER_PARTS})

"""What differs between kinds of denoisers: how one is called, where the image stands in it, what its config says.

UNets, and transformers that take latents as maps, are `MapKind`; FLUX's, which take packed latents as tokens, are
`mmig/diffusion/flux.py`. Everything else asks `kind_of` and treats all alike.
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from mmig.diffusion.flux import FluxKind
from mmig.diffusion.latents import reduction
from mmig.diffusion.unfit import ConditioningError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from mmig.diffusion.conditioning import Conditioning


class DenoiserKind(Protocol):
    """A kind of denoisers.

    Attributes:
        image_entry: which of several outputs of a block is the image's; None: the one with as many tokens as it has.
        reads_pooled: whether it takes one vector of the text beside its states.
        takes_mask: whether some of the text's tokens may be hidden from it.
    """

    image_entry: int | None
    reads_pooled: bool
    takes_mask: bool

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: "Conditioning") -> Tensor:
        """Its prediction [B,C,h,w] for latents [B,C,h,w] at timesteps [B].

        Raises:
            ConditioningError: a condition that it has no place for.
        """
        ...

    def grid(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """(h, w) of the image's tokens where latents are `size`; None where its blocks show that themselves."""
        ...

    def widths(self, denoiser: nn.Module) -> Mapping[str, int]:
        """Paths of the blocks at which something may be attached, and the channels there."""
        ...

    def attention_size(
        self, denoiser: nn.Module, size: tuple[int, int], resolution: tuple[int, int]
    ) -> tuple[int, int]:
        """(h, w) of the attention to text where latents are `size`, if it is `resolution` at the usual size."""
        ...

    def usual_resolution(self, denoiser: nn.Module, vae: "AutoencoderKL") -> int:
        """Longer side in pixels of the images that it was made for."""
        ...

    def guidance(self, denoiser: nn.Module, scale: float, count: int) -> Mapping[str, Tensor]:
        """Entries of `Conditioning.extra` by which it is told a scale of guidance; none where it is told none."""
        ...

    def schedule(self, scheduler: Any, num_steps: int, size: tuple[int, int]) -> Mapping[str, Any]:
        """Further arguments of the scheduler's `set_timesteps` for latents of `size`."""
        ...

    def check(self, denoiser: nn.Module, latent_channels: int, source_conditioning: str) -> None:
        """Raise ValueError unless it can see the source so, by what its channels are."""
        ...


class MapKind:
    """UNets (Stable Diffusion, SDXL) and transformers (PixArt, Stable Diffusion 3) that take latents as maps."""

    image_entry = None
    reads_pooled = False
    takes_mask = True

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: "Conditioning") -> Tensor:
        """As of `DenoiserKind`; image latents stand beside the noisy ones on the channel axis.

        Where it also predicts the variance, in as many channels again (Nichol & Dhariwal 2021), these are left out.
        """
        inputs = noisy if condition.image_latents is None else torch.cat([noisy, condition.image_latents], dim=1)
        prediction = denoiser(inputs, timestep=timesteps, **_arguments(denoiser, condition)).sample
        channels = noisy.shape[1]
        return prediction[:, :channels] if prediction.shape[1] == 2 * channels else prediction

    def grid(self, size: tuple[int, int]) -> None:
        """None: maps, and tokens of a patch size that their number shows."""

    def widths(self, denoiser: nn.Module) -> Mapping[str, int]:
        """Of a UNet: the middle, down and up blocks."""
        widths = denoiser.config.block_out_channels
        known = {"mid_block": widths[-1]}
        known |= {f"down_blocks.{index}": width for index, width in enumerate(widths)}
        return known | {f"up_blocks.{index}": width for index, width in enumerate(reversed(widths))}

    def attention_size(
        self, denoiser: nn.Module, size: tuple[int, int], resolution: tuple[int, int]
    ) -> tuple[int, int]:
        """At the level of a UNet that has `resolution` on its usual latents."""
        return attention_size(size, denoiser.config.sample_size, resolution)

    def usual_resolution(self, denoiser: nn.Module, vae: "AutoencoderKL") -> int:
        """`sample_size` of its config, which counts latents."""
        return denoiser.config.sample_size * reduction(vae)

    def guidance(self, denoiser: nn.Module, scale: float, count: int) -> Mapping[str, Tensor]:
        """None: it is guided by branches alone."""
        return {}

    def schedule(self, scheduler: Any, num_steps: int, size: tuple[int, int]) -> Mapping[str, Any]:
        """Nothing: the scheduler's own steps."""
        return {}

    def check(self, denoiser: nn.Module, latent_channels: int, source_conditioning: str) -> None:
        """Its input channels are those of the latents, for "concat" twice as many."""
        if source_conditioning == "sequence":
            raise ValueError(
                "source_conditioning 'sequence' makes the source tokens of a FLUX transformer, and the denoiser is a "
                f"{type(denoiser).__name__}; expected 'img2img' or 'concat'"
            )
        expected = latent_channels if source_conditioning == "img2img" else 2 * latent_channels
        found = denoiser.config.in_channels
        if found != expected:
            raise ValueError(
                f"source_conditioning {source_conditioning!r} needs a UNet with {expected} input channels, "
                f"found {found}; a frozen UNet must have been trained with them (a widened one cannot see the source)"
            )


MAPS = MapKind()
PACKED = FluxKind()


def kind_of(denoiser: nn.Module) -> DenoiserKind:
    """The kind of a denoiser of diffusers, which FSDP2 or compiling may have made a class of their own of."""
    return PACKED if any(each.__name__ == FluxKind.made_for for each in type(denoiser).__mro__) else MAPS


def attention_size(latents: tuple[int, int], usual: int, resolution: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the attention at the level of a UNet that has `resolution` on its usual latents.

    Args:
        latents: (h, w) of the latents.
        usual: side of the latents that the denoiser was made for (`sample_size` of a UNet's config).
        resolution: (h, w) of the attention there.
    """
    height, width = latents
    size = usual
    while size > max(resolution):  # each level halves, rounding up
        height, width, size = -(-height // 2), -(-width // 2), -(-size // 2)
    return height, width


def _arguments(denoiser: nn.Module, condition: "Conditioning") -> dict[str, Any]:
    """A condition as arguments of the denoiser's forward, by the names that this has."""
    takes = inspect.signature(denoiser.forward).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())  # it is wrapped
    arguments: dict[str, Any] = {"encoder_hidden_states": condition.tokens}
    arguments |= {name: value for name, value in condition.extra.items() if name in takes}
    added = {name: value for name, value in condition.extra.items() if name not in takes}
    if condition.pooled is not None and "pooled_projections" in takes:
        arguments["pooled_projections"] = condition.pooled
    elif condition.pooled is not None:
        added["text_embeds"] = condition.pooled
    for name, value in (("encoder_attention_mask", condition.mask), ("added_cond_kwargs", added or None)):
        if name in takes or takes_all:
            arguments[name] = value
        elif value is not None:
            what = "mask of the tokens" if name == "encoder_attention_mask" else f"condition {', '.join(added)}"
            raise ConditioningError(f"denoiser {type(denoiser).__name__} takes no {what} ({name}); leave it out")
    return arguments

"""Pictures into codes, by an encoder where there is one, else by the projector."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mmig.methods.styleclip.e4e import load_e4e
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.projector import Inverted, Perceptual, project, squared_error
from mmig.metrics.lpips import MIN_SIZE, load_lpips

LPIPS_NETWORK = "alex"


class Inverter(nn.Module):
    """Finds the codes of pictures.

    Args:
        generator: frozen.
        encoder: pictures -> codes, such as e4e; None: the projector.
        lpips: network of two sets of pictures in [-1,1] -> [B,1,1,1], for the projector; None: pixels alone.
    """

    def __init__(
        self, generator: StyleGenerator, encoder: nn.Module | None = None, lpips: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.generator, self.encoder, self.lpips = generator, encoder, lpips

    def forward(self, images: Tensor, num_steps: int, generators: Sequence[torch.Generator]) -> Inverted:
        """Codes of pictures [B,3,R,R] in [-1,1] of the size of the generator's; see `project`."""
        if self.encoder is None:
            return project(self.generator, images, num_steps, generators, self._perceptual())
        with torch.no_grad():
            codes, noise = self.encoder(images), self.generator.fixed_noise()
        return Inverted(codes, noise, squared_error(self.generator, codes, noise, images))

    def _perceptual(self) -> Perceptual | None:
        lpips = self.lpips
        return None if lpips is None else lambda drawn, images: lpips(drawn, images).flatten()


def load_inverter(
    generator: StyleGenerator, encoder: str | Path | None = None, lpips: str | Path | None = None
) -> Inverter:
    """The inverter of a generator.

    Args:
        generator: frozen.
        encoder: file of e4e, see `load_e4e`.
        lpips: file of AlexNet's weights as torchvision publishes them; generators of at least 32 pixels.

    Raises:
        BackboneError: a file that is missing, unreadable or of something else.
        ValueError: LPIPS for smaller pictures.
    """
    if lpips is not None and (side := generator.picture_side) < (least := MIN_SIZE[LPIPS_NETWORK]):
        raise ValueError(f"lpips: expected a generator of at least {least} pixels, found {side}; leave lpips out")
    network = None if lpips is None else load_lpips(LPIPS_NETWORK, lpips).network
    return Inverter(generator, None if encoder is None else load_e4e(encoder, generator.num_codes), network)

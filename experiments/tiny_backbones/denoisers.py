"""Training of the tiny denoisers with a reader of the scene, thrown away, on the states in the middle of the UNet.

From the noise alone a small denoiser learns for very long not which words are of one object and where it is to
stand. The reader asks its coarsest states what stands at each place of the picture that it is to make, so that text and
place meet there early (representation alignment, Yu et al. 2024, with the scene graph as the teacher).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from experiments.tiny_backbones.scene_reader import SceneReader, are_known, reading_losses, scene_labels
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.latent_diffusion.text_to_image import TextToImageModule
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

TERM = "dense_scene"


class MiddleReader(nn.Module):
    """Reads a scene from states [B,C,h,w] of a UNet, which do not say themselves where they are.

    Args:
        channels: C. side: h and w.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.places = nn.Parameter(0.02 * torch.randn(side * side, channels))
        self.reader = SceneReader(channels)

    def forward(self, states: Tensor) -> tuple[Tensor, ...]:
        """Logits [B,9,1+values] of each attribute."""
        return self.reader(states.flatten(2).mT + self.places)


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module gives while this is open, call by call."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


def with_reading(module: Any, sdm: LossTerm, scenes: Sequence[Mapping[str, Any] | None]) -> dict[str, LossTerm]:
    """The noise loss, and what the reader loses on the same pass; scenes that are None do not count."""
    labels = scene_labels(scenes)
    counts = are_known(scenes).to(module.device) & sdm.counts.bool()

    @cache
    def values() -> tuple[Tensor, Tensor]:
        with outputs_of(module.unet.mid_block) as states:
            noise = sdm.values
        return noise, reading_losses(module.reader(states[0]), labels.to(noise.device))

    return {
        "sdm": LossTerm(sdm.counts, lambda: values()[0]),
        TERM: LossTerm(counts, lambda: values()[1]),
    }


def middle_reader(unet: nn.Module) -> MiddleReader:
    """A reader for the middle block of a UNet."""
    config: Any = unet.config
    return MiddleReader(config.block_out_channels[-1], config.sample_size >> (len(config.block_out_channels) - 1))


class Drawing(TextToImageModule):
    """`TextToImageModule` with the term "dense_scene": what stands where in the captioned picture.

    Args:
        arguments: those of `TextToImageModule`.
    """

    known_losses = ("sdm", TERM)

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self.reader = middle_reader(self.unet)

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Scenes count where they are known and the caption is not dropped."""
        at_target, dropped = self._at_target(batch, draws), draws.bernoulli("caption_drop", self.caption_drop)
        fields = ["target_scene" if chosen else "source_scene" for chosen in at_target.tolist()]
        rows = zip(fields, dropped.tolist(), batch["metadata"], strict=True)
        scenes = [None if drop else known.get(field) for field, drop, known in rows]
        return with_reading(self, super().losses(batch, draws)["sdm"], scenes)


class Editing(InstructPix2PixModule):
    """`InstructPix2PixModule` with the term "dense_scene": what stands where after the edit.

    Args:
        arguments: those of `InstructPix2PixModule`.
    """

    known_losses = ("sdm", TERM)

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self.reader = middle_reader(self.unet)

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Scenes count where they are known and can be told from what the denoiser is given."""
        fields, without_image = self._fields(batch, draws)
        rows = zip(fields, without_image.tolist(), batch["metadata"], strict=True)
        scenes = [
            None if field == "" or (field == "instruction" and blind) else known.get("target_scene")
            for field, blind, known in rows
        ]
        return with_reading(self, super().losses(batch, draws)["sdm"], scenes)

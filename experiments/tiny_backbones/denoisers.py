"""Training of the tiny denoisers with helpers that are thrown away: what a denoiser is asked beside the noise.

From the noise alone a small denoiser learns for very long not which words are of one object and where it is to
stand. Two helpers let text and place meet early:
- a reader asks the coarsest states of the UNet what stands at each place of the picture that it is to make
  (representation alignment, Yu et al. 2024, with the scene graph as the teacher);
- the attention to the words of an object is pulled into the object's mask (Wang et al. 2024, TokenCompose).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from experiments.tiny_backbones.scene_reader import SceneReader, are_known, reading_losses, scene_labels
from mmig.diffusion.attention import capture_attention
from mmig.diffusion.concepts import ConceptTokens, locate_concepts
from mmig.diffusion.losses import mask_to_latents
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.latent_diffusion.text_to_image import TextToImageModule
from mmig.methods.mmig.attention_losses import joined_maps
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

READING, ATTENTION = "dense_scene", "attention"


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


class HelpedPass:
    """One pass of a denoiser for the noise loss, and what the helpers look at while it runs.

    Args:
        module: has `unet` and `scene_reader`.
        sdm: the noise loss.
        shown: whether the helpers count; where not, they are not computed.
    """

    def __init__(self, module: Any, sdm: LossTerm, shown: bool = True) -> None:
        self.module, self.sdm, self.shown = module, sdm, shown
        side = module.unet.config.sample_size
        self.resolution = (side, side)

    @cached_property
    def _seen(self) -> tuple[Tensor, Tensor, Any]:
        """The noise loss [B], the states of the middle [B,C,h,w], and, if asked for, the finest attention."""
        unet, looks = self.module.unet, ATTENTION in self.module.loss_weights
        capture = capture_attention(unet, self.resolution) if looks else nullcontext()
        with outputs_of(unet.mid_block) as states, capture as attention:
            noise = self.sdm.values
        return noise, states[0], attention

    def noise(self) -> LossTerm:
        """The noise loss as it is."""
        return LossTerm(self.sdm.counts, lambda: self._seen[0])

    def reading(self, scenes: Sequence[Mapping[str, Any] | None]) -> LossTerm:
        """What the reader loses; scenes that are None do not count."""
        labels = scene_labels(scenes)
        counts = are_known(scenes).to(self.module.device) & self.sdm.counts.bool()
        return self._helper(
            counts, lambda: reading_losses(self.module.scene_reader(self._seen[1]), labels.to(self._seen[1].device))
        )

    def attention(self, tokens: ConceptTokens, masks: Tensor) -> LossTerm:
        """How much of the attention to words of concepts falls outside their masks [B,K,H,W].

        Of a batch whose richest sample is not shown its concepts, the last masks are of nothing.
        """
        places = mask_to_latents(masks[:, : tokens.valid.shape[1]], self.resolution)
        counts = tokens.valid.any(dim=1).to(self.module.device) & self.sdm.counts.bool()
        return self._helper(counts, lambda: attention_outside(self._seen[2].average(), tokens, places))

    def _helper(self, counts: Tensor, compute: Callable[[], Tensor]) -> LossTerm:
        return LossTerm(counts, compute) if self.shown else LossTerm(counts & False, lambda: 0 * self._seen[0])


def attention_outside(attention: Tensor, tokens: ConceptTokens, masks: Tensor) -> Tensor:
    """L_token of TokenCompose (Wang et al. 2024, eq 2), mean over the concepts of a text, float32 [B].

    (1 - A inside the mask / A everywhere)^2 of each concept, A being the mean of its words' attention. 0: all
    attention is inside; 1: none is, or the mask is empty. Texts without concepts give 0.

    Args:
        attention: of every token, [B,T,h,w].
        tokens: where the concepts are.
        masks: of the concepts, in {0, 1}, [B,K,h,w].
    """
    tokens = tokens.to(attention.device)
    maps = joined_maps(attention.float(), tokens.positions)
    inside = (maps * masks.to(maps.device)).sum((2, 3)) / maps.sum((2, 3)).clamp(min=1e-6)
    losses = (1 - inside).square() * tokens.valid
    return losses.sum(1) / tokens.valid.sum(1).clamp(min=1)


def middle_reader(unet: nn.Module) -> MiddleReader:
    """A reader for the middle block of a UNet."""
    config: Any = unet.config
    return MiddleReader(config.block_out_channels[-1], config.sample_size >> (len(config.block_out_channels) - 1))


class Drawing(TextToImageModule):
    """`TextToImageModule` with the term "dense_scene": what stands where in the captioned picture.

    Args:
        arguments: those of `TextToImageModule`.
    """

    known_losses = ("sdm", READING)

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self.scene_reader = middle_reader(self.unet)

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Scenes count where they are known and the caption is not dropped."""
        at_target, dropped = self._at_target(batch, draws), draws.bernoulli("caption_drop", self.caption_drop)
        fields = ["target_scene" if chosen else "source_scene" for chosen in at_target.tolist()]
        rows = zip(fields, dropped.tolist(), batch["metadata"], strict=True)
        scenes = [None if drop else known.get(field) for field, drop, known in rows]
        helped = HelpedPass(self, super().losses(batch, draws)["sdm"])
        return {"sdm": helped.noise(), READING: helped.reading(scenes)}


class Editing(InstructPix2PixModule):
    """`InstructPix2PixModule` with "dense_scene": what stands where after the edit; and with "attention", of responses.

    The terms are those that `loss_weights` names.

    Args:
        helper_steps: for how many steps the helpers count; None: always.
        arguments: those of `InstructPix2PixModule`.
    """

    known_losses = ("sdm", READING, ATTENTION)

    def __init__(self, *args: Any, helper_steps: int | None = None, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self.helper_steps = helper_steps
        self.scene_reader = middle_reader(self.unet)

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Scenes count where they are known and can be told from what the denoiser is given, attention in responses."""
        fields, without_image = self._fields(batch, draws)
        shown = self.helper_steps is None or self.step < self.helper_steps
        helped = HelpedPass(self, super().losses(batch, draws)["sdm"], shown)
        terms = {"sdm": helped.noise()}
        if READING in self.loss_weights:
            rows = zip(fields, without_image.tolist(), batch["metadata"], strict=True)
            scenes = [
                None if field == "" or (field == "instruction" and blind) else known.get("target_scene")
                for field, blind, known in rows
            ]
            terms[READING] = helped.reading(scenes)
        if ATTENTION in self.loss_weights:
            named = zip(fields, batch["concepts"], strict=True)
            phrases = [found if field == "response" else [] for field, found in named]
            tokens = locate_concepts(self.tokenizer, batch["response"], phrases)
            terms[ATTENTION] = helped.attention(tokens, batch["concept_masks"])
        return terms

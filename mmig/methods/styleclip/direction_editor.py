"""The third way: one direction in style space S for all pictures, found from two texts; nothing is trained."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.named import Backbone
from mmig.base.paths import resolved
from mmig.base.values import check_values
from mmig.methods.styleclip.clip_loss import ONE_TEMPLATE, PHOTO_TEMPLATES, ClipLoss
from mmig.methods.styleclip.directions import (
    StyleDirections,
    channel_steps,
    moved_styles,
    text_direction,
)
from mmig.methods.styleclip.editing import CodeEditor, InversionSampling, Texts
from mmig.methods.styleclip.errors import StyleClipError
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.inversion import Inverter, load_inverter
from mmig.methods.styleclip.loading import EDITING_PARTS, editing_origins, load_generator, load_loss_clip
from mmig.methods.styleclip.projector import Inverted
from mmig.methods.styleclip.relevance import read_directions

TEMPLATES = {"photos": PHOTO_TEMPLATES, "none": ONE_TEMPLATE}


@dataclass(frozen=True)
class DirectionSampling(InversionSampling):
    """How pictures are moved; the defaults are the authors'.

    Attributes:
        alpha: strength, -10 to 10; below 0 away from the text.
        beta: relevance below which a channel stays, 0.08 to 0.3: more leaves more of the picture alone.
        neutral: what the sources show, where their samples do not say it ("a face").
        templates: sentences that a text is read in: "photos" are CLIP's 79 about photographs.
        text: field of the batch that says what the pictures are to show.
    """

    alpha: float = 4.1
    beta: float = 0.15
    neutral: str = ""
    templates: Literal["photos", "none"] = "photos"
    text: Texts = "target_caption"

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        super().__post_init__()
        check_values(self, "sampling", beta=(0, 1))


class GlobalDirectionEditor(CodeEditor):
    """Moves the styles of each picture along the direction of its two texts.

    Args:
        inverter: with the generator.
        clip: reads the texts.
        directions: of this generator and CLIP.
        sampling: how.
    """

    optional_fields: tuple[str, ...] = ("source_caption",)
    sampling: DirectionSampling

    def __init__(
        self,
        inverter: Inverter,
        clip: ClipLoss,
        directions: StyleDirections,
        sampling: DirectionSampling | None = None,
    ) -> None:
        super().__init__(inverter, sampling or DirectionSampling())
        self.clip, self.directions = clip, directions

    @property
    def required_fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """A picture and what it is to show."""
        return ("source", self.sampling.text)

    def prompts(self, batch: Batch) -> list[str]:
        """The target texts."""
        return list(batch[self.sampling.text])  # type: ignore[literal-required]

    def aims(self, batch: Batch) -> Tensor:
        """Delta s [B,C]."""
        pairs = zip(self.prompts(batch), self._neutral(batch), strict=True)
        return torch.stack([self.steps(target, neutral) for target, neutral in pairs])

    @torch.no_grad()
    def edit(self, inverted: Inverted, aims: Tensor) -> Tensor:
        """Pictures of s + alpha Delta s."""
        steps = self.sampling.alpha * aims.to(inverted.codes)
        styles = moved_styles(self.generator.styles(inverted.codes), self.directions.places, steps)
        return self.generator.synthesise(styles, inverted.noise)

    def steps(self, target: str, neutral: str) -> Tensor:
        """Delta s for alpha = 1, [C], of two texts."""
        texts = self.clip.encode_texts([target, neutral], TEMPLATES[self.sampling.templates]).cpu()
        known = self.directions
        return channel_steps(known.relevance, text_direction(texts[0], texts[1]), known.std, self.sampling.beta)

    def _neutral(self, batch: Batch) -> list[str]:
        count, given = len(batch["key"]), self.sampling.neutral
        present = batch.get("has_source_caption", torch.zeros(count, dtype=torch.bool)).tolist()
        texts = [batch["source_caption"][row] if has and not given else given for row, has in enumerate(present)]
        if not all(text.strip() for text in texts):
            raise StyleClipError(
                "sampling.neutral: expected words for what the sources show, found none, and samples without "
                'source_caption; give --sampling neutral="a face"'
            )
        return texts


def direction_parts(
    generator: str | Backbone, clip: str | Backbone, clip_normalise: bool
) -> tuple[StyleGenerator, ClipLoss, dict[str, Any]]:
    """Generator, CLIP, and the facts by which their directions are known.

    Raises:
        BackboneError: a part that is missing or broken.
    """
    named = editing_origins(generator, clip)
    facts = {name: fingerprint(origin) for name, origin in named.items()} | {"clip_normalise": clip_normalise}
    return load_generator(named["generator"]), ClipLoss(load_loss_clip(named["clip"]), clip_normalise), facts


def open_editor(
    generator: str | Backbone,
    clip: str | Backbone,
    directions: str,
    encoder: str | None = None,
    lpips: str | None = None,
    clip_normalise: bool = False,
    sampling: DirectionSampling | None = None,
) -> GlobalDirectionEditor:
    """Global directions from pretrained parts.

    Args:
        generator, clip, encoder, lpips, clip_normalise: as of latent optimisation.
        directions: folder that `python -m mmig.methods.styleclip directions` has filled.
        sampling: how.

    Raises:
        BackboneError: a part that is missing, broken or does not fit.
    """
    network, loss, facts = direction_parts(generator, clip, clip_normalise)
    known = read_directions(resolved(directions), network, facts)
    return GlobalDirectionEditor(load_inverter(network, encoder, lpips), loss, known, sampling)


open_editor.backbone_settings = EDITING_PARTS  # type: ignore[attr-defined]  # for `python -m mmig.backbones fetch`

"""What the three ways of editing share: a picture is inverted, its code moves, the generator draws the edited one."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.schema import Batch
from mmig.base.values import Limits, check_values
from mmig.diffusion.sampling import Generators, per_sample
from mmig.editor import EditOutput, ResponseSource, check_fields
from mmig.methods.styleclip.errors import StyleClipError
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.inversion import Inverter
from mmig.methods.styleclip.projector import Inverted
from mmig.metrics.images import resized_signed

METRIC = "mmig.methods.styleclip.metric.InversionError"
FROM_ZERO: Limits = (0, float("inf"))
Texts = Literal["target_caption", "instruction"]


@dataclass(frozen=True)
class InversionSampling:
    """How pictures are inverted.

    Attributes:
        inversion_steps: of the projector; an encoder needs none.
        inversion_limit: mean squared error, of values in [-1,1], above which a picture counts as not inverted and is
            refused; None takes any.
        uninverted: what becomes of such a picture: "refuse" ends the edit, "skip" marks it as missing for metrics.
    """

    inversion_steps: int = 1000
    inversion_limit: float | None = 0.1
    uninverted: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        check_values(self, "sampling", inversion_steps=(1, float("inf")), inversion_limit=FROM_ZERO)


class CodeEditor(ABC):
    """Edits pictures through their codes.

    `extras["inversion_error"]` holds the error of each sample's inversion, `extras["inversion_seconds"]` its share of
    their time, `extras["missing"]` which are skipped.

    Args:
        inverter: with the generator.
        sampling: how.
    """

    required_fields: tuple[str, ...] = ("source",)
    response_source: ResponseSource = "none"
    metrics: tuple[str, ...] = (METRIC,)

    def __init__(self, inverter: Inverter, sampling: InversionSampling) -> None:
        self.inverter, self.sampling = inverter, sampling

    @property
    def generator(self) -> StyleGenerator:
        """Draws the pictures."""
        return self.inverter.generator

    @property
    def resolution(self) -> int:
        """Of the pictures that the generator draws."""
        return self.generator.picture_side

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """What an encoder makes idle."""
        return () if self.inverter.encoder is None else ("inversion_steps",)

    def prompts(self, batch: Batch) -> list[str]:
        """What each picture is to show, for `EditOutput.texts`; "" where the editor knows its one prompt."""
        return [""] * len(batch["key"])

    @abstractmethod
    def aims(self, batch: Batch) -> Any:
        """What `edit` needs to know of the texts; what is wrong with them is refused here, before the inversion."""

    @abstractmethod
    def edit(self, inverted: Inverted, aims: Any) -> Tensor:
        """Pictures [B,3,R,R] of moved codes; gradients may be taken."""

    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """Edit a batch; pictures come in the size of the sources.

        Raises:
            MissingFieldError: a sample lacks a field.
            StyleClipError: a picture that is no square, one that could not be inverted, or a text that CLIP cuts.
        """
        check_fields(self, batch)
        texts, draws = self.prompts(batch), per_sample(generator, len(batch["key"]))
        with torch.inference_mode(False), torch.enable_grad():
            aims, sources, begun = self.aims(batch), self._sources(batch), time.perf_counter()
            inverted = self.inverter(sources, self.sampling.inversion_steps, draws)
            errors, seconds = inverted.errors.tolist(), (time.perf_counter() - begun) / len(texts)
            missing = self._not_inverted(errors, batch["key"])
            images = self.edit(inverted, aims).detach().float().clamp(-1, 1)
        extras = {"inversion_error": errors, "inversion_seconds": [seconds] * len(texts), "missing": missing}
        if (size := tuple(batch["source"].shape[-2:])) != images.shape[-2:]:
            extras["as_made"] = list(images.cpu())
            images = resized_signed(images, size)
        return EditOutput(images.contiguous(), texts, extras)

    def _sources(self, batch: Batch) -> Tensor:
        """The sources in the size of the generator's pictures."""
        source = batch["source"].to(self.generator.device).clone()
        height, width = source.shape[-2:]
        if height != width:
            raise StyleClipError(
                f"source: expected a square as the generator draws it, found {width}x{height} pixels; cut the picture"
            )
        side = self.resolution
        if width % side == 0:
            return F.adaptive_avg_pool2d(source, side)
        return F.interpolate(source, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)

    def _not_inverted(self, errors: Sequence[float], keys: Sequence[str]) -> list[bool]:
        """Which samples could not be inverted, where these are skipped."""
        limit = self.sampling.inversion_limit
        failed = [limit is not None and not error <= limit for error in errors]
        for key, error, wrong in zip(keys, errors, failed, strict=True):
            if wrong and self.sampling.uninverted == "refuse":
                how = "sampling.inversion_steps" if self.inverter.encoder is None else "sampling.inversion_limit"
                raise StyleClipError(
                    f"sample {key!r}: its inversion ended at a mean squared error of {error:.3g}, above the "
                    f"sampling.inversion_limit of {limit:g}; raise {how}, or take a generator of such pictures"
                )
        return failed

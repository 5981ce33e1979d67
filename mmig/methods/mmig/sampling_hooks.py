"""What happens between the steps of the reverse process: attention guidance and maps, callbacks, a progress bar."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmig.diffusion.attention import AttentionCapture
from mmig.diffusion.concepts import ConceptTokens
from mmig.diffusion.sampling import BeforeStep, Generators, Step, is_several, per_sample
from mmig.editor import ConceptAttention
from mmig.methods.mmig.attention_losses import concept_maps, text_attention

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

StepCallback = Callable[[int, int, Tensor, Tensor], Tensor | None]
"""(index, steps in all, timestep, latents [B,C,h,w]) -> latents to go on with, or None to keep them."""


class SamplingHooks:
    """`before_step` and `on_step` of one call of `mmig.diffusion.sampling.sample`.

    Args:
        guidance: changes the latents before each step (`AttentionGuidance`).
        on_step: called after each step; latents that it returns take the place of the step's.
        capture: attention of the denoiser, to be averaged over the steps.
        rows: of the denoiser's batch that are captured: the branch with text.
    """

    def __init__(
        self,
        guidance: BeforeStep | None = None,
        on_step: StepCallback | None = None,
        capture: AttentionCapture | None = None,
        rows: slice | None = None,
    ) -> None:
        self._guidance, self._on_step, self._capture, self._rows = guidance, on_step, capture, rows
        self._step: Step | None = None
        self._replaced: Tensor | None = None
        self._sum: Tensor | None = None
        self._count = 0

    def before_step(self, latents: Tensor, step: Step) -> Tensor:
        """The latents from which to take the step."""
        self._step = step
        latents = self.result(latents)
        self._replaced = None
        return latents if self._guidance is None else self._guidance(latents, step)

    def on_step(self, index: int, latents: Tensor) -> None:
        """Keep the step's attention and tell the callback."""
        if self._capture is not None:
            attention = self._capture.average(self._rows)
            self._sum = attention if self._sum is None else self._sum + attention
            self._count += 1
        if self._on_step is not None:
            self._replaced = self._on_step(index, self._step.count, self._step.timestep, latents)

    def result(self, latents: Tensor) -> Tensor:
        """The latents of the last step, or what the callback put in their place."""
        return latents if self._replaced is None else self._replaced

    def maps(self, tokens: ConceptTokens, words: Sequence[Sequence[str]]) -> ConceptAttention | None:
        """The captured attention of concepts; None where no step was taken."""
        if self._sum is None:
            return None
        maps, valid = concept_maps(text_attention(self._sum / self._count, tokens), tokens)
        return ConceptAttention([list(row) for row in words], maps.cpu(), valid.cpu())


@contextmanager
def step_callback(pipeline: "DiffusionPipeline", callback: Callable[..., dict | None] | None) -> Iterator[StepCallback]:
    """A step callback that shows diffusers' progress bar and calls one in diffusers' form.

    Args:
        pipeline: whose progress bar it is, and what the callback gets.
        callback: (pipeline, index, timestep, {"latents": ...}) -> dict or None; or no callback.
    """
    bars: list[Any] = []

    def on_step(index: int, count: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
        if not bars:  # only now the number of steps is known
            bars.append(pipeline.progress_bar(total=count))
        bars[0].update()
        changed = None if callback is None else callback(pipeline, index, timestep, {"latents": latents})
        return None if changed is None else changed.get("latents")

    try:
        yield on_step
    finally:
        for bar in bars:
            bar.close()


def repeated(values: Sequence[Any], count: int) -> list[Any]:
    """Each value `count` times, one after the other."""
    return [value for value in values for _ in range(count)]


def generators_of_images(generator: Generators | None, samples: int, images: int) -> Generators:
    """Generators for `images` images of each sample: one for all; or one a sample, each seeding its images; or all.

    Raises:
        ValueError: another number of generators.
    """
    if generator is None:
        return 0
    if not is_several(generator) or len(generator) == samples * images:
        return generator
    if len(generator) != samples:
        raise ValueError(
            f"generator: expected one, one for each of {samples} samples or one for each of {samples * images} images, "
            f"found {len(generator)}"
        )
    return [own for source in generator for own in per_sample(source, images)]

"""Further content of the small world: worlds of their own beside the scenes, written through the same shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from datamodules.tinyworld import (
    illustration_samples,
    illustrations,
    multimodal_samples,
    prompt_samples,
    several_samples,
    sound_samples,
    subject_samples,
)
from datamodules.tinyworld.sample import Sample


class Content(NamedTuple):
    """A world: its splits, and its sample of (seed, split, index) with images as arrays."""

    splits: tuple[str, ...]
    draw: Callable[[int, str, int], Sample]


CONTENTS: dict[str, Content] = {
    "subjects": Content(subject_samples.SPLITS, subject_samples.draw_subject_sample),
    "subjects_in_words": Content(subject_samples.SPLITS, subject_samples.draw_subject_sample_in_words),
    "sounds": Content(sound_samples.SPLITS, sound_samples.draw_sound_sample),
    "multimodal": Content(multimodal_samples.SPLITS, multimodal_samples.draw_multimodal_sample),
    "multimodal_in_words": Content(multimodal_samples.SPLITS, multimodal_samples.draw_multimodal_sample_in_words),
    "multimodal_said": Content(multimodal_samples.SPLITS, multimodal_samples.draw_said_sample),
    "multimodal_shown": Content(multimodal_samples.SPLITS, multimodal_samples.draw_shown_sample),
    "multimodal_heard": Content(multimodal_samples.SPLITS, multimodal_samples.draw_heard_sample),
    "multimodal_long": Content(multimodal_samples.SPLITS, multimodal_samples.draw_long_sample),
    "multimodal_several": Content(multimodal_samples.SPLITS, several_samples.draw_several_sample),
    "prompts": Content(prompt_samples.SPLITS, prompt_samples.draw_prompt_sample),
    "illustrations": Content(illustrations.SPLITS, illustration_samples.draw_illustration),
}


@dataclass(frozen=True, slots=True)
class ContentWorld:
    """All that samples of a further content depend on beside split and index. KeyError on a name not in `CONTENTS`."""

    name: str
    seed: int = 0

    def check(self, split: str) -> None:
        """Raise ValueError on a split that this world does not have."""
        splits = CONTENTS[self.name].splits
        if split not in splits:
            raise ValueError(f"split {split!r}: expected one of {', '.join(splits)} in the world of {self.name}")

    def draw(self, split: str, index: int) -> Sample:
        """Sample `index` of a split."""
        return CONTENTS[self.name].draw(self.seed, split, index)

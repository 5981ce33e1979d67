"""What is noted of each sample while data are read: counts, and the first samples of whatever is not right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from PIL import Image

from datamodules.browse.survey import Survey
from datamodules.browse.thumbnails import Card, make_card
from datamodules.check.items import Item
from datamodules.check.likeness import NearDuplicates, digest
from datamodules.order import mix
from datamodules.schema import Sample

EXAMPLES = 6
"""Samples that are shown of each thing that is noted."""
INSTRUCTIONS = ("instruction", "expressive", "response", "target_caption", "source_caption")
"""Texts of which a sample needs one to be trained on under words, the most telling first."""
Length = Callable[[str], int]


@dataclass
class Study:
    """Everything about the samples of one split.

    Args:
        resolution: side in pixels that training brings pictures to; smaller ones are noted. None: nobody says.
        length: tokens of a text; most_tokens: more are cut. None: nobody says.
        seed, shown: which samples are shown, and about how many of `expected`.

    Attributes:
        survey: counts by field, size, length and fault.
        noted: samples by what is noted of them. examples: the first of each, with words for each.
        instructions: how often each instruction comes, by its first 200 characters.
        sources: digests of the source pictures, for comparing splits.
    """

    resolution: int | None = None
    length: Length | None = None
    most_tokens: int | None = None
    seed: int = 0
    shown: int = 24
    expected: int = 1
    survey: Survey = field(default_factory=Survey)
    noted: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[Card, str]]] = field(default_factory=dict)
    instructions: Counter[str] = field(default_factory=Counter)
    sources: dict[bytes, str] = field(default_factory=dict)
    cards: list[Card] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing was seen yet."""
        self._whole: dict[bytes, str] = {}
        self._near = NearDuplicates()

    def add(self, items: Iterable[Item]) -> Study:
        """Look at samples; gives this study."""
        for item in items:
            self.survey.read += 1
            if item.sample is None:
                assert item.fault is not None
                self.survey.add_bad(item.fault)
            else:
                self.survey.add(item.sample)
                self._look(item, item.sample)
        return self

    def _look(self, item: Item, sample: Sample) -> None:
        images = {name: sample[name] for name in ("source", "target") if name in sample}
        text = next((sample[name] for name in INSTRUCTIONS if sample.get(name, "").strip()), "")
        if (given := sample.get("instruction", "").strip()) or "instruction" in sample:
            self.instructions[given[:200]] += 1
        self._pictures(item, images)
        self._texts(item, sample, text)
        self._likeness(item, images, text)
        if mix(self.seed, self.survey.read) % max(self.expected // self.shown, 1) == 0 and len(self.cards) < self.shown:
            self.cards.append(make_card(sample, item.where))

    def _pictures(self, item: Item, images: dict[str, Image.Image]) -> None:
        if images and "source" not in images:
            self._note("target alone", item, "a target without a source")
        if images and "target" not in images:
            self._note("source alone", item, "a source without a target")
        if not images:
            self._note("no picture", item, "neither source nor target")
        sides = [min(image.size) for image in images.values()]
        if self.resolution is not None and sides and min(sides) < self.resolution:
            self._note("small", item, f"{min(sides)} pixels, enlarged to {self.resolution}")

    def _texts(self, item: Item, sample: Sample, text: str) -> None:
        if not text:
            self._note("no text", item, "no instruction, response or caption")
        elif "source" in sample and "target" in sample and not sample.get("instruction", "").strip():
            self._note("no instruction", item, "a pair without an instruction")
        if self.length is None or self.most_tokens is None:
            return
        lengths = {name: self.length(sample[name]) for name in INSTRUCTIONS if sample.get(name)}
        longest = max(lengths, key=lambda name: lengths[name], default=None)
        if longest is not None and lengths[longest] > self.most_tokens:
            self._note("long", item, f"{longest}: {lengths[longest]} tokens")

    def _likeness(self, item: Item, images: dict[str, Image.Image], text: str) -> None:
        if not images:
            return
        if len(images) == 2 and digest(images["source"]) == digest(images["target"]):
            self._note("unchanged", item, "the target is the source")
        if "source" in images:
            self.sources.setdefault(digest(images["source"]), item.key)
        before = self._whole.setdefault(digest(*images, *images.values(), text), item.key)
        near = self._near.add(item.key, text, [*images.values()])
        if before != item.key:
            self._note("duplicate", item, f"is {before}")
        elif near is not None:
            self._note("near duplicate", item, f"is nearly {near}")

    def _note(self, what: str, item: Item, words: str) -> None:
        self.noted[what] += 1
        if len(shown := self.examples.setdefault(what, [])) < EXAMPLES:
            assert item.sample is not None
            shown.append((make_card(item.sample, item.where), words))

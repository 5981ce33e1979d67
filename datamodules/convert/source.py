"""What a converter declares: the items of each split, in a fixed order, and the samples that come of an item.

Everything else (processes, resuming, checks, the report) is the engine's and the same for every dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from datamodules.faults import REASONS, BadSample
from datamodules.schema import Sample
from datamodules.shard_index import ShardInfo

REASONS_MEANING: dict[str, str] = {
    **REASONS,
    "missing": "a file that the annotation names is not there, or cannot be read",
    "outside": "a file name that leads out of the source, by `..` or by a link",
    "large": "a file of more bytes than any sane picture or text has",
    "archive": "an entry of a zip file that cannot be unpacked",
    "parquet": "a part of a parquet file that cannot be read",
    "shard": "a file that is no plain tar",
    "mask": "a mask that cannot be read, says nothing or has another shape; the sample is kept without it",
    "notes": "notes beside the pictures that cannot be read; the sample is kept without them",
    "shapes": "pictures of a pair with different shapes; where kept, the target is resized to the source's",
    "turns": "a session of which a turn is missing",
    "unfinished": "a shard whose download had not ended, or that has fewer samples than its statistics say",
    "key": "a name that came before in the same shard, or that is too long for a tar",
    "duplicate": "a post or an original file that came before",
    "tags": "a post without a tag that captions are made of",
    "unlisted": "a picture that no metadata names",
    "nothing": "a sample of which a mapper made none",
    "filter": "refused by a filter; the report names it",
    "unknown": "kept, because the column that a filter asks for has no value there",
}
"""What the findings mean; filters add reasons `filter: NAME` and `unknown: NAME`."""
EXAMPLES = 5
"""Items that are named, a reason and section."""


class ConversionError(ValueError):
    """A source or settings that cannot be converted; one line says which file, what was expected and what to do."""


class Finding(NamedTuple):
    """What an item or sample is left out for, or kept in spite of: reason (see `REASONS_MEANING`), which, in words."""

    reason: str
    item: str
    detail: str
    dropped: bool = True


@dataclass
class Findings:
    """Findings counted by reason, apart for what was dropped and what was kept; the first of each named.

    `counted` are parts of samples, as a mapper's `Outcome` counts them.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    examples: list[Finding] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        """Count one."""
        counts = self.dropped if finding.dropped else self.kept
        counts[finding.reason] += 1
        if counts[finding.reason] <= EXAMPLES:
            self.examples.append(finding)


@dataclass(frozen=True)
class WrittenShard:
    """What came of a section: the shard's row (None if nothing was kept) and what was found on the way."""

    row: ShardInfo | None
    findings: Findings


@dataclass(frozen=True)
class Source:
    """A dataset as it lies on disk; subclasses add their options as fields.

    Attributes:
        source: folder (or, for tables, a name on the hub) of the dataset as published.
        samples_per_item: most samples that one item usually gives; decides how many items a shard takes.
        published: split -> the totals that `counted` must give when the whole set is there.
        required: fields without which a sample is dropped; a blank text is none.
        published_apart: splits come from different places, so that those which are not there do not count.
    """

    name: ClassVar[str]
    samples_per_item: ClassVar[int] = 1
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    published_apart: ClassVar[bool] = False
    required: ClassVar[tuple[str, ...]] = ()
    source: str

    def splits(self) -> dict[str, Sequence[Any]]:
        """Split -> its items, always in the same order; items are small, picklable and have a telling `repr`.

        Raises:
            ConversionError: the source is not laid out as published.
        """
        raise ConversionError(f"{self.name}: declares no splits")

    def items_per_section(self, samples_per_shard: int) -> int:
        """How many items make a shard of about so many samples."""
        return max(1, samples_per_shard // self.samples_per_item)

    def samples_of(self, item: Any) -> Iterator[Sample | Finding]:
        """The samples of one item; a `BadSample` raised here drops what the item would still have given."""
        raise ConversionError(f"{self.name}: declares no samples")

    def samples(self, items: Sequence[Any]) -> Iterator[Sample | Finding | Counter[str]]:
        """The samples of items that follow each other; a counter is added to what is counted."""
        for item in items:
            try:
                yield from self.samples_of(item)
            except BadSample as bad:
                yield Finding(bad.reason, self.describe(item), bad.detail)

    def describe(self, item: Any) -> str:
        """An item in the words of the report."""
        return str(item)

    def counted(self, items: Sequence[Any]) -> Mapping[str, int]:
        """What the published totals of a split count, by the name of what is counted."""
        return {"entries": len(items)}

    def bytes_of(self, item: Any) -> int:
        """About how many bytes an item takes in shards; 0 if it cannot be said."""
        return 0

    def estimate(self, items: Sequence[Any]) -> int:
        """About how many bytes all these items take, from at most 64 of them, evenly spread."""
        chosen = items[:: max(1, len(items) // 64)]
        return int(sum(map(self.bytes_of, chosen)) / max(1, len(chosen)) * len(items))

    def check_totals(self, splits: Mapping[str, Sequence[Any]]) -> None:
        """Compare with the published totals.

        Raises:
            ConversionError: naming the split and both numbers.
        """
        for split, expected in self.published.items():
            if self.published_apart and split not in splits:
                continue
            found = self.counted(splits.get(split, ()))
            if wrong := next((what for what in expected if found[what] != expected[what]), None):
                raise ConversionError(
                    f"{self.source}: split {split!r} of {self.name} has {found[wrong]:,} {wrong}, the published one "
                    f"{expected[wrong]:,}; fetch the rest, or say that this is a part with --partial"
                )

    def settings(self) -> dict[str, Any]:
        """What the result depends on, as plain JSON values; two conversions with equal settings are the same."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class IndexSource(Source):
    """A dataset whose shards are used where and as they are: each item is one tar, of which only an index is made."""

    def items_per_section(self, samples_per_shard: int) -> int:
        """One tar."""
        return 1

    def index(self, item: Any, folder: Path) -> WrittenShard:
        """Write the member index of one tar into `folder`, under the tar's name with the suffix `.idx`."""
        raise ConversionError(f"{self.name}: cannot index {item}")

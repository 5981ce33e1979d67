"""What a mapper made of a sample, where more is to be said than its samples; see `convert.mapped`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from datamodules.sample import Sample


@dataclass(frozen=True)
class Outcome:
    """Samples made of one, or why there are none, and what was counted on the way.

    Attributes:
        samples: under keys of their own.
        reason: a word under which the report counts a sample of which nothing came, as `nothing: REASON`.
        detail: the same in words, of this sample.
        counts: of parts of the sample, by name; the report sums them over all samples, whatever came of these.
    """

    samples: Sequence[Sample] = ()
    reason: str = ""
    detail: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

"""Filters over the metadata of LAION's samples; names of columns in any case, and any of them may be absent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_COLUMNS = {
    "width": ("original_width", "width"),
    "height": ("original_height", "height"),
    "similarity": ("similarity",),
    "aesthetic": ("aesthetic", "aesthetic_score"),
    "punsafe": ("punsafe",),
    "pwatermark": ("pwatermark",),
    "nsfw": ("nsfw",),
}
"""Filter -> columns that it asks for, the first that has a value; sizes are those before img2dataset resized."""


class Verdict(NamedTuple):
    """What a filter says of a sample: refused, or that there was no value; `reason` is that of a `Finding`."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Filters:
    """Bounds that a sample must keep; None asks nothing.

    Attributes:
        min_width, min_height: pixels of the picture as it was downloaded. min_similarity: CLIP similarity of picture
            and text. min_aesthetic: predicted score, 1 to 10. max_punsafe, max_pwatermark: probabilities.
        nsfw: tags that are allowed (UNLIKELY, UNSURE, NSFW), in any case.
    """

    min_width: int | None = None
    min_height: int | None = None
    min_similarity: float | None = None
    min_aesthetic: float | None = None
    max_punsafe: float | None = None
    max_pwatermark: float | None = None
    nsfw: tuple[str, ...] | None = None

    @property
    def active(self) -> bool:
        """Whether anything is asked."""
        return self != Filters()

    def refused(self, record: Mapping[str, Any]) -> Verdict | None:
        """The first filter that refuses a sample, None if all let it pass or know nothing of it."""
        values = _by_name(record)
        for name in _COLUMNS:
            value = _value(values, name)
            if value is not None and (bound := self._broken(name, value)):
                return Verdict(f"filter: {name}", f"{name} is {value}, expected {bound}")
        return None

    def unknown(self, record: Mapping[str, Any]) -> Iterator[Verdict]:
        """The filters that find no value in a sample."""
        values = _by_name(record)
        for name, columns in _COLUMNS.items():
            if self._asks(name) and _value(values, name) is None:
                yield Verdict(f"unknown: {name}", f"no value in column {' or '.join(columns)}")

    def _asks(self, name: str) -> bool:
        return any(getattr(self, bound, None) is not None for bound in (name, f"min_{name}", f"max_{name}"))

    def _broken(self, name: str, value: float | str) -> str:
        """The bound that a value does not keep, in words."""
        if name == "nsfw":
            allowed = self.nsfw
            tags = {tag.lower() for tag in allowed or ()}
            return "" if allowed is None or str(value).lower() in tags else " or ".join(allowed)
        least, most = getattr(self, f"min_{name}", None), getattr(self, f"max_{name}", None)
        if least is not None and float(value) < least:
            return f"at least {least}"
        return f"at most {most}" if most is not None and float(value) > most else ""


def _by_name(record: Mapping[str, Any]) -> dict[str, Any]:
    """Columns by their names in lower case; one that is so by itself wins over others."""
    return {name.lower(): value for name, value in sorted(record.items(), key=lambda item: item[0].islower())}


def _value(values: Mapping[str, Any], name: str) -> float | str | None:
    """The value that a filter judges: a number, or the tag of `nsfw`; None for what is neither."""
    for column in _COLUMNS[name]:
        value = values.get(column)
        if name == "nsfw":
            if isinstance(value, str) and value:
                return value
            continue
        try:
            number = float(value)  # some exports write numbers as texts
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            return number
    return None

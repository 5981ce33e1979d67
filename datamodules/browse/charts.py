"""Counts -> horizontal bars as inline SVG, or their middle; every text is escaped."""

from __future__ import annotations

import html
import re
from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate

WIDTH = 420
_ROW = 20
_MOST_BARS = 40
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")


def escape(text: str) -> str:
    """Any str as HTML text or attribute; control characters and lone surrogates, which HTML cannot hold, replaced."""
    return html.escape(_NOT_TEXT.sub("\ufffd", text.encode("utf-8", "replace").decode()))


def median(counts: Mapping[int, int]) -> int:
    """The middle value of counts by value (the lower one of two)."""
    values = sorted(counts)
    ends = list(accumulate(counts[value] for value in values))
    return values[bisect_left(ends, (ends[-1] + 1) // 2)]


def bars(counts: Mapping[str, int]) -> str:
    """Horizontal bars, the longest first; what is beyond the first 40 is added up in one line below."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if rest := sum(count for _, count in ranked[_MOST_BARS:]):
        ranked = [*ranked[:_MOST_BARS], (f"{len(ranked) - _MOST_BARS} further ones", rest)]
    longest, total = max(count for _, count in ranked), sum(counts.values())
    rows = []
    for number, (name, count) in enumerate(ranked):
        y = number * _ROW
        rows.append(
            f'<text x="150" y="{y + 14}" text-anchor="end">{escape(name[:24])}<title>{escape(name)}</title></text>'
            f'<rect x="158" y="{y + 3}" width="{max(170 * count / longest, 1):.1f}" height="{_ROW - 6}"/>'
            f'<text x="{166 + 170 * count / longest:.1f}" y="{y + 14}">{count:,} ({count / total:.1%})</text>'
        )
    return f'<svg viewBox="0 0 {WIDTH} {_ROW * len(ranked)}" role="img">{"".join(rows)}</svg>'

"""Counts -> bars and histograms as inline SVG; every text in them is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

WIDTH, HEIGHT, GAP = 420, 120, 1
_BINS = 32
_ROW = 20
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")


def escape(text: str) -> str:
    """Any str as HTML text or attribute; control characters and lone surrogates, which HTML cannot hold, replaced."""
    return html.escape(_NOT_TEXT.sub("\ufffd", text.encode("utf-8", "replace").decode()))


def bin_counts(counts: Mapping[int, int], most: int = _BINS) -> list[tuple[int, int, int]]:
    """Counts by value -> at most `most` bins of equal width as (first value, last value, count), empty ones included.

    Values above the 99.5 % quantile go into the last bin, which then reaches to the maximum: one freak of a million
    characters would otherwise push all others into the first.
    """
    low, high = min(counts), max(counts)
    upper, below, total = low, 0, sum(counts.values())
    for value in sorted(counts):
        upper, below = value, below + counts[value]
        if below >= 0.995 * total:
            break
    step = -(-(upper - low + 1) // most)
    starts = range(low, upper + 1, step)
    sums = [0] * len(starts)
    for value, count in counts.items():
        sums[min((value - low) // step, len(sums) - 1)] += count
    ends = [start + step - 1 for start in starts]
    ends[-1] = high
    return [(*edges, count) for *edges, count in zip(starts, ends, sums, strict=True)]


def median(counts: Mapping[int, int]) -> int:
    """The middle value of counts by value (the lower one of two)."""
    half, below = (sum(counts.values()) + 1) // 2, 0
    for value in sorted(counts):
        below += counts[value]
        if below >= half:
            return value
    raise ValueError("median: expected at least one count, found none")


def histogram(title: str, counts: Mapping[int, int], unit: str, scale: float = 1) -> str:
    """A figure with its caption; values are shown divided by `scale`."""
    if len(counts) == 1:
        value, count = next(iter(counts.items()))
        only = f"{title}: {_number(value, scale)} {unit}".strip()
        return f"<figure>{escape(only)}<figcaption>all {count:,} alike</figcaption></figure>"
    bins = bin_counts(counts)
    tallest = max(count for *_, count in bins)
    step = WIDTH / len(bins)
    bars = []
    for number, (first, last, count) in enumerate(bins):
        height = HEIGHT * count / tallest
        span = _number(first, scale) if first == last else f"{_number(first, scale)} to {_number(last, scale)}"
        bars.append(
            f'<rect x="{number * step:.1f}" y="{HEIGHT - height:.1f}" width="{max(step - GAP, 1):.1f}" '
            f'height="{height:.1f}"><title>{span} {escape(unit)}: {count:,}</title></rect>'
        )
    low, middle, high = (_number(value, scale) for value in (min(counts), median(counts), max(counts)))
    span = f"{low} to {high} {unit}".strip()
    label = f"{title}: {span}, median {middle}, n {sum(counts.values()):,}"
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT + 16}" role="img" aria-label="{escape(label)}">{"".join(bars)}'
        f'<line x1="0" y1="{HEIGHT}" x2="{WIDTH}" y2="{HEIGHT}"/>'
        f'<text x="0" y="{HEIGHT + 13}">{_number(bins[0][0], scale)}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 13}" text-anchor="end">{_number(bins[-1][1], scale)}</text></svg>'
        f"<figcaption>{escape(label)}</figcaption></figure>"
    )


def bars(counts: Mapping[str, int], most: int = 40) -> str:
    """Horizontal bars, the longest first; what is beyond `most` is added up in one line below."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if rest := sum(count for _, count in ranked[most:]):
        ranked = [*ranked[:most], (f"{len(ranked) - most} further ones", rest)]
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


def _number(value: int, scale: float) -> str:
    return f"{value:,}" if scale == 1 else f"{value / scale:g}"

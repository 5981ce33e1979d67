"""A survey -> one self-contained HTML page: no script, no address but `data:`, which its own policy enforces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from datamodules.browse.charts import bars, escape, median
from datamodules.browse.survey import Survey
from datamodules.browse.thumbnails import Card
from datamodules.faults import REASONS
from datamodules.shard_index import ShardIndex

_POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a7fb5; --soft: #8881; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1280px; margin: 0 auto; padding: 1.2rem; }
h1 { font-size: 1.35rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
h3 { font-size: .9rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }
nav a { margin-right: 1rem; } p { margin: .3rem 0; }
svg { width: 100%; height: auto; fill: var(--bar); } svg text { font-size: 11px; fill: currentColor; }
.wide { overflow-x: auto; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption, small, dt { color: #808080; font-size: .8rem; }
article { border: 1px solid var(--line); border-radius: 8px; padding: .7rem; background: var(--soft); min-width: 0; }
.pictures { display: flex; flex-wrap: wrap; gap: .5rem; margin-bottom: .5rem; }
.pictures figure { width: min-content; } .pictures figcaption { font-size: .7rem; line-height: 1.2; margin-top: .2rem; }
.pictures img { display: block; height: 76px; border-radius: 4px; outline: 1px solid var(--line); }
audio { height: 2rem; max-width: 100%; }
.pictures img[alt="source"], .pictures img[alt="target"] { height: 156px; }
dl { margin: 0; } dd { margin: 0 0 .25rem; overflow-wrap: anywhere; white-space: pre-wrap; unicode-bidi: isolate; }
pre { font-size: .75rem; overflow: auto; max-height: 16rem; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top; padding: .2rem .6rem;
border-bottom: 1px solid var(--line); } .number { text-align: right; white-space: nowrap; }
"""


def head(title: str) -> str:
    """The beginning of a page up to its title: its policy, which lets nothing in from elsewhere, and its style."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><meta name="referrer" content="no-referrer">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
    )


def page(title: str, index: ShardIndex, found: Survey, seed: int) -> Iterator[str]:
    """The page in pieces.

    Args:
        title: what the folder is called. index: its shards. found: what was read. seed: what drew the samples shown.
    """
    bad, total = sum(found.bad.values()), len(index)
    read = "all of them" if found.read == total else f"{found.read:,} of them, spread evenly"
    size = sum(shard.bytes for shard in index.shards)
    yield head(title)
    yield (
        f"<p>{total:,} samples in {_counted(len(index.shards), 'shard')}, {_bytes(size)}. Read: {read}; "
        f"{bad:,} bad ({bad / max(found.read, 1):.2%}).</p>"
        '<nav><a href="#counts">Counts</a><a href="#sizes">Sizes and lengths</a><a href="#bad">Bad samples</a>'
        '<a href="#samples">Samples</a></nav>'
    )
    yield from _counts(found)
    yield from _sizes(found)
    yield from _bad(found)
    yield f'<h2 id="samples">{len(found.cards):,} samples, drawn with seed {seed}</h2><section class="grid">'
    yield from (card(found.cards[number]) for number in sorted(found.cards))
    yield "</section></body></html>\n"


def _counts(found: Survey) -> Iterator[str]:
    yield '<h2 id="counts">Counts</h2><section class="grid">'
    if found.edit_types:
        named = Counter({kind or "(none given)": count for kind, count in found.edit_types.items()})
        yield f"<figure>{bars(named)}<figcaption>Samples by edit type</figcaption></figure>"
    if good := found.read - sum(found.bad.values()):
        rows = (
            f'<tr><td>{escape(name)}</td><td class="number">{count:,} ({count / good:.0%})</td></tr>'
            for name, count in found.fields.most_common()
        )
        yield f"<table><tr><th>Field</th><th>Good samples that have it</th></tr>{''.join(rows)}</table>"
    yield "</section>"


def _sizes(found: Survey) -> Iterator[str]:
    """One row a size or length that was counted."""
    yield '<h2 id="sizes">Sizes and lengths</h2><div class="wide"><table>'
    heads = ("Number", "Least", "Median", "Largest")
    yield f"<tr><th></th>{''.join(f'<th class=number>{head}</th>' for head in heads)}</tr>"
    images = [
        ("Shorter side of images, pixels", found.short_sides),
        ("Width of images, % of their height", found.aspects),
    ]
    for name, counts in (*images, *((f"Length of {name}, characters", of) for name, of in found.lengths.items())):
        if counts:
            values = counts.total(), min(counts), median(counts), max(counts)
            yield f"<tr><td>{name}</td>{''.join(map(_number, values))}</tr>"
    yield "</table></div>"


def _bad(found: Survey) -> Iterator[str]:
    yield '<h2 id="bad">Bad samples by reason</h2>'
    if not found.bad:
        yield "<p>None.</p>"
        return
    yield '<div class="wide">'
    yield "<table><tr><th>Reason</th><th>Samples</th><th>Worst shards</th><th>The first ones</th></tr>"
    by_reason: Counter[str] = Counter()
    for (reason, _), count in found.bad.items():
        by_reason[reason] += count
    for reason, count in by_reason.most_common():
        shards = Counter({shard: number for (why, shard), number in found.bad.items() if why == reason})
        worst = (f"{escape(shard)}: {number:,}" for shard, number in shards.most_common(5))
        first = (f"{escape(fault['key'])}: {escape(fault['detail'][:300])}" for fault in found.examples[reason])
        yield (
            f"<tr><td><b>{escape(reason)}</b><br><small>{escape(REASONS.get(reason, ''))}</small></td>"
            f'<td class="number">{count:,}</td><td>{_lines(worst)}</td><td><small>{_lines(first)}</small></td></tr>'
        )
    yield "</table></div>"


def card(shown: Card) -> str:
    """A sample as an element of the page: its pictures, sounds and texts."""
    pictures = "".join(
        f'<figure><img src="{picture.address}" alt="{escape(picture.name)}"><figcaption>{escape(picture.name)} '
        f"{picture.size[0]}&times;{picture.size[1]}</figcaption></figure>"
        for picture in shown.pictures
    )
    sounds = "".join(
        f'<figure><audio controls src="{sound.address}"></audio><figcaption>{escape(sound.name)}</figcaption></figure>'
        for sound in shown.sounds
    )
    texts = "".join(f'<dt>{escape(name)}</dt><dd dir="auto">{escape(text)}</dd>' for name, text in shown.texts)
    metadata = (
        f"<details><summary>metadata</summary><pre>{escape(shown.metadata)}</pre></details>" if shown.metadata else ""
    )
    return (
        f"<article><h3>{escape(shown.key)} <small>{escape(shown.shard)}</small></h3>"
        f'<div class="pictures">{pictures}</div>{sounds}<dl>{texts}</dl>{metadata}</article>'
    )


def _number(value: int) -> str:
    return f'<td class="number">{value:,}</td>'


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _lines(texts: Iterable[str]) -> str:
    return "<br>".join(texts)


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"

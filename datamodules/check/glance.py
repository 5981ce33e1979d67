"""A look at training data at the start of a run, of a second or so: one line, or an error where nothing could train.

It draws nothing, keeps nothing and changes nothing, so that a run goes on as if nobody had looked.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from datamodules.browse.survey import Survey
from datamodules.check.items import Item, Pair, pair_items, shard_items
from datamodules.faults import DataFaultError
from datamodules.order import mix
from datamodules.remote_index import open_index
from datamodules.schema import TEXT_FIELDS, AttachmentSettings
from datamodules.shard_index import INDEX_FILE
from datamodules.sources import Source
from datamodules.storage import is_url

ENOUGH = 200
"""Samples that are looked at where there is nothing to doubt."""
MOST = 1000
"""Samples that must all be of no use before a run is stopped; or all that there are."""
DOUBT_SECONDS = 20.0
"""Longest look at data that are in doubt."""
TOLD = ("source", "target", *TEXT_FIELDS, "attachments")
"""Fields that the line names where they are there."""
LOOK_CLOSER = "look at them: python -m datamodules.check DATA --out page.html"


class NothingTrainsError(DataFaultError):
    """Data of which no sample can be trained on; the message says why."""


class Seen(NamedTuple):
    """What a glance is at: at most `MOST` samples, spread over all; how many there are; what they are called."""

    items: Iterator[Item]
    total: int
    place: str


def local_samples(
    sources: Sequence[Source],
    raw: Mapping[str, tuple[Path, list[Pair]]],
    attachments: AttachmentSettings,
    most: int = MOST,
) -> Seen | None:
    """The samples of sources, taking turns; None where one is behind a URL, or is not written yet.

    Args:
        sources: of a configuration. raw: folder of shards -> what will be converted into it (`ShardData.raw_pairs`).
        attachments: what is too long. most: samples, of all sources together.
    """
    found, total, share = [], 0, max(most // max(len(sources), 1), 1)
    for source in sources:
        if is_url(source.folder) or is_url(source.index_directory or ""):
            return None
        if (Path(source.index_directory or source.folder) / INDEX_FILE).is_file():
            index = open_index(source.folder, source.index_directory)
            found.append(shard_items(index, share, attachments=attachments, shuffled=True))
            total += len(index)
        elif source.folder in raw:
            root, pairs = raw[source.folder]
            numbers = sorted(range(len(pairs)), key=lambda number: mix(0, number))[:share]
            found.append(pair_items(root, [pairs[number] for number in numbers]))
            total += len(pairs)
        else:
            return None
    turns = chain.from_iterable(zip_longest(*found))
    return Seen((item for item in turns if item is not None), total, ", ".join(map(str, sources)))


def glance(seen: Seen, needs: Sequence[str] = (), seconds: float = 1.0) -> str:
    """One line about training data.

    Args:
        seen: what to look at.
        needs: fields without each of which no sample counts in any loss.
        seconds: after which it is enough, unless all that was seen is of no use.

    Raises:
        NothingTrainsError: no sample can be used, or none has one of the fields.
    """
    survey, start = Survey(), time.monotonic()
    for item in seen.items:
        survey.read += 1
        if item.sample is None:
            assert item.fault is not None
            survey.add_bad(item.fault)
        else:
            survey.add(item.sample)
        spent, doubt = time.monotonic() - start, _doubt(survey, needs) != ""
        if spent > (DOUBT_SECONDS if doubt else seconds) or survey.read >= (MOST if doubt else ENOUGH):
            is_whole = survey.read >= MOST
            break
    else:
        is_whole = True
    doubt = _doubt(survey, needs)
    if doubt and is_whole:
        raise NothingTrainsError(f"{seen.place}: {doubt}; {LOOK_CLOSER}")
    return _line(survey, seen, time.monotonic() - start, doubt)


def _doubt(survey: Survey, needs: Sequence[str]) -> str:
    """Why nothing that was seen can be trained on; "" where something can."""
    if survey.read == survey.bad.total():
        first = next((faults[0]["detail"] for faults in survey.examples.values()), "there is none")
        return f"none of {survey.read:,} samples read can be used ({_reasons(survey)}; the first: {first})"
    lacking = [name for name in needs if not survey.fields[name]]
    if not lacking:
        return ""
    there = ", ".join(survey.fields) or "no field"
    return (
        f"none of {survey.read:,} samples read has the field {' or '.join(lacking)}, without which none counts in a "
        f"loss; they have {there}"
    )


def _line(survey: Survey, seen: Seen, seconds: float, doubt: str) -> str:
    bad, sides = survey.bad.total(), survey.short_sides
    found = doubt or (f"{bad:,} cannot be used ({_reasons(survey)})" if bad else "all can be used")
    pictures = f", {min(sides):,} to {max(sides):,} pixels" if sides else ""
    pictures = f", {min(sides):,} pixels" if sides and len(sides) == 1 else pictures
    there = ", ".join(name for name in TOLD if survey.fields[name])
    told = "" if doubt else f"{pictures}; {there}"
    read = f"{survey.read:,} of {seen.total:,} samples of {seen.place}"
    return f"data: {read} looked at in {seconds:.1f} s: {found}{told}"


def _reasons(survey: Survey) -> str:
    reasons: Counter[str] = Counter()
    for (reason, _), count in survey.bad.items():
        reasons[reason] += count
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())

"""Reads samples of a folder of shards once and keeps what a page about them needs: counts, and a few of them in full.

Every sample goes through the reader and the decoder of the stream, so what is bad here is bad there; damaged answers,
which the stream never opens, are bad here too. What is kept does not grow with the number of samples read.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice

from PIL import Image

from datamodules.browse.places import Place, Places
from datamodules.browse.thumbnails import Card, make_card
from datamodules.decode import decode
from datamodules.faults import BadSample
from datamodules.schema import (
    IMAGE_FIELDS,
    TEXT_FIELDS,
    AttachmentSettings,
    Fault,
    Sample,
    SchemaError,
    with_attachment_tensors,
)
from datamodules.shard_index import ShardIndex
from datamodules.shard_reader import ShardReader
from datamodules.tar_index import ShardError

BAD_EXAMPLES = 12
"""Bad samples of each reason that are named one by one."""
_MOST_EDIT_TYPES = 1000


@dataclass
class Survey:
    """What was found in samples that were read; surveys of parts add up.

    Attributes:
        read: samples read, bad ones included. bad: bad ones, by (reason, shard). examples: the first of each reason.
        edit_types: good samples by edit type. fields: good samples that have a field.
        short_sides: images (not masks) by their shorter side in pixels. aspects: images by 100 x width / height.
        lengths: texts by their number of characters, for each text field.
        cards: the samples shown, by their number among those read. missed: numbers of bad ones that were to be shown.
    """

    read: int = 0
    bad: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[str, list[Fault]] = field(default_factory=dict)
    edit_types: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    short_sides: Counter[int] = field(default_factory=Counter)
    aspects: Counter[int] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in TEXT_FIELDS})
    cards: dict[int, Card] = field(default_factory=dict)
    missed: list[int] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Count a good sample."""
        kind = sample.get("edit_type", "")[:80]
        room = kind in self.edit_types or len(self.edit_types) < _MOST_EDIT_TYPES
        self.edit_types[kind if room else "(others)"] += 1
        self.fields.update(name for name, value in sample.items() if name != "key" and value)
        for name in IMAGE_FIELDS:
            if isinstance(image := sample.get(name), Image.Image):
                self.short_sides[min(image.size)] += 1
                self.aspects[round(100 * image.width / image.height)] += 1
        for name, counts in self.lengths.items():
            if text := sample.get(name):
                counts[len(text)] += 1

    def add_bad(self, fault: Fault) -> None:
        """Count a bad sample."""
        self.bad[fault["reason"], fault["shard"]] += 1
        if len(examples := self.examples.setdefault(fault["reason"], [])) < BAD_EXAMPLES:
            examples.append(fault)

    def merge(self, later: Survey) -> None:
        """Add the survey of samples that come later in the folder."""
        self.read += later.read
        self.cards |= later.cards
        self.missed += later.missed
        for name in ("bad", "edit_types", "fields", "short_sides", "aspects"):
            getattr(self, name).update(getattr(later, name))
        for name, counts in later.lengths.items():
            self.lengths[name].update(counts)
        for reason, faults in later.examples.items():
            self.examples[reason] = (self.examples.get(reason, []) + faults)[:BAD_EXAMPLES]


def survey(
    index: ShardIndex,
    most: int,
    shown: int,
    seed: int,
    workers: int = 0,
    attachments: AttachmentSettings | None = None,
) -> Iterator[Survey]:
    """Read samples spread evenly over the shards; a survey of each part, in the order of the index.

    Args:
        index: the shards.
        most: samples to read at most; 0 for all. shown: how many of them get a card; in the place of a bad one the next
            good one does.
        seed: draws which ones are read, if not all are, and which are shown.
        workers: processes that read (0: this one); the result does not depend on it.
        attachments: what is too long and too many; default as in `AttachmentSettings`.

    Raises:
        AudioSupportError: sounds, and no soundfile to read them.
        ShardError: a member index that cannot be used, or a process that was killed.
    """
    found, places, source = Survey(), Places(index, most, shown, seed), _Samples(index, attachments)
    for part in _read(source, places.chunks(), workers):
        found.merge(part)
        yield part
    yield _stand_ins(source, found, places)


def _read(source: _Samples, tasks: Iterator[list[Place]], workers: int) -> Iterator[Survey]:
    if not workers:
        yield from (_survey_part(source, places) for places in tasks)
        return
    fork = multiprocessing.get_context("fork")  # without importing torch again in every process
    try:
        with ProcessPoolExecutor(workers, fork, _begin, (source,)) as pool:
            waiting = deque(pool.submit(_survey_in_worker, places) for places in islice(tasks, 4 * workers))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(_survey_in_worker, places) for places in islice(tasks, 1))
    except BrokenProcessPool as error:
        raise ShardError("a process that reads was killed (out of memory?); try fewer --workers") from error


def _stand_ins(source: _Samples, found: Survey, places: Places) -> Survey:
    """Cards in the place of bad samples that were to be shown: each time of the next good sample without a card."""
    cards: dict[int, Card] = {}
    good, tried = found.read - found.bad.total(), {*found.cards, *found.missed}
    for missed in found.missed:
        following = (number % found.read for number in range(missed + 1, missed + found.read))
        for number in following if len(found.cards) + len(cards) < good else ():
            if number in tried:
                continue
            tried.add(number)
            if card := _survey_part(source, [places.of(number, in_full=True)]).cards:
                cards |= card
                break
    return Survey(cards=cards)


class _Samples:
    """The samples of an index, and what makes one of them bad."""

    def __init__(self, index: ShardIndex, attachments: AttachmentSettings | None) -> None:
        self.index, self.reader, self.attachments = index, ShardReader(index), attachments or AttachmentSettings()

    def read(self, shard: int, row: int, key: str) -> Sample:
        """A decoded sample that the stream would take too; raises BadSample or SchemaError."""
        sample = decode(key, self.reader.read(shard, row))
        with_attachment_tensors(sample, self.attachments)
        return sample


def _survey_part(source: _Samples, places: Sequence[Place]) -> Survey:
    found = Survey(read=len(places))
    for shard, row, number, in_full in places:
        name, key = source.index.shards[shard].name, ""  # not known where the member index cannot be fetched
        try:
            key = source.reader.key(shard, row)
            sample = source.read(shard, row, key)
        except (BadSample, SchemaError) as bad:
            found.add_bad({"reason": bad.reason, "shard": name, "key": key, "detail": str(bad)})
            found.missed += [number] if in_full else []
            continue
        found.add(sample)
        if in_full:
            found.cards[number] = make_card(sample, name)
    return found


_in_worker: dict[str, _Samples] = {}
"""What a worker process reads from; filled by `_begin` in the worker alone."""


def _begin(source: _Samples) -> None:
    _in_worker["source"] = source


def _survey_in_worker(places: Sequence[Place]) -> Survey:
    return _survey_part(_in_worker["source"], places)

"""Shards once more with features beside the images: what `python -m mmig.run.cache` writes, and what training reads.

Shard for shard and sample for sample they hold what the shards they are made of hold, in the same order. A sample that
could not be read stands in them with the fault that it had. So a run sees the same batches from both. `features.json`,
written first, says what they are made of; a killed writing goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.card import Card, totals, write_card
from datamodules.decode import decode
from datamodules.faults import LOST, BadSample
from datamodules.features import (
    ATTACHMENTS,
    DETAIL,
    FAULT,
    FLIPS,
    GEOMETRY,
    MEMBER,
    MIRRORED,
    FeatureError,
    Features,
    pack,
)
from datamodules.schema import (
    IMAGE_FIELDS,
    AttachmentSettings,
    Batch,
    Sample,
    SchemaError,
    collate,
    with_attachment_tensors,
)
from datamodules.shard_index import INCOMPLETE, INDEX_FILE, ShardIndex, ShardInfo, replace_file, write_index
from datamodules.shard_reader import ShardReader
from datamodules.shard_writer import held, write_shard
from datamodules.tar_index import MemberIndex, ShardError, file_sha256
from datamodules.transforms import ImageTransform

RECIPE_FILE = "features.json"
Compute = Callable[[Batch, bool], list[dict[str, Tensor]]]
"""(batch, whether its images are mirrored) -> features of each sample; of a mirrored one those that change alone."""


def write_features(
    index: ShardIndex,
    directory: Path,
    transform: ImageTransform,
    compute: Compute,
    facts: Mapping[str, str],
    batch_size: int,
    done: Callable[[int], object] = lambda count: None,
    attachments: AttachmentSettings | None = None,
) -> ShardIndex:
    """Write the shards of `index` with features to `directory`; finished shards of an interrupted writing are kept.

    Args:
        transform: of the training that will read them; where it flips, features of both directions are stored.
        compute: what makes the features. facts: what they depend on beside the images.
        batch_size: samples computed at once. done: told how many samples each piece of work was.
        attachments: what becomes of attachments in that training; default as in `AttachmentSettings`.

    Raises:
        FeatureError: the transform draws other cuts of an image each time, the folder holds other features, the disk
            has no room for them, or a batch has no samples.
        ShardError: another process writes there, or the storage does not give a sample.
    """
    if transform.is_drawn:
        raise FeatureError(
            f"features cannot be cached under {transform.geometry!r}: each epoch cuts the images anew; expected a "
            "centre crop of one size (random_crop false, max_short_side null)"
        )
    if batch_size < 1:
        raise FeatureError(f"batch_size: expected at least 1, found {batch_size}")
    flips = "both" if transform.flip else "none"
    facts = {**facts, GEOMETRY: transform.geometry, FLIPS: flips}
    with held(directory):
        _keep_recipe(directory, {"of": index.fingerprint, "facts": facts})
        if not (directory / INDEX_FILE).exists():
            unflipped, settings = replace(transform, flip=False), attachments or AttachmentSettings()
            writer = _Writer(ShardReader(index), unflipped, transform.flip, compute, facts, settings)
            rows: list[ShardInfo] = []
            for number, row in enumerate(index.shards):
                if (kept := _finished(directory, row)) is None:
                    _check_space(directory, index.shards, rows)
                    kept = write_shard(directory, row.name, writer.samples(number, row.count, batch_size, done))
                    for path in (Path(row.name).with_suffix(".idx"), Path(row.name)):  # the tar last: it says finished
                        os.replace(directory / f"{path}{INCOMPLETE}", directory / path)
                else:
                    done(row.count)
                rows.append(kept)
            write_card(directory, _card(index, rows, facts))
            write_index(directory, tuple(rows))
    return ShardIndex.load(directory)


def _card(of: ShardIndex, rows: Sequence[ShardInfo], facts: Mapping[str, str]) -> Card:
    return Card(
        title="Cached features",
        source=f"The samples of data {of.fingerprint[:12]}, each with what frozen parts made of it.",
        command=["python", "-m", "mmig.run.cache", "--config", "CONFIG", "--out", "OUT"],
        counts={"": totals(rows)},
        facts=facts,
    )


def open_features(directory: Path, of: ShardIndex) -> ShardIndex:
    """The shards in `directory`, which must be those of `of` with features.

    Raises:
        FeatureError: the folder is not complete, or holds features of other data.
    """
    recipe = directory / RECIPE_FILE
    if not recipe.is_file() or not (directory / INDEX_FILE).is_file():
        raise FeatureError(f"{directory}: no complete cache of features; write it with `python -m mmig.run.cache`")
    if (found := _read_recipe(recipe)["of"]) != of.fingerprint:
        raise FeatureError(
            f"{directory}: features of data {found[:12]}, the configuration names data {of.fingerprint[:12]} "
            f"({of.directory}); give the same data, or write the cache anew with `python -m mmig.run.cache`"
        )
    return ShardIndex.load(directory)


class _Writer:
    """Encoded samples of any shard with their features."""

    def __init__(
        self,
        reader: ShardReader,
        transform: ImageTransform,
        flips: bool,
        compute: Compute,
        facts: Mapping[str, str],
        attachments: AttachmentSettings,
    ) -> None:
        self._reader, self._transform, self._flips = reader, transform, flips
        self._compute, self._facts, self._attachments = compute, dict(facts), attachments

    def samples(
        self, shard: int, count: int, batch_size: int, done: Callable[[int], object]
    ) -> Iterator[tuple[str, dict[str, bytes]]]:
        """(name in the tar, files) of each sample of a shard, in order."""
        for start in range(0, count, batch_size):
            rows = range(start, min(start + batch_size, count))
            read = [self._read(shard, row) for row in rows]
            features = iter(self._features([sample for _, _, sample in read if isinstance(sample, dict)]))
            for name, files, sample in read:
                if isinstance(sample, BadSample):
                    fault = {FAULT: sample.reason, DETAIL: sample.detail}
                    yield name, {MEMBER: pack(Features({}, fault))}
                else:
                    yield name, dict(sorted({**files, MEMBER: pack(next(features))}.items()))
            done(len(rows))

    def _read(self, shard: int, row: int) -> tuple[str, dict[str, bytes], Sample | BadSample]:
        name = self._reader.key(shard, row)
        try:
            files = {field: bytes(data) for field, data in self._reader.read(shard, row).items() if field != MEMBER}
            seen = self._transform(decode(name, files, with_answers=False), 0, 0)
            return name, files, with_attachment_tensors(seen, self._attachments)
        except BadSample as bad:
            if bad.reason in LOST:
                raise ShardError(f"sample {name!r}: cannot be read now ({bad.detail}); start again to go on") from bad
            return name, {}, bad
        except SchemaError as error:
            return name, {}, BadSample(error.reason, str(error))

    def _features(self, samples: list[Sample]) -> list[Features]:
        if not samples:
            return []
        attachment_size = self._attachments.attachment_size
        batch = collate(samples, size=self._transform.size, attachment_size=attachment_size)
        tensors = self._compute(batch, False)
        if self._flips:
            mirrored: Any = batch | {field: torch.flip(batch[field], [-1]) for field in IMAGE_FIELDS}  # type: ignore[literal-required]
            for own, turned in zip(tensors, self._compute(mirrored, True), strict=True):
                own |= {name + MIRRORED: value for name, value in turned.items()}
        made_so = {ATTACHMENTS: self._attachments.identity}
        facts = [self._facts | (made_so if sample.get("attachments") else {}) for sample in samples]
        return [Features(*pair) for pair in zip(tensors, facts, strict=True)]


def _keep_recipe(directory: Path, recipe: dict[str, Any]) -> None:
    """Write what the folder is made of, or compare it with what is there."""
    path = directory / RECIPE_FILE
    if not path.exists():
        if any(directory.glob("*.tar")):
            raise FeatureError(f"{directory}: holds other shards; choose another folder for the features")
        replace_file(path, json.dumps(recipe, indent=1, sort_keys=True).encode())
    found = _read_recipe(path)
    if found != recipe:
        before, now = ({"data": value["of"], **value["facts"]} for value in (found, recipe))
        name = next(name for name in sorted(before | now) if before.get(name) != now.get(name))
        raise FeatureError(
            f"{directory}: holds features of {name} {before.get(name)!r}, this configuration has {now.get(name)!r}; "
            "remove the folder or choose another one"
        )


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(path.read_bytes())
        return {"of": str(recipe["of"]), "facts": dict(recipe["facts"])}
    except (ValueError, KeyError, TypeError) as error:
        raise FeatureError(f"{path}: damaged ({error!r}); remove the folder and write the cache anew") from error


def _check_space(directory: Path, shards: Sequence[ShardInfo], written: Sequence[ShardInfo]) -> None:
    """Compare what is left to write with the free disk; without a shard written, the features count nothing yet."""
    plain = [row.bytes * row.count / (row.of or row.count or 1) for row in shards]
    before = sum(plain[: len(written)])
    growth = sum(row.bytes for row in written) / before if before else 1.0
    needed, free = sum(plain[len(written) :]) * growth, shutil.disk_usage(directory).free
    if needed > free:
        raise FeatureError(
            f"{directory}: about {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; make room and "
            "start again to go on, or choose another folder"
        )


def _finished(directory: Path, row: ShardInfo) -> ShardInfo | None:
    """The row of a shard that is written already, if it is."""
    path = directory / row.name
    if not path.exists():
        return None
    count = len(MemberIndex(path.with_suffix(".idx")))
    return ShardInfo(row.name, count, path.stat().st_size, file_sha256(path))

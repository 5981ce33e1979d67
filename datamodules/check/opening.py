"""What DATA is, for `python -m datamodules.check DATA`: its splits, and how the samples of each are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from datamodules.check.items import Item, Pair, pair_items, shard_items
from datamodules.check.pictures import open_pictures
from datamodules.remote_index import open_index
from datamodules.schema import AttachmentSettings
from datamodules.shard_data import ShardData, Split
from datamodules.shard_index import INDEX_FILE, ShardIndex
from datamodules.storage import is_url, without_secrets

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class CheckError(ValueError):
    """What cannot be looked at; one line says what was expected and what to do."""


@dataclass(frozen=True)
class Part:
    """A split.

    Attributes:
        name: what it is called. place: where it is. total: of its samples.
        read: gives at most so many of them (0: all), of a seed.
        absent: why there is nothing to read yet; "" where there is.
        beside: further things to say of it: files that belong to no sample.
    """

    name: str
    place: str
    total: int
    read: Callable[[int, int], Iterator[Item]]
    absent: str = ""
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opened:
    """DATA, and what its configuration says of how it is trained on."""

    parts: list[Part]
    resolution: int | None = None
    max_bad_fraction: float | None = None


def open_data(data: str, table: Path | None = None) -> Opened:
    """DATA by what it is: a YAML with a section `data`, a folder of shards or its URL, of splits of them, or of pairs.

    Raises:
        ValueError: none of these; one line.
    """
    path = Path(data)
    if path.suffix in (".yaml", ".yml"):
        return open_config(path)
    if is_url(data) or (path / INDEX_FILE).is_file():
        return Opened([_shards(Path(data).name or "data", open_index(data))])
    if not path.is_dir():
        raise CheckError(f"{data}: no such folder; give one of shards or of pairs of pictures, or a YAML with `data`")
    if splits := sorted(file.parent for file in path.glob(f"*/{INDEX_FILE}")):
        order = {name: place for place, name in enumerate(SPLITS)}
        splits.sort(key=lambda folder: order.get(folder.name, len(order)))
        return Opened([_shards(folder.name, open_index(folder)) for folder in splits])
    if tars := next(path.glob("**/*.tar"), None):
        command = f"python -m datamodules.shards index {tars.parent}"
        raise CheckError(f"{data}: {tars.name} has no {INDEX_FILE} beside it; make one: {command}")
    found = open_pictures(path, table)
    return Opened([_pictures("pairs", path, found.pairs, found.beside)])


def open_config(path: Path) -> Opened:
    """What a configuration of data names. Nothing is converted or written: what is not there yet is said to be so.

    Raises:
        ValueError: no such section or datamodule, or data that cannot be opened.
    """
    found = read_datamodule(path)
    if not isinstance(found, ShardData):
        raise CheckError(f"{path}: data: expected a datamodule of shards, found {type(found).__name__}")
    parts = [part for split in SPLITS for part in parts_of(found, split)]
    return Opened(parts, found.eval_transform.resolution, found.max_bad_fraction)


def parts_of(data: ShardData, split: Split) -> Iterator[Part]:
    """The folders of a split as they are, without filters and weights; none where the split has none."""
    raw = data.raw_pairs()
    sources = [*{source.folder: source for source in data.sources_of(split)}.values()]  # parts of one folder are one
    for source in sources:
        name = split if len(sources) == 1 else f"{split}: {source}"
        is_there = is_url(source.folder) or (Path(source.index_directory or source.folder) / INDEX_FILE).is_file()
        if is_there:
            index = open_index(source.folder, source.index_directory, data.storage)
            yield _shards(name, index, data.attachments)
        elif source.folder in raw:
            yield _pictures(name, *raw[source.folder])
        else:
            yield Part(name, str(source), 0, lambda most, seed: iter(()), absent=_absent(data, source.folder))


def read_datamodule(path: Path) -> Any:
    """The datamodule under `data` (class_path and init_args) of a YAML.

    Raises:
        CheckError: naming the file, for what is no YAML, and for unknown classes and arguments.
    """
    import lightning as L
    from jsonargparse import ArgumentError, ArgumentParser

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        section = content.get("data") if isinstance(content, dict) else None
        if not isinstance(section, dict) or "class_path" not in section:
            raise CheckError(f"{path}: expected a section `data` with class_path and init_args, found {section!r}")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(L.LightningDataModule, "data", required=True)
        return parser.instantiate(parser.parse_object({"data": section})).data
    except (OSError, yaml.YAMLError, ArgumentError) as error:
        raise CheckError(f"{path}: {' '.join(str(error).split())[:500]}") from error


def _absent(data: ShardData, folder: str) -> str:
    if hasattr(data, "is_written"):  # the small world
        return "is written when it is first used"
    return f"no {INDEX_FILE} in {folder}; correct the path, or write it"


def _shards(name: str, index: ShardIndex, attachments: AttachmentSettings | None = None) -> Part:
    read = partial(_read_shards, index, attachments)
    return Part(name, without_secrets(str(index.directory)), len(index), read)


def _read_shards(index: ShardIndex, attachments: AttachmentSettings | None, most: int, seed: int) -> Iterator[Item]:
    return shard_items(index, most, seed, attachments)


def _pictures(name: str, root: Path, pairs: list[Pair], beside: tuple[str, ...] = ()) -> Part:
    def read(most: int, seed: int) -> Iterator[Item]:
        step = max(len(pairs) // most, 1) if most else 1
        return pair_items(root, list(islice(pairs, 0, None, step))[: most or None])

    return Part(name, str(root), len(pairs), read, beside=beside)

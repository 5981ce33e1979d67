"""Where samples come from, as a configuration names it: folders of shards, which of their samples, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from datamodules.buckets import Size
from datamodules.filters import Filter, FilterError
from datamodules.labels import Labelling, SelectionError, load_labels
from datamodules.mixture import Mixture
from datamodules.remote_index import open_index
from datamodules.shard_index import ShardIndex
from datamodules.storage import Storage, is_url, joined, without_secrets


@dataclass(frozen=True)
class Source:
    """A folder of shards, or a part of its samples.

    Args:
        path: folder, or URL of one. split: sub-folder of it, such as `train` in what a converter wrote.
        weight: how often its samples are drawn, relative to the weights of the other sources and whatever its size; all
            sources have one, or none has: then each sample comes once an epoch. Means nothing in evaluation.
        edit_types: only samples of these edit types. where: only samples for which this expression is true, such as
            `width >= 512 and "painting" not in instruction`; see `datamodules.filters.Filter`.
        index_directory: where `index.json` and the `.idx` files are, if elsewhere, and where a part is remembered.
    """

    path: str
    split: str | None = None
    weight: float | None = None
    edit_types: list[str] | None = None
    where: str | None = None
    index_directory: str | None = None

    @property
    def folder(self) -> str:
        """Folder or URL of the shards."""
        return self.path if self.split is None else joined(self.path, self.split)

    def __str__(self) -> str:
        """The folder, for messages."""
        return without_secrets(self.folder)

    def filter(self) -> Filter | None:
        """Both conditions as one; None if all samples are chosen.

        Raises:
            ValueError: an expression that is none (`FilterError`), or an empty list of edit types.
        """
        if self.where is None and self.edit_types is None:
            return None
        if self.edit_types is not None and not self.edit_types:
            raise ValueError(f"{self}: edit_types: expected at least one, found none; leave it out for all")
        try:
            return Filter("True" if self.where is None else self.where, self.edit_types)
        except FilterError as error:
            raise FilterError(f"{self}: {error}") from error


def open_sources(
    sources: Sequence[Source],
    storage: Storage | None = None,
    sizes: tuple[Size, ...] | None = None,
    weighted: bool = True,
    workers: int = 0,
) -> Mixture:
    """Read the indices, and find which samples are chosen where that is not known yet.

    Args:
        sources: at least one. storage: how URLs are read. sizes: of the buckets; None for a single one.
        weighted: False ignores the weights. workers: processes that read samples where that is necessary.

    Raises:
        ShardError: see `open_index` and `load_labels`.
        ValueError: no source, a weight that is not positive, weights for some sources only; see also `Source.filter`.
    """
    if not sources:
        raise ValueError("data.init_args: expected at least one source of samples, found an empty list")
    weights = _weights(sources)
    indices, labels = [], []
    for source in sources:
        index = open_index(source.folder, source.index_directory, storage)
        if not len(index):
            raise SelectionError(f"{source}: expected at least one sample, found none; leave the source out")
        asked = Labelling(source.filter(), sizes)
        whole = asked.where is None and sizes is None
        labels.append(None if whole else load_labels(index, asked, _kept_in(source, index, storage), workers))
        indices.append(index)
    return Mixture(indices, labels, weights if weighted else None, len(sizes) if sizes else 1)


def _weights(sources: Sequence[Source]) -> list[Fraction] | None:
    """The weight of each source as it is written, or None if none has one."""
    if all(source.weight is None for source in sources):
        return None
    for source in sources:
        if source.weight is None:
            raise ValueError(f"{source}: expected a weight, as other sources have one, found none; give it one")
        if not 0 < source.weight < float("inf"):
            raise ValueError(f"{source}: weight: expected a positive number, found {source.weight}")
    return [Fraction(repr(float(source.weight))) for source in sources]


def _kept_in(source: Source, index: ShardIndex, storage: Storage | None) -> Path:
    """The local folder in which is kept what is known of a source's samples."""
    for folder in (index.index_directory, storage.cache_directory if storage else None):
        if folder and not is_url(folder):
            return Path(folder)
    raise SelectionError(
        f"{source}: expected a local folder for what is known of its samples, which a filter or buckets need; "
        "give storage.cache_directory, or an index_directory"
    )

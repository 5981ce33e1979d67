"""Which splits a dataset of tables has, and which files make them: what `datasets` says of a folder or hub name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.convert.literal_paths import literal_path
from datamodules.convert.source import ConversionError
from datamodules.convert.tables import Rows, library, load_table, one_line, open_parquet

if TYPE_CHECKING:
    import datasets

_KINDS = ("parquet", "arrow", "csv", "json", "text", "imagefolder", "webdataset", "xml")
"""Builders of `datasets` that only read data; others (pickled pandas frames) could run what they read."""


def find_tables(source: str, config: str | None = None) -> dict[str, Rows]:
    """The splits of a dataset, named as the dataset names them.

    Args:
        source: folder, or name on the hub. config: which of a dataset's configurations.

    Raises:
        ConversionError: no dataset there, one that only reads with programs of others, or unreadable files.
    """
    datasets = library()
    if (Path(source) / "state.json").is_file() or (Path(source) / "dataset_dict.json").is_file():
        raise ConversionError(f"{source}: written by save_to_disk; write it anew with Dataset.to_parquet")
    try:
        with literal_path(source):
            builder = datasets.load_dataset_builder(source, config)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        raise ConversionError(f"--source {source}: `datasets` finds no dataset there ({one_line(error)})") from error
    kind = type(builder).__module__.split(".")[-1]
    if kind not in _KINDS:
        raise ConversionError(f"{source}: files of kind {kind!r} are not read; expected one of {', '.join(_KINDS)}")
    if kind != "parquet":
        return _whole_tables(source, config, of_images=kind == "imagefolder")
    described = builder.info.features
    return {
        str(split): _parquet_rows((source, config, str(split)), files, described)
        for split, files in _data_files(builder)
    }


def _data_files(builder: datasets.DatasetBuilder) -> list[tuple[Any, Sequence[str]]]:
    return list((builder.config.data_files or {}).items())


def _parquet_rows(
    origin: tuple[str, str | None, str], files: Sequence[str], described: datasets.Features | None
) -> Rows:
    """Rows of parquet files; what the dataset's card says of their columns goes before what the files say."""
    counts, size = [], 0
    features = described or library().Features.from_arrow_schema(open_parquet(str(files[0])).schema_arrow)
    for file in files:
        metadata = open_parquet(str(file)).metadata
        counts.append(metadata.num_rows)
        size += sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    paths, total = tuple(map(str, files)), sum(counts)
    return Rows(origin[2], origin, paths, tuple(counts), size, 0, total, classes=_classes(features))


def _classes(features: datasets.Features) -> dict[str, list[str]]:
    """Names of the classes of each column of class labels."""
    kind = library().ClassLabel
    return {name: feature.names for name, feature in features.items() if isinstance(feature, kind)}


def _whole_tables(source: str, config: str | None, of_images: bool) -> dict[str, Rows]:
    splits = {}
    for name in _split_names(source, config):
        table = load_table(source, config, name)
        origin, size = (source, config, name), table.dataset_size or 0
        splits[name] = Rows(name, origin, (), (len(table),), size, 0, len(table), of_images, _classes(table.features))
    return splits


def _split_names(source: str, config: str | None) -> list[str]:
    try:
        with literal_path(source):
            return library().get_dataset_split_names(source, config)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        cause = error.__cause__ or error
        raise ConversionError(f"--source {source}: `datasets` cannot read its splits ({one_line(cause)})") from error

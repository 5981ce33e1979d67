"""Rows of any `datasets` dataset by number: parquet straight from its row groups, all else through `datasets`.

`datasets` says which files make which split, of a local folder or a name on the hub. Parquet is then read row group by
row group, so that a worker begins anywhere and nothing is copied into a cache; 63 GB stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, overload

from datamodules.convert.files import inside, read_file, read_found
from datamodules.convert.literal_paths import literal_path
from datamodules.convert.source import ConversionError
from datamodules.faults import BadSample
from datamodules.storage import is_url

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH = 16  # rows decoded at once: with images of several MB each, enough
_BUFFER_BYTES = 2**20  # read at once of a column of a local file, whose row groups may have many GB


@dataclass(frozen=True)
class Rows(Sequence["Rows"]):
    """Rows `start`..`stop` of a split; slices of it are Rows too.

    Attributes:
        split: our name of the split, with which keys begin.
        files, counts: the parquet files and the rows of each; empty for what `datasets` reads.
        origin: path or hub name, configuration and split, for `datasets`. size: bytes of all files, 0 if unknown.
        of_images: made by `datasets` from a folder of images, so that it alone chose the files that cells name.
        classes: column of class labels -> names of the classes, in the place of whose numbers the cells have them.
    """

    split: str
    origin: tuple[str, str | None, str]
    files: tuple[str, ...]
    counts: tuple[int, ...]
    size: int
    start: int
    stop: int
    of_images: bool = False
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict, compare=False)  # follow from the files

    def __len__(self) -> int:
        return self.stop - self.start

    @overload
    def __getitem__(self, index: int) -> Rows: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Rows:
        first, last, step = (index if isinstance(index, slice) else slice(index, index + 1)).indices(len(self))
        if step != 1:
            raise ValueError(f"rows: expected a slice without step, found {index}")
        return replace(self, start=self.start + first, stop=self.start + max(first, last))

    @property
    def whole(self) -> Rows:
        """All rows of the split."""
        return replace(self, start=0, stop=sum(self.counts))

    @property
    def bytes(self) -> int:
        """About how many bytes these rows take."""
        return self.size * len(self) // max(1, sum(self.counts))

    def read(self) -> Iterator[tuple[int, dict[str, Any] | BadSample]]:
        """Number and cells by column of each row; what went wrong in the place of a row that cannot be read."""
        for number, row in self._from_parquet() if self.files else self._from_datasets():
            yield number, row if isinstance(row, BadSample) else self._with_class_names(row)

    def _with_class_names(self, row: dict[str, Any]) -> dict[str, Any]:
        named = {column: _class_name(row[column], names) for column, names in self.classes.items() if column in row}
        return row | named

    def _from_parquet(self) -> Iterator[tuple[int, dict[str, Any] | BadSample]]:
        first = 0
        for path, count in zip(self.files, self.counts, strict=True):
            last = first + count
            if first < self.stop and last > self.start:
                yield from _file_rows(path, first, max(self.start, first), min(self.stop, last))
            first = last

    def _from_datasets(self) -> Iterator[tuple[int, dict[str, Any] | BadSample]]:
        table = load_table(*self.origin)
        for number in range(self.start, self.stop):
            yield number, self._with_images(table[number]) if self.of_images else table[number]

    def _with_images(self, row: dict[str, Any]) -> dict[str, Any] | BadSample:
        """A row with the images that lie in a zip file or in the cache of `datasets`; others are read when used."""
        here = Path(self.origin[0]).is_dir()
        try:
            return {name: cell if here and not _is_packed(cell) else _with_bytes(cell) for name, cell in row.items()}
        except BadSample as bad:
            return bad


def _class_name(cell: Any, names: Sequence[str]) -> Any:
    """The name of a class, None for -1 (`datasets` marks unknown classes so); other cells stay."""
    if not isinstance(cell, int) or cell >= len(names):
        return cell
    return names[cell] if cell >= 0 else None


def _is_packed(cell: Any) -> bool:
    return isinstance(cell, dict) and "::" in (cell.get("path") or "")


def _with_bytes(cell: Any) -> Any:
    names_a_file = isinstance(cell, dict) and cell.get("bytes") is None and isinstance(cell.get("path"), str)
    return {**cell, "bytes": read_found(cell["path"])} if names_a_file else cell


def _file_rows(path: str, first: int, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any] | BadSample]]:
    """Rows `start`..`stop` of the split, all in this file, whose first row is row `first` of the split."""
    file, number = open_parquet(path), first
    for group in range(file.num_row_groups):
        end = number + file.metadata.row_group(group).num_rows
        if number < stop and end > start:
            done = max(number, start)
            try:
                for batch in file.iter_batches(_BATCH, row_groups=[group]):
                    for offset in range(max(0, done - number), min(batch.num_rows, stop - number)):
                        yield number + offset, _cells(batch.slice(offset, 1))
                        done = number + offset + 1
                    number += batch.num_rows
                    if number >= stop:
                        break
            except _failures(path) as error:
                if is_url(path):  # the network more likely than the file; nothing is given up for that
                    raise ConversionError(
                        f"{path}: cannot be read ({one_line(error)}); finished shards are kept: run the same "
                        "command again"
                    ) from error
                bad = BadSample("parquet", f"{Path(path).name}, row group {group}: {error}")
                yield from ((row, bad) for row in range(done, min(end, stop)))
        number = end


def _cells(row: pa.RecordBatch) -> dict[str, Any] | BadSample:
    """The cells of a single row."""
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError as error:
        return BadSample("text", f"a text that is no UTF-8 ({error})")


def column_names(rows: Rows) -> list[str]:
    """Names of the columns of a split, sorted."""
    return sorted(
        open_parquet(rows.files[0]).schema_arrow.names if rows.files else load_table(*rows.origin).column_names
    )


def column(rows: Rows, name: str) -> list[Any]:
    """The cells of one column, which must be small; of parquet nothing else is read.

    Raises:
        ConversionError: there is no such column.
    """
    if name not in (names := column_names(rows)):
        raise ConversionError(
            f"{rows.origin[0]}: no column {name!r} in split {rows.split!r}; it has {', '.join(names)}"
        )
    if not rows.files:
        return list(load_table(*rows.origin)[name])[rows.start : rows.stop]
    return list(chain.from_iterable(_file_column(path, name) for path in rows.files))[rows.start : rows.stop]


def _file_column(path: str, name: str) -> list[Any]:
    file = open_parquet(path)
    if name not in file.schema_arrow.names:
        raise ConversionError(f"{path}: no column {name!r}, which other files of the split have; fetch it again")
    try:
        return file.read([name]).column(0).to_pylist()
    except _failures(path) as error:
        raise ConversionError(f"{path}: column {name!r} cannot be read ({one_line(error)}); fetch it again") from error


@lru_cache(maxsize=4)
def open_parquet(path: str) -> pq.ParquetFile:
    """A parquet file, local or behind a URL.

    Raises:
        ConversionError: it cannot be opened, or its footer is damaged.
    """
    import fsspec
    import pyarrow.parquet as pq

    try:
        if is_url(path):
            return pq.ParquetFile(fsspec.open(path, "rb").open())
        return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except _failures(path) as error:
        what_to_do = "run the same command again" if is_url(path) else "fetch it again"
        raise ConversionError(f"{path}: cannot be read as parquet ({one_line(error)}); {what_to_do}") from error


def _failures(path: str) -> tuple[type[Exception], ...]:
    """What reading a parquet file raises; each file system behind a URL has error classes of its own."""
    import pyarrow as pa

    return (Exception,) if is_url(path) else (pa.ArrowException, OSError, ValueError)


@lru_cache(maxsize=4)
def load_table(source: str, config: str | None, split: str) -> datasets.Dataset:
    """A split through the cache of `datasets`, its pictures left encoded.

    Raises:
        ConversionError: it cannot be read.
    """
    datasets = library()
    try:
        with literal_path(source):
            table = datasets.load_dataset(source, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetGenerationError) as error:
        cause = error.__cause__ or error
        raise ConversionError(
            f"--source {source}: `datasets` cannot read split {split!r} ({one_line(cause)})"
        ) from error
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table


def library() -> ModuleType:
    """The library `datasets`, which takes seconds to import; its own progress bars would tear ours."""
    import datasets

    datasets.disable_progress_bars()
    return datasets


def one_line(error: BaseException) -> str:
    """An error of another library as part of a line."""
    return " ".join(str(error).split())[:300]


def image_bytes(cell: Any, column: str, root: Path | None = None) -> bytes | None:
    """The encoded picture of a cell, exactly as it was stored; None where there is none.

    Args:
        root: folder in which a cell may name a file instead of holding its bytes; None for nowhere.

    Raises:
        BadSample: "field", the cell is no picture; "missing" or "outside", it names a file that may not be read.
    """
    if cell is None or isinstance(cell, bytes):
        return cell
    if isinstance(cell, str):
        cell = {"path": cell}
    if not isinstance(cell, dict) or not {"bytes", "path"} & set(cell):
        raise BadSample("field", f"column {column!r}: expected a picture, found {type(cell).__name__}")
    if cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    if cell.get("path") is None:
        return None
    if root is None:
        raise BadSample("outside", f"column {column!r} names the file {cell['path']!r} instead of holding a picture")
    return read_file(root, str(inside(root, cell["path"]).relative_to(root.resolve())))

"""Items of GEdit-Bench as its hub repository holds them: parquet files, a saved data set, or rows of JSON lines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmig.base.files import replacing
from mmig.evaluation.judged.items import Item, JudgedError, existing, read_lines, texts_of, unique

PICTURE = "input_image"
"""Column that the official example writes as KEY_SRCIMG.png."""
_FIELDS = ("task_type", "key", "instruction", "instruction_language")


def read_items(folder: Path, pictures: Path, language: str, unpacked: Path) -> list[Item]:
    """Items of one language.

    Sources are `fullset/TYPE/LANGUAGE/KEY_SRCIMG.png` below the edited pictures, as the official example writes them;
    those that are not there are unpacked from the data set's own pictures.

    Args:
        folder: with *.parquet, anywhere below, or what `save_to_disk` writes; or a file of JSON lines with its columns.
        pictures: `fullset/TYPE/LANGUAGE/KEY.png`, or what evaluate.py has kept.
        language: "en" or "cn".
        unpacked: folder for pictures out of the data set.

    Raises:
        JudgedError: no rows, or a row lacks a field.
    """
    items = []
    for place, row in enumerate(_rows(folder)):
        kind, key, instruction, spoken = texts_of(row, _FIELDS, f"{folder}, row {place}")
        if spoken != language:
            continue
        name = f"{kind}/{spoken}/{key}"
        source = pictures / "fullset" / f"{name}_SRCIMG.png"
        if not source.is_file():
            source = _unpack(row.get(PICTURE), unpacked / f"{name}.png") or source
        edited = existing(pictures, name, [f"fullset/{name}.png"])
        about = {"intersection": bool(row.get("Intersection_exist")), "language": spoken}
        items.append(Item(name, kind, instruction, (source,), edited, {}, about))
    return unique(items, folder)


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of the data set; a picture is {"bytes": ..., "path": ...}, or a path in JSON lines."""
    if folder.is_file() and folder.suffix == ".jsonl":
        for row in read_lines(folder):
            picture = row.get(PICTURE)
            yield {**row, PICTURE: {"path": str(folder.parent / picture)} if isinstance(picture, str) else None}
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [folder] if folder.is_file() else sorted(folder.rglob("*.parquet"))
    arrows = [] if files else sorted(folder.rglob("*.arrow"))
    if not files and not arrows:
        raise JudgedError(f"--items {folder}: expected *.parquet, *.arrow of a saved data set, or one .jsonl file")
    for file in files:
        with pq.ParquetFile(file) as table:
            names = [name for name in (*_FIELDS, "Intersection_exist", PICTURE) if name in table.schema_arrow.names]
            for batch in table.iter_batches(batch_size=32, columns=names):
                yield from batch.to_pylist()
    for file in arrows:
        with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
            for batch in stream:
                yield from batch.to_pylist()


def _unpack(picture: Any, path: Path) -> Path | None:
    """Where a row's own picture lies now; None where the row has none."""
    if not isinstance(picture, dict):
        return None
    if not picture.get("bytes"):
        return Path(picture["path"]) if picture.get("path") else None
    if not path.is_file():
        with replacing(path) as temporary:
            temporary.write_bytes(picture["bytes"])
    return path

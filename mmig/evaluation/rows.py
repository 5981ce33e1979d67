"""Per-sample results: one row a (key, seed), gathered over ranks, without duplicates."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class SampleRow:
    """What one edit of one sample scored.

    Attributes:
        key: the sample's key; see `tell_apart` where several have the same.
        seed: the sampling seed.
        edit_type: type of the edit, "" if unknown.
        values: metric name -> value, None where skipped.
        skipped: metric name -> reason, for the skipped ones only.
        instruction: what was asked for.
        text: the text that the editor gave, "" if none.
        truncated: text fields that a metric's CLIP had to cut; as "NAME (READER)" those that the editor did.
        resized_from: [width, height] of an edited picture that was resized to the sample's images, else None.
        features: of the images "edited" and "target" for metrics of sets, float32 [D] each; in no file.
    """

    key: str
    seed: int
    edit_type: str
    values: dict[str, float | None]
    skipped: dict[str, str] = field(default_factory=dict)
    instruction: str = ""
    text: str = ""
    truncated: list[str] = field(default_factory=list)
    resized_from: list[int] | None = None
    features: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """One line of samples.jsonl."""
        line = asdict(replace(self, features={}))
        del line["features"]
        return line


def gather(local: list[Any]) -> list[Any]:
    """Items of all ranks in rank order, on every rank; every rank must call it."""
    import torch.distributed as dist  # here, so that rows on disk can be read without torch

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local
    parts: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, local)
    return [item for part in parts for item in part]


def deduplicate(rows: Iterable[SampleRow]) -> tuple[list[SampleRow], int]:
    """Rows sorted by (key, seed), the first of each kept, and how many were dropped (samplers repeat to pad ranks)."""
    unique: dict[tuple[str, int], SampleRow] = {}
    num_seen = 0
    for row in rows:
        unique.setdefault((row.key, row.seed), row)
        num_seen += 1
    return [unique[place] for place in sorted(unique)], num_seen - len(unique)


def tell_apart(placed: Iterable[tuple[int | None, SampleRow]]) -> list[SampleRow]:
    """Rows of different samples with the same key, of several sources, under different keys.

    The one that comes first in the split keeps its key, the others get KEY.2, KEY.3 and so on; no sample's own key
    has a dot. Two runs over the same split find the same keys.

    Args:
        placed: rows with their sample's position in the split; None for those that are another's duplicate if their
            key is there, which come last.
    """
    placed = sorted(placed, key=lambda entry: entry[0] is None)
    places: dict[str, set[int]] = defaultdict(set)
    for position, row in placed:
        if position is not None:
            places[row.key].add(position)
    numbers = {
        (key, position): number for key, of_key in places.items() for number, position in enumerate(sorted(of_key), 1)
    }
    rows = []
    for position, row in placed:
        number = numbers.get((row.key, position), 1)
        rows.append(row if number == 1 else replace(row, key=f"{row.key}.{number}"))
    return rows


def by_key(rows: Iterable[SampleRow], metric: str) -> dict[str, float]:
    """Mean over seeds of one metric for every key that has a value: seeds of one sample are not independent."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        value = row.values.get(metric)
        if value is not None:
            values[row.key].append(value)
    return {key: sum(of_key) / len(of_key) for key, of_key in values.items()}


def read_rows(path: Path) -> list[SampleRow]:
    """Rows of a samples.jsonl.

    Raises:
        ValueError: naming the file and line if a line is not such a row; an empty file has one that is not.
    """
    rows = []
    # a text may hold separators of Unicode that `str.splitlines` takes for the end of a line
    for number, line in enumerate(path.read_bytes().rstrip(b"\n").split(b"\n"), start=1):
        try:
            row = SampleRow(**json.loads(line))
            row.values.items()
        except (TypeError, AttributeError, ValueError) as error:
            found = line[:60].decode(errors="replace")
            raise ValueError(f"{path}, line {number}: expected a row of evaluate.py, found {found!r}") from error
        rows.append(row)
    return rows

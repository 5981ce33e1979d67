"""Evaluations that are on disk: what they found, what they were made of, and whether they may be compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmig.evaluation.places import FOLDER, MARK, picture_name
from mmig.evaluation.rows import SampleRow, read_rows

LOADING = {
    *("global_batch_size", "eval_batch_size", "num_workers", "writers", "seed", "block_shards", "max_bad_fraction"),
    *("root", "index_directory", "storage", "features", "buckets"),
    *("train", "train_count", "flip", "never_flip", "random_crop"),
}
"""Arguments of data that say where and how they are read or trained on, not what is scored."""
MODELS = ("judge", "clip", "dino", "lpips", "features")
"""Entries of metrics.json about what scored: where two evaluations have one, it must be the same."""


class NotComparableError(ValueError):
    """Evaluations that do not belong on one page."""


@dataclass(frozen=True)
class Finished:
    """One evaluation.

    Attributes:
        name: what tables call it.
        directory: its folder.
        report: content of metrics.json.
        rows: one an edit, sorted by key and seed.
    """

    name: str
    directory: Path
    report: dict[str, Any]
    rows: list[SampleRow]

    @property
    def role(self) -> str:
        """What its configuration calls it, "floor" or "ceiling"; else ""."""
        return self.report.get("role", "")

    @cached_property
    def keys(self) -> list[str]:
        """Keys of its samples, sorted."""
        return sorted({row.key for row in self.rows})

    @cached_property
    def has_pictures(self) -> bool:
        """Whether it kept any."""
        return (self.directory / FOLDER / MARK).is_file()

    def picture(self, key: str, seed: int) -> Path | None:
        """The edited picture of a sample; None where it was not kept."""
        return self._there(picture_name(key, seed))

    def original(self, kind: str, key: str) -> Path | None:
        """The sample's own picture, `kind` "source" or "target"; None where there is none."""
        return self._there(f"{kind}/{picture_name(key)}")

    def references(self, key: str) -> list[Path]:
        """The attached pictures of a sample, in order."""
        found: list[Path] = []
        while path := self._there(f"references/{picture_name(key, len(found) + 1)}"):
            found.append(path)
        return found

    def _there(self, name: str) -> Path | None:
        path = self.directory / FOLDER / name
        return path if self.has_pictures and path.is_file() else None


def read_finished(directories: Sequence[str | Path]) -> list[Finished]:
    """The evaluations of some folders, under their folders' names, with as much of the path as tells them apart.

    Raises:
        ValueError: a folder is there twice, holds no finished evaluation, or a broken one.
    """
    folders = [Path(directory) for directory in directories]
    resolved = [folder.resolve() for folder in folders]
    for number, folder in enumerate(folders):
        if resolved[number] in resolved[:number]:
            raise ValueError(f"{folder}: given twice; expected different evaluations")
    names = short_names(resolved)
    return [
        Finished(name, folder, _report(folder), read_rows(folder / "samples.jsonl"))
        for name, folder in zip(names, folders, strict=True)
    ]


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of different paths, as many as tell all apart."""
    longest = max(len(folder.parts) for folder in folders)
    for count in range(1, longest + 1):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(folders):
            break
    return names


def check_comparable(evaluations: Sequence[Finished]) -> None:
    """Refuse evaluations of other data than the first one's, or scored otherwise.

    Raises:
        NotComparableError: saying in one line what differs.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        differs = _difference_of_data(first, other) or _difference_of_samples(first, other)
        if differs:
            raise NotComparableError(f"{first.directory} and {other.directory} cannot be compared: {differs}")
    check_scored_alike(evaluations)


def check_scored_alike(evaluations: Sequence[Finished]) -> None:
    """Refuse evaluations that other models scored than the first one.

    Raises:
        NotComparableError: saying in one line which.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        for model in MODELS:
            ours, theirs = (_without_place(each.report.get(model)) for each in (first, other))
            if ours and theirs and ours != theirs:
                raise NotComparableError(
                    f"{first.directory} and {other.directory} cannot be compared: other models ({model}) scored them; "
                    "score the pictures of one again with the options of the other (evaluate.py --images)"
                )


def _report(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    if not path.is_file() or not (folder / "samples.jsonl").is_file():
        raise ValueError(f"{folder}: no finished evaluation; expected metrics.json and samples.jsonl of evaluate.py")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        report["metrics"].items(), report["data"]["class_path"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected what evaluate.py writes ({type(error).__name__}: {error})") from error
    return report


def _without_place(model: Any) -> Any:
    """What metrics.json says of a model, without where it lay if a fingerprint says what it is."""
    if not isinstance(model, dict) or "fingerprint" not in model:
        return model
    return {name: value for name, value in model.items() if name not in ("name", "weights", "folder")}


def _difference_of_data(first: Finished, other: Finished) -> str:
    """What differs between the data and splits of two evaluations, "" where nothing does."""
    ours, theirs = first.report["data"], other.report["data"]
    for name, values in (
        ("data", (ours["class_path"], theirs["class_path"])),
        ("split", (first.report.get("split"), other.report.get("split"))),
    ):
        if values[0] != values[1]:
            return f"{name} {values[0]} and {values[1]}"
    arguments = [dict(data.get("init_args") or {}) for data in (ours, theirs)]
    for name in sorted(arguments[0].keys() | arguments[1].keys() - LOADING):
        values = tuple(given.get(name, "not given") for given in arguments)
        if name not in LOADING and values[0] != values[1]:
            return f"data.init_args.{name} {values[0]} and {values[1]}"
    return ""


def _difference_of_samples(first: Finished, other: Finished) -> str:
    if first.keys != other.keys:
        alone = sorted(set(first.keys) ^ set(other.keys))
        counts = f"{len(first.keys)} and {len(other.keys)} samples"
        return f"{counts}, {len(alone)} in one alone, such as {alone[0]!r}; evaluate both with the same --limit"
    asked = {row.key: (row.instruction, row.edit_type) for row in first.rows}
    for row in other.rows:
        if asked[row.key] != (row.instruction, row.edit_type):
            return f"sample {row.key!r} asks for {asked[row.key][0]!r} and {row.instruction!r}"
    return ""

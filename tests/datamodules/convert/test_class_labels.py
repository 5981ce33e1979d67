"""Columns of class labels of `datasets`, wherever their names stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from datamodules.convert.table_source import HuggingFace
from tests.datamodules.convert.layouts import picture, write, write_parquet
from tests.datamodules.convert.results import converted, samples

pytestmark = pytest.mark.usefixtures("datasets_cache")


def _classes_in_the_parquet(root: Path) -> None:
    features = Features({"text": Value("string"), "kind": ClassLabel(names=["add", "remove"])})
    Dataset.from_dict({"text": ["a", "b", "c"], "kind": [1, 0, -1]}, features).to_parquet(root / "train.parquet")


def _classes_in_the_card(root: Path) -> None:
    write_parquet(root / "train.parquet", {"text": ["a", "b", "c"], "kind": [1, 0, -1]})
    names = "{class_label: {names: {'0': add, '1': remove}}}"
    features = f"features: [{{name: text, dtype: string}}, {{name: kind, dtype: {names}}}]"
    (root / "README.md").write_text(f"---\ndataset_info: {{{features}}}\n---\n", encoding="utf-8")


def _classes_in_folders(root: Path) -> None:
    write(root, {"train/add/1.jpg": picture(1), "train/remove/0.jpg": picture(0)})


@pytest.mark.parametrize(
    ("make", "columns", "expected"),
    [
        (_classes_in_the_parquet, {"instruction": "text"}, ["remove", "add", None]),
        (_classes_in_the_card, {"instruction": "text"}, ["remove", "add", None]),
        (_classes_in_folders, {"target": "image"}, ["add", "remove"]),
    ],
)
def test_a_column_of_class_labels_gives_their_names(
    make: Callable[[Path], None], columns: dict[str, str], expected: list[str | None], tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    make(tmp_path / "source")
    kind = "label" if "target" in columns else "kind"
    report = converted(
        HuggingFace(str(tmp_path / "source"), None, {**columns, "edit_type": kind}, [kind]), tmp_path / "out"
    )
    found = samples(tmp_path / "out" / "train").values()
    assert [sample.get("edit_type") for sample in found] == expected
    assert [sample.get("metadata", {}).get(kind) for sample in found] == expected
    assert not report["splits"]["train"]["dropped"]

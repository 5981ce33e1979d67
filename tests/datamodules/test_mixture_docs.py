"""docs/mixtures.md and the header of configs/data/mixture.yaml say what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import yaml

from datamodules.buckets import Buckets
from datamodules.filters import Filter
from datamodules.sources import Source

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/mixtures.md").read_text(encoding="utf-8")


def _section(title: str) -> str:
    return DOCUMENT.split(f"\n## {title}", 1)[1].split("\n## ")[0]


def _first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def test_every_key_of_a_source_is_described() -> None:
    assert _first_cells(_section("Sources")) == [each.name for each in fields(Source)]


def test_examples_are_sources_and_buckets() -> None:
    examples = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)]
    sources = [Source(**entry) for entry in examples[0]["train"]]
    assert [source.filter() is not None for source in sources] == [False, True]
    assert len(Buckets(**examples[1]["buckets"]).sizes(512)) == 5


def test_every_expression_is_one_and_every_function_exists() -> None:
    functions, *_ = re.findall(r"\| function \|.*?\n\n", _section("Expressions"), re.DOTALL)
    for call in _first_cells(functions):
        assert Filter(f"{call} is None").names
    expressions = [cell for cell in _first_cells(_section("Expressions")) if cell not in _first_cells(functions)]
    assert len(expressions) >= 5 and all(Filter(text).names for text in expressions)


def test_the_configuration_mixes_parts_of_the_small_world() -> None:
    data = yaml.safe_load((ROOT / "configs/data/mixture.yaml").read_text(encoding="utf-8"))["data"]["init_args"]
    train = [Source(**entry) for entry in data["train"]]
    filters = [source.filter() for source in train]
    for kind, chosen in (("visual", [False, True]), ("add", [True, False])):
        facts = {"edit_type": kind, "instruction": "x"}
        assert [each is not None and each(facts) for each in filters] == chosen
    assert data["resolution"] in [size[0] for size in Buckets(**data["buckets"]).sizes(data["resolution"])]

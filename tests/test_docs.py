"""Documents name only what exists, and the tables of docs/mmig.md say what the code says."""

import ast
import re
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage1, Stage2, Stage3, Stage4, Stage5

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/mmig.md"
STAGES = {stage.__name__: stage for stage in (Stage1, Stage2, Stage3, Stage4, Stage5)}


def table(title: str) -> list[list[str]]:
    """Rows of the table below a heading, cells stripped, without its head."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"\n## {title}", 1)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@cache
def defined(path: Path) -> set[str]:
    """Names of the functions, classes and values of a file, methods as Class.method."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, kinds):
            names.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {target.id for target in ast.walk(node) if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, kinds)}
    return names


def links(text: str) -> list[tuple[str, Path]]:
    """(name, file) of every name in code that is the text, or a part of the text, of a link to a program."""
    found = re.findall(r"\[([^\]]*)\]\(([\w./]+\.py)\)", text)
    return [(name, DOCUMENT.parent / path) for said, path in found for name in re.findall(r"`([\w.]+)`", said)]


@pytest.mark.parametrize("document", sorted(DOCUMENT.parent.glob("*.md")), ids=lambda document: document.stem)
def test_every_linked_name_is_defined_in_its_file(document: Path) -> None:
    found = links(document.read_text(encoding="utf-8"))
    wrong = [f"{path.name}::{name}" for name, path in found if name not in {path.name, *defined(path.resolve())}]
    assert wrong == []


@pytest.mark.parametrize(
    ("document", "least"), [("mmig", 50), ("mgie", 20), ("umm_diffusion", 20), ("latent_diffusion", 20)]
)
def test_methods_say_where_their_parts_are(document: str, least: int) -> None:
    assert len(links((DOCUMENT.parent / f"{document}.md").read_text(encoding="utf-8"))) >= least


def test_every_equation_has_a_function_and_a_test() -> None:
    rows = table("Equations")
    numbers = [int(number) for row in rows for number in row[0].split(",")]
    assert numbers == list(range(1, 23))
    for row in rows:
        of_code = [path.resolve().relative_to(DOCUMENT.parent.parent).parts[0] for _, path in links(row[2])]
        of_tests = [name for name, path in links(row[3]) if path.name.startswith("test_")]
        assert of_code and set(of_code) == {"mmig"}, row[0]
        assert of_tests and all(name.startswith("test_") for name in of_tests), row[0]


@pytest.mark.parametrize("number", range(5))
def test_the_table_of_stages_is_what_the_stages_declare(number: int) -> None:
    row = table("Stages")[number]
    stage: type[MMIGStage] = STAGES[links(row[0])[0][0]]
    trained, counted, named = (re.findall(r"`([\w.]+)`", cell) for cell in row[1:])
    assert sorted(trained) == sorted(stage.trained_parts)
    assert sorted(counted) == sorted(stage.counted_losses)
    assert sorted(named if row[3] != "the same" else counted) == sorted(stage.strict_losses)


def test_all_stages_are_in_the_table() -> None:
    assert [links(row[0])[0][0] for row in table("Stages")] == list(STAGES)


def default_of(kind: type, keys: list[str]) -> Any:
    """Default of a field of nested dataclasses; KeyError where there is no such field."""
    own = {item.name: item for item in fields(kind)}[keys[0]]
    if len(keys) > 1:
        return default_of(get_type_hints(kind)[keys[0]], keys[1:])
    return own.default if own.default_factory is MISSING else own.default_factory()


@pytest.mark.parametrize("row", table("What the paper leaves free"), ids=lambda row: row[0].strip("`"))
def test_configurable_keys_exist_with_the_default_that_is_said(row: list[str]) -> None:
    first, *keys = row[0].strip("`").split(".")
    hint = get_type_hints(MMIGStage.__init__)[first]
    kind = next(part for part in (hint, *getattr(hint, "__args__", ())) if is_dataclass(part))
    found = default_of(kind, keys)
    assert yaml.safe_load(row[1].strip("`")) == (list(found) if isinstance(found, tuple) else found)

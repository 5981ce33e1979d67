"""docs/judged.md says what the facts say; every defect that an aggregator counts is among them."""

import ast
import re
from pathlib import Path

import pytest

from mmig.evaluation.judged.__main__ import NAMES, build_parser
from mmig.evaluation.judged.benchmarks import BENCHMARKS

MODULES = {"gedit": "gedit", "imgedit": "imgedit", "imgedit_uge": "imgedit", "kris": "kris", "risebench": "rise"}


@pytest.mark.parametrize("name", NAMES)
def test_every_defect_stands_in_the_document_as_the_facts_say_it(name: str, root: Path) -> None:
    lines = (root / "docs/judged.md").read_text(encoding="utf-8").splitlines()
    facts = BENCHMARKS[name]().facts
    wanted = [
        f"| {name} | `{defect}` | {about['what']} ({about['source']}) | {about['official']} | {about['corrected']} |"
        for defect, about in facts["defects"].items()
    ]
    assert [line for line in lines if line.startswith(f"| {name} | `")] == wanted
    for prompts in facts["prompts"]:
        assert any(prompts["source"] in line and prompts["sha256"][:16] in line for line in lines)


@pytest.mark.parametrize("name", MODULES)
def test_every_defect_that_is_counted_is_described(name: str, root: Path) -> None:
    tree = ast.parse((root / f"mmig/evaluation/judged/{MODULES[name]}.py").read_text(encoding="utf-8"))
    counted = {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "acted"
        and isinstance(node.slice, ast.Constant)
    }
    assert counted
    assert counted <= BENCHMARKS[name]().facts["defects"].keys()


def test_every_command_in_the_document_is_one_that_the_program_takes(root: Path) -> None:
    text = (root / "docs/judged.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python -m mmig\.evaluation\.judged (.*)$", text, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        assert build_parser().parse_args(command.split()).benchmark in NAMES

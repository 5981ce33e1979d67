"""What the command lines have in common: text that the terminal cannot show ends no program."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.shards import write_shards
from tests.mmig.evaluation.support import random_samples

ASCII = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
PRINTS = (
    "from mmig.base.commands import one_line_errors\nwith one_line_errors():\n    print('赤い \\udcff')\n    {then}"
)


def run(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=ASCII | options, capture_output=True, text=True, encoding="utf-8", check=False
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_cannot_be_shown_is_escaped_and_the_program_goes_on(encoding: str) -> None:
    done = run("-c", PRINTS.format(then="print('done')"), PYTHONIOENCODING=encoding)
    shown = "赤い" if encoding == "utf-8" else r"\u8d64\u3044"
    assert (done.returncode, done.stdout) == (0, f"{shown} \\udcff\ndone\n"), done.stderr


def test_an_error_with_such_text_is_still_one_line() -> None:
    done = run("-c", PRINTS.format(then="raise ValueError('赤い')"))
    assert (done.returncode, done.stderr) == (1, "error: \\u8d64\\u3044\n")


def test_programs_of_the_data_print_any_text_too(tmp_path: Path) -> None:
    folder = tmp_path / "赤"
    write_shards(random_samples(2), folder, samples_per_shard=2)
    done = run("-m", "datamodules.shards", "verify", str(folder))
    assert (done.returncode, r"\u8d64: every byte is as the index says" in done.stdout) == (0, True), done.stderr


def test_every_program_sees_to_it(root: Path, files: list[Path]) -> None:
    programs = [
        path
        for path in files
        if path.suffix == ".py"
        and (path.parts[0] in ("mmig", "datamodules") or path.name in ("edit.py", "evaluate.py"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree(root / path).body)
    ]
    assert len(programs) > 8
    seen_to = {"printable_output", "one_line_errors", "map_in_one_line"}
    assert [path for path in programs if not seen_to & called(tree(root / path))] == []


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def called(module: ast.Module) -> set[str]:
    calls = [node.func for node in ast.walk(module) if isinstance(node, ast.Call)]
    return {call.id for call in calls if isinstance(call, ast.Name)}

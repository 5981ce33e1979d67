"""The command line: quick to explain itself, one line for each error, the same result as the engine's."""

from __future__ import annotations

import argparse
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datamodules.convert.__main__ import _parser, main
from datamodules.convert.converters import CONVERTERS
from datamodules.convert.filters import Filters
from datamodules.convert.ipr2pr import IPr2PrTable, ipr2pr
from datamodules.convert.laion import Laion
from datamodules.convert.source import REASONS_MEANING
from datamodules.faults import REASONS
from tests import warm
from tests.datamodules.convert.layouts import ipr2pr_files, write, write_img2dataset, write_parquet
from tests.datamodules.convert.results import contents, converted


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source"), ipr2pr_files(4))


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in CONVERTERS)])
def test_help_is_there_for_every_converter(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0 and "usage: python -m datamodules.convert" in capsys.readouterr().out


def test_help_imports_nothing_heavy(root: Path) -> None:
    program = (
        "import sys\nfrom datamodules.convert.__main__ import main\n"
        "try: main(['hf', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(str(sorted({'torch', 'datasets', 'pyarrow', 'numpy', 'PIL', 'rich'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.stderr.strip() == "[]" and "--map" in done.stdout


def test_the_command_gives_what_the_engine_gives(root: Path, source: Path, tmp_path: Path) -> None:
    arguments = ["ipr2pr", "--source", str(source), "--out", str(tmp_path / "out"), "--partial", "--workers", "1"]
    command = [warm.python(), "-m", "datamodules.convert", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and "ipr2pr: converted" in done.stdout
    assert f"{tmp_path / 'out'}: written; {tmp_path / 'out' / 'conversion.json'} names what was dropped" in (
        done.stdout.splitlines()
    )
    converted(ipr2pr(str(source)), tmp_path / "engine")
    assert contents(tmp_path / "out") == contents(tmp_path / "engine")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ipr2pr"], "4 prompts, the published sets have"),
        (["ipr2pr", "--partial", "--workers", "0"], "--workers: expected at least 1, found 0"),
        (["evr"], "expected train.json, valid.json, test.json in"),
        (["laion"], "expected .tar files"),
        (["hf", "--map", "source"], "--map: expected FIELD=COLUMN, found 'source'"),
        (["hf", "--map", "source=a", "source=b"], "--map: expected each field once"),
    ],
)
def test_an_error_is_one_line(
    arguments: list[str], words: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--source", str(source), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_source_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ipr2pr", "laion", "evr", "gier", "ma5k"):
        assert main([name, "--source", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert "none" in error and error.count("\n") == 1, error


def test_laions_filters_come_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records: list[dict[str, Any]] = [{"caption": "a", "punsafe": 0.9}, {"caption": "b", "punsafe": 0.1}]
    laion = write_img2dataset(tmp_path / "laion", 0, records)
    arguments = ["laion", "--source", str(laion), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*arguments, "--max-punsafe", "0.5", "--nsfw", "UNLIKELY", "UNSURE"]) == 0
    text = capsys.readouterr().out
    assert "dropped: filter: punsafe" in text and "kept: unknown: nsfw" in text


ARGUMENTS = {
    "folder": ["--table", "edits.csv"],
    "hf": ["--map", "source=image"],
    "laion": ["--min-width", "9", "--nsfw", "UNSURE", "--missing", "drop"],
}


@pytest.mark.parametrize("name", list(CONVERTERS))
def test_every_converter_builds_a_source_that_workers_can_be_sent(name: str, source: Path) -> None:
    arguments = [name, "--source", str(source), "--out", "out", *ARGUMENTS.get(name, [])]
    built = CONVERTERS[name].build(_parser().parse_args(arguments))
    assert built.name == name and pickle.loads(pickle.dumps(built)) == built
    assert built.settings()["source"] == str(source)
    if isinstance(built, Laion):
        assert built.filters == Filters(min_width=9, nsfw=("UNSURE",)) and built.missing == "drop"


def test_the_document_names_every_converter_option_and_reason(root: Path) -> None:
    text = (root / "docs" / "convert.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))
    assert list(rows)[: len(CONVERTERS)] == list(CONVERTERS)
    own = {reason: meaning for reason, meaning in REASONS_MEANING.items() if REASONS.get(reason) != meaning}
    assert {reason: rows[reason] for reason in own} == own and set(rows) == {*CONVERTERS, *own}
    helps = "".join(parser.format_help() for parser in _subparsers())
    assert [option for option in re.findall(r"`(--[a-z-]+)", text) if option not in helps] == []


def _subparsers() -> list[argparse.ArgumentParser]:
    (action,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return list(action.choices.values())


def test_ipr2pr_tells_folders_from_parquet(source: Path, tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train.parquet", {"edit_prompt": ["x"]})
    assert isinstance(ipr2pr(str(tmp_path)), IPr2PrTable)
    assert not isinstance(ipr2pr(str(source)), IPr2PrTable)

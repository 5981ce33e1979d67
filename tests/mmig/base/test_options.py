"""Options of all programs: whole names alone, and the nearest one named. Of train.py: tests/mmig/run/test_parser.py."""

import importlib
import re
from pathlib import Path

import pytest

from mmig.base.commands import OptionParser, nearest

PROGRAMS = [
    ("evaluate", ["--data", "x", "--out", "x"], "--checkpoin", "--checkpoint"),
    ("evaluate", ["--data", "x", "--out", "x", "--config", "x"], "--batch_size", "--batch-size"),
    ("edit", ["--config", "x", "--instruction", "x", "--out", "x"], "--step", "--steps"),
    ("mmig.run.export", ["--checkpoint", "x", "--out", "x"], "--no_ema", "--no-ema"),
    ("mmig.run.map", ["--config", "x", "--source", "x", "--out", "x"], "--recor", "--record"),
    ("mmig.methods.umm_diffusion.subjects", ["--source", "x", "--out", "x"], "--min-sides", "--min-side"),
    ("mmig.backbones.__main__", ["fetch", "--config", "x"], "--too", "--to"),
    ("datamodules.convert.__main__", ["magicbrush", "--source", "x", "--out", "x"], "--worker", "--workers"),
    ("datamodules.shards", ["verify", "x"], "--index-dir", "--index-directory"),
    ("datamodules.browse.__main__", ["x", "--out", "x"], "--audio-second", "--audio-seconds"),
    ("datamodules.tinyworld.__main__", ["--out", "x", "--count", "1"], "--no-photo", "--no-photographs"),
]
"""Module, what it cannot do without, an option that it does not have and the one that is meant."""


@pytest.mark.parametrize(("module", "needed", "wrong", "meant"), PROGRAMS)
def test_no_program_takes_a_part_of_an_option(
    module: str, needed: list[str], wrong: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).main([*needed, wrong, "3"])
    assert end.value.code == 2
    line = capsys.readouterr().err.rstrip().rpartition("\n")[2]
    assert re.search(rf"{wrong} \(did you mean {meant}\?\)", line), line


def test_the_cache_reads_options_as_train_does(capsys: pytest.CaptureFixture[str]) -> None:
    cache = importlib.import_module("mmig.run.cache")
    with pytest.raises(SystemExit):
        cache.main(["--config", "configs/demo/stage1.yaml", "--out", "x", "--batch", "3"])
    assert capsys.readouterr().err == "error: unknown option --batch (did you mean --batch_size?)\n"


def test_every_parser_is_one_of_these(root: Path, files: list[Path]) -> None:
    programs = [
        path
        for path in files
        if path.suffix == ".py" and path.parts[0] not in ("tests",) and path.name != "commands.py"
    ]
    plain = re.compile(r"= argparse\.ArgumentParser\((?!exit_on_error)")
    found = [str(path) for path in programs if plain.search((root / path).read_text(encoding="utf-8"))]
    # that one also runs beside older revisions
    assert [path for path in found if path not in ("bench/golden.py", "datamodules/convert/converters.py")] == []


def test_the_nearest_word_is_a_part_of_it_or_like_it() -> None:
    known = ["--trainer.max_steps", "--trainer.max_epochs", "--name", "--data.init_args.root"]
    assert nearest("--max_steps", known) == "--trainer.max_steps"
    assert nearest("--trainer.max_step", known) == "--trainer.max_steps"
    assert nearest("--nmae", known) == "--name"
    assert nearest("--something-else-altogether", known) == ""


def test_subcommands_are_looked_through(capsys: pytest.CaptureFixture[str]) -> None:
    parser = OptionParser()
    assert parser.allow_abbrev is False
    inner = parser.add_subparsers().add_parser("copy")
    inner.add_argument("--source")
    assert isinstance(inner, OptionParser)
    with pytest.raises(SystemExit):
        parser.parse_args(["copy", "--sorce", "x"])
    assert "unknown option --sorce (did you mean --source?)" in capsys.readouterr().err


def test_an_option_of_several_values_may_be_given_several_times() -> None:
    parser = OptionParser()
    parser.add_argument("--grid", nargs="+", default=["x"])
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--seeds", type=int)
    given = parser.parse_args(["--grid", "a", "b", "--seeds", "1", "--grid", "c", "--rows", "d", "--seeds", "2"])
    assert (given.grid, given.rows, given.seeds) == (["a", "b", "c"], ["d"], 2)
    assert parser.parse_args(["--rows", "d", "--rows", "e"]).rows == ["d", "e"]
    assert parser.parse_args([]).grid == ["x"]

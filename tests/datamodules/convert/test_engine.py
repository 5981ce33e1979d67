"""The engine: the same bytes for any number of processes, nothing lost or done twice over a kill, disk, reports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from datamodules.convert.engine import Options, convert
from datamodules.convert.ipr2pr import ipr2pr
from datamodules.convert.report import report_tables
from datamodules.convert.section import Section
from datamodules.convert.source import ConversionError, Finding, Source
from datamodules.convert.workspace import Workspace
from datamodules.schema import Sample
from datamodules.shard_writer import held
from datamodules.shards import ShardError
from tests.datamodules.convert.convert_program import command_of, kill_after
from tests.datamodules.convert.layouts import ipr2pr_files, picture, write
from tests.datamodules.convert.results import contents, converted, samples

PROMPTS = 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = ipr2pr_files(PROMPTS)
    files["0000007/1000_0.jpg"] = b"no picture"
    del files["0000014/prompt.json"]
    return write(tmp_path_factory.mktemp("source"), files)


@pytest.fixture(scope="module")
def alone(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    converted(ipr2pr(str(source)), out, samples_per_shard=4)
    return out


class Stopped(Exception):  # noqa: N818 - not an error: a test's way to stop a conversion where it wants
    """Stands for whatever ends a process."""


def _stopped_before_its_end(source: Path, out: Path) -> Workspace:
    """What a conversion leaves that ends when all shards are written and no folder has its place."""

    def stop(finished: int, total: int) -> None:
        if finished == total:
            raise Stopped

    with pytest.raises(Stopped):
        convert(ipr2pr(str(source)), out, Options(samples_per_shard=4, partial=True), stop)
    return Workspace(out)


def test_any_number_of_processes_gives_the_same_bytes(source: Path, alone: Path, tmp_path: Path) -> None:
    converted(ipr2pr(str(source)), tmp_path / "out", samples_per_shard=4, workers=3)
    assert contents(tmp_path / "out") == contents(alone)


def test_a_killed_conversion_goes_on_where_it_was(root: Path, source: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished = kill_after(3, command_of(sys.executable, "ipr2pr", source, out, workers=2), root, out)
    shards = out / "converting" / "shards" / "train"
    written = {tar.name: tar.stat().st_mtime_ns for tar in shards.glob("*.tar") if f"0{tar.stem}" in finished}
    assert len(finished) >= 3 and len(written) >= 2

    seen: list[int] = []
    options = Options(samples_per_shard=4, partial=True)
    convert(ipr2pr(str(source)), out, options, lambda finished, total: seen.append(finished))
    assert seen == list(range(len(finished), PROMPTS + 1))
    assert contents(out) == contents(alone)
    assert {name: (out / "train" / name).stat().st_mtime_ns for name in written} == written


@dataclass(frozen=True)
class Deadly(Source):
    """A source whose first item ends the process that reads it, as running out of memory does."""

    name: ClassVar[str] = "deadly"

    def splits(self) -> dict[str, Sequence[Any]]:
        return {"train": [0]}

    def samples_of(self, item: int) -> Iterator[Sample | Finding]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield {"key": str(item), "instruction": "never"}


def test_a_worker_that_is_killed_is_one_line_and_nothing_hangs(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="a worker process was killed"):
        converted(Deadly("here"), tmp_path, workers=2)


def test_an_end_while_folders_get_their_place_is_mended(source: Path, alone: Path, tmp_path: Path) -> None:
    workspace = _stopped_before_its_end(source, tmp_path / "out")
    sections = [Section("train", number, number, number + 1) for number in range(18)]
    workspace.publish("train", [row for part in sections if (row := workspace.finished(part).row)])
    (tmp_path / "out" / "val").mkdir()  # whatever else is there is in the way, and the folder that was moved is not
    with pytest.raises(OSError, match="val"):
        (tmp_path / "out" / "val" / "theirs").touch()
        converted(ipr2pr(str(source)), tmp_path / "out", samples_per_shard=4)
    shutil.rmtree(tmp_path / "out" / "val")
    converted(ipr2pr(str(source)), tmp_path / "out", samples_per_shard=4)
    assert contents(tmp_path / "out") == contents(alone)


@pytest.mark.parametrize("damage", [lambda tar: os.truncate(tar, 100), lambda tar: tar.with_suffix(".idx").unlink()])
def test_a_finished_shard_that_was_damaged_meanwhile_is_written_anew(
    damage: Callable[[Path], object], source: Path, alone: Path, tmp_path: Path
) -> None:
    workspace = _stopped_before_its_end(source, tmp_path / "out")
    damage(workspace.shards("train") / "00004.tar")
    converted(ipr2pr(str(source)), tmp_path / "out", samples_per_shard=4)
    assert contents(tmp_path / "out") == contents(alone)


def test_a_finished_conversion_is_left_alone(source: Path, alone: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in alone.rglob("*")}
    report = converted(ipr2pr(str(source)), alone, samples_per_shard=4)
    assert report == json.loads((alone / "conversion.json").read_bytes())
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples_per_shard": 8}, "samples_per_shard is 4, now it is 8"),
        ({"check": False}, "check is True, now it is False"),
    ],
)
def test_other_settings_for_the_same_folder_are_refused(options: dict, words: str, source: Path, alone: Path) -> None:
    with pytest.raises(ConversionError, match=words):
        converted(ipr2pr(str(source)), alone, **{"samples_per_shard": 4, **options})


def test_a_folder_that_holds_something_else_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(ConversionError, match="train: there already; remove it or choose another --out"):
        converted(ipr2pr(str(source)), tmp_path)


def test_two_processes_cannot_fill_one_folder(source: Path, tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(ShardError, match="another process is writing shards here"):
        converted(ipr2pr(str(source)), tmp_path)


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(tmp_path: Path) -> None:
    files = ipr2pr_files(2, seeds=1)
    source = write(tmp_path / "source", files)
    free = shutil.disk_usage(tmp_path).free
    os.truncate(source / "0000000" / "0_0.jpg", free)  # a hole: takes no room itself
    with pytest.raises(ConversionError, match=r"about \d+\.\d GB are needed and \d+\.\d GB are free; make room"):
        converted(ipr2pr(str(source)), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.tar"))
    report = converted(ipr2pr(str(source)), tmp_path / "out", check_space=False)
    assert report["splits"]["train"]["dropped"] == {"large": 1}


def test_a_disk_that_fills_up_is_one_line_and_the_same_command_goes_on(
    root: Path, source: Path, alone: Path, tmp_path: Path
) -> None:
    """A limit of the shell on the size of files stands for the disk: both make writing fail with an error number."""
    out = tmp_path / "out"
    arguments = ["--partial", "--samples-per-shard", "4", "--workers", "2"]
    command = [sys.executable, "-m", "datamodules.convert", "ipr2pr", "--source", str(source), "--out", str(out)]
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *command, *arguments]  # kB
    done = subprocess.run(limited, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and "finished shards are kept: make room and run the same command again" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"{out}: no room (")
    converted(ipr2pr(str(source)), out, samples_per_shard=4)
    assert contents(out) == contents(alone)


def test_a_name_that_is_no_unicode_is_reported_too(tmp_path: Path) -> None:
    files = ipr2pr_files(2)
    files["seeds.json"].append(["\ud800", ["1"]])
    report = converted(ipr2pr(str(write(tmp_path / "source", files))), tmp_path / "out")
    assert report["splits"]["test"]["dropped"] == {"outside": 1} and report["findings"][0]["item"] == "\ud800"


def test_the_report_counts_and_names_what_was_dropped(alone: Path) -> None:
    report = json.loads((alone / "conversion.json").read_bytes())
    train = report["splits"]["train"]
    assert train["items"] == 18 and train["samples"] == len(samples(alone / "train")) == 33
    assert train["dropped"] == {"field": 1, "missing": 1}
    assert sum(part["samples"] for part in report["splits"].values()) == 37
    assert {finding["item"] for finding in report["findings"]} == {"0000007_1000", "0000014"}
    assert str(alone) not in json.dumps(report)


def test_the_report_is_a_table_too(alone: Path) -> None:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(report_tables(json.loads((alone / "conversion.json").read_bytes())))
    text = captured.get()
    assert "ipr2pr: converted" in text and "dropped: missing" in text and "not there" in text


def test_without_the_check_undecodable_pictures_are_left_to_the_stream(source: Path, tmp_path: Path) -> None:
    files = ipr2pr_files(1, seeds=2)
    files["0000000/0_0.jpg"] = picture(0)[:100]
    write(tmp_path / "source", files)
    assert converted(ipr2pr(str(tmp_path / "source")), tmp_path / "a")["splits"]["test"]["samples"] == 1
    unchecked = converted(ipr2pr(str(tmp_path / "source")), tmp_path / "b", check=False)
    assert unchecked["splits"]["test"]["samples"] == 2


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(ConversionError, match="no entries of ipr2pr found there; is it the right folder"):
        converted(ipr2pr(str(tmp_path / "source")), tmp_path / "out")


@pytest.mark.parametrize("name", ["workers", "samples_per_shard"])
def test_numbers_below_one_are_refused(name: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=f"--{name.replace('_', '-')}: expected at least 1, found 0"):
        converted(ipr2pr(str(source)), tmp_path, **{name: 0})

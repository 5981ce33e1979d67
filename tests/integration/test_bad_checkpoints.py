"""Disks that are full or read-only, checkpoints that are damaged or foreign: real ones, in real runs.

Each ends in one line that says what to do, the last good checkpoint stays, and is used or named.
"""

import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmig.checkpoints.checkpoint import load_module, read_checkpoint
from mmig.run.export import export_weights
from tests.integration.forks import fork_ranks, wait_for_end
from tests.integration.small_run import write_data

SECONDS = 120.0
CHANNELS = 256
"""Of the small editor: a checkpoint is 0.34 MB."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


class Run:
    """A run of the small editor in a folder of runs."""

    def __init__(self, data: Path, runs: Path, name: str = "run", num_ranks: int = 1, strategy: str = "auto") -> None:
        self.data, self.runs, self.name, self.num_ranks, self.strategy = data, runs, name, num_ranks, strategy
        self.log = data / f"{name}-{runs.parent.name}.log"

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.runs / self.name / "checkpoints").glob("step-*.ckpt"))

    @property
    def said(self) -> list[str]:
        """Lines of the log that are an error or a warning of ours."""
        return [line for line in self.log.read_text().splitlines() if line.startswith(("error: ", "warning: "))]

    def train(self, steps: int, *options: str, channels: int = CHANNELS, prepare: Any = None) -> list[int] | None:
        """Give the command; exit statuses of the ranks."""
        config = {
            "model": {"class_path": "tests.integration.small_run.SmallEditor", "init_args": {"channels": channels}},
            "data": {
                "class_path": "datamodules.shard_data.ShardData",
                "init_args": {"train": str(self.data / "train"), "global_batch_size": 2, "num_workers": 0},
            },
            "trainer": {
                "accelerator": "cpu", "devices": self.num_ranks, "strategy": self.strategy, "max_steps": steps,
                "enable_progress_bar": False, "log_every_n_steps": 1,
            },
            "checkpoint": {"every_n_steps": 2},
        }  # fmt: skip
        file = self.data / f"{self.name}-{self.runs.parent.name}.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        self.log.unlink(missing_ok=True)
        arguments = ["fit", "--config", str(file), "--name", self.name, "--runs", str(self.runs), *options]
        return wait_for_end(fork_ranks(arguments, self.num_ranks, self.log, prepare), SECONDS)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for two checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", folder], check=False).returncode == 0
    if not mounted:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(("num_ranks", "strategy"), [(1, "auto"), (2, "fsdp2")])
def test_a_full_disk_leaves_the_last_good_checkpoint(
    data: Path, small_disk: Path, num_ranks: int, strategy: str
) -> None:
    """Two checkpoints fit, the third does not: every save after that is one warning, the end one error."""
    run = Run(data, small_disk / "runs", num_ranks=num_ranks, strategy=strategy)
    statuses = run.train(8)
    assert statuses == [1] + [0] * (num_ranks - 1), run.log.read_text()
    assert [path.name for path in run.checkpoints] == ["step-00000002.ckpt", "step-00000004.ckpt"]
    assert list(run.checkpoints[0].parent.glob("*.partial")) == []
    *warnings, error = run.said
    assert len(warnings) == 1 and "step-00000006.ckpt" in warnings[0] and "the run goes on" in warnings[0]
    assert "No space left on device" in error and "before it are whole. Free some disk space" in error
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert run.train(8) == [0] * num_ranks
    assert read_checkpoint(run.checkpoints[-1])["step"] == 8


def test_a_full_disk_of_one_rank_is_told_by_all(data: Path, tmp_path: Path) -> None:
    """Rank 1 alone cannot write its shards (a limit on the size of its files)."""

    def limit() -> None:
        import resource

        if os.environ["LOCAL_RANK"] == "1":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    run = Run(data, tmp_path / "runs", num_ranks=2, strategy="fsdp2")
    assert run.train(2) == [0, 0]
    assert run.train(6, prepare=limit) == [1, 0], run.log.read_text()
    assert [path.name for path in run.checkpoints] == ["step-00000002.ckpt"]
    assert len(run.said) == 2 and all("rank 1: [Errno 27] File too large" in line for line in run.said)


def test_a_read_only_folder_leaves_the_last_good_checkpoint(data: Path, tmp_path: Path) -> None:
    run = Run(data, tmp_path / "runs")
    assert run.train(2) == [0]
    folder = run.checkpoints[0].parent
    if subprocess.run(["mount", "--bind", folder, folder], check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        assert run.train(6) == [1]
    finally:
        subprocess.run(["umount", folder], check=True)
    assert [path.name for path in run.checkpoints] == ["step-00000002.ckpt"]
    assert len(run.said) == 2 and all("Read-only file system" in line for line in run.said)
    assert "make the folder writable" in run.said[-1]


def test_a_read_only_run_is_refused_before_anything_starts(data: Path, tmp_path: Path) -> None:
    run = Run(data, tmp_path / "runs")
    (run.runs / run.name).mkdir(parents=True)
    if subprocess.run(["mount", "--bind", run.runs, run.runs], check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", run.runs], check=True)
        assert run.train(2) == [1]
        existing, run.name = run.said, "new"
        assert run.train(2) == [1]
    finally:
        subprocess.run(["umount", run.runs], check=True)
    assert len(existing) == 1 and "make it writable, or give another folder with --runs" in existing[0]
    assert len(run.said) == 1 and "Read-only file system" in run.said[0] and "--runs" in run.said[0]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs whose last steps are 2 and 4, in either form."""
    folders = {"file": Run(data, tmp_path_factory.mktemp("file") / "runs")}
    folders["shards"] = Run(data, tmp_path_factory.mktemp("shards") / "runs", num_ranks=2, strategy="fsdp2")
    for run in folders.values():
        assert run.train(4) == [0] * run.num_ranks, run.log.read_text()
    return {form: run.runs for form, run in folders.items()}


def truncate(path: Path, kept: int) -> None:
    with path.open("r+b") as file:
        file.truncate(kept)


def malicious(path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {path.parent / 'executed'}",)

    torch.save({"state_dict": Payload(), "step": 4, "backbones": {}}, path, pickle_module=pickle)


DAMAGE = {
    "truncated": ("file", lambda path: truncate(path, 5000), "cut off or no checkpoint (5,000 bytes)"),
    "empty": ("file", lambda path: truncate(path, 0), "(0 bytes)"),
    "code": ("file", malicious, "it holds code"),
    "foreign": ("file", lambda path: torch.save({"weights": 1}, path), "not a checkpoint of this repository"),
    "shard truncated": ("shards", lambda path: truncate(sorted(path.glob("*.safetensors"))[1], 1000), "found 1,000"),
    "shard missing": ("shards", lambda path: sorted(path.glob("*.safetensors"))[0].unlink(), "found none"),
    "no values": ("shards", lambda path: (path / "values.pt").unlink(), "there is no values.pt in it"),
    "code in values": ("shards", lambda path: malicious(path / "values.pt"), "it holds code"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_checkpoint_is_passed_over_and_written_again(
    data: Path, whole: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    form, damage, found = DAMAGE[kind]
    shutil.copytree(whole[form], tmp_path / "runs")
    run = Run(data, tmp_path / "runs")  # one rank reads both forms
    good, newest = run.checkpoints
    damage(newest)
    assert run.train(4) == [0], run.log.read_text()
    assert len(run.said) == 1 and f"{newest}" in run.said[0] and f"going on from {good}" in run.said[0], run.said
    assert found in run.said[0]
    assert read_checkpoint(newest)["step"] == 4 and run.checkpoints == [good, newest]
    assert list((tmp_path / "runs").rglob("executed")) == []


def test_where_no_checkpoint_can_be_read_the_run_does_not_begin_anew(
    data: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(whole["file"], tmp_path / "runs")
    run = Run(data, tmp_path / "runs")
    for path in run.checkpoints:
        truncate(path, 1000)
    assert run.train(4) == [1]
    assert len(run.said) == 1 and "can be read (2 tried)" in run.said[0] and "move them away" in run.said[0]


def test_a_damaged_checkpoint_that_is_asked_for_is_refused(data: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(whole["shards"], tmp_path / "runs")
    run = Run(data, tmp_path / "runs")
    newest = run.checkpoints[-1]
    sorted(newest.glob("*.safetensors"))[0].unlink()
    assert run.train(4, "--resume", str(newest)) == [1]
    assert len(run.said) == 1 and run.said[0].startswith(f"error: cannot read checkpoint {newest}: ")
    assert run.said[0].endswith("use an earlier one")


def test_a_file_of_weights_cannot_be_continued(data: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    weights = export_weights(whole["shards"] / "run", tmp_path / "weights.safetensors")
    run = Run(data, tmp_path / "runs")
    assert run.train(4, "--resume", str(weights)) == [1]
    assert len(run.said) == 1 and "holds weights only; start a new run from it with --init_from" in run.said[0]
    assert run.train(2, "--init_from", str(weights)) == [0]


@pytest.mark.parametrize("form", ["file", "shards"])
def test_a_checkpoint_of_another_width_is_refused_wherever_it_lies(
    data: Path, whole: dict[str, Path], tmp_path: Path, form: str
) -> None:
    alone = tmp_path / "alone.ckpt"
    source = sorted(whole[form].rglob("step-*.ckpt"))[-1]
    (shutil.copytree if source.is_dir() else shutil.copy)(source, alone)
    run = Run(data, tmp_path / "runs")
    assert run.train(4, "--resume", str(alone), channels=8) == [1]
    assert len(run.said) == 1 and "model.init_args.channels: 256 -> 8" in run.said[0] and "--init_from" in run.said[0]


@pytest.mark.parametrize(("form", "num_ranks", "strategy"), [("shards", 2, "ddp"), ("file", 2, "fsdp2")])
def test_another_number_of_ranks_and_strategy_just_works(
    data: Path, whole: dict[str, Path], tmp_path: Path, form: str, num_ranks: int, strategy: str
) -> None:
    shutil.copytree(whole[form], tmp_path / "runs")
    run = Run(data, tmp_path / "runs", num_ranks=num_ranks, strategy=strategy)
    assert run.train(6) == [0] * num_ranks, run.log.read_text()
    assert run.said == [] and read_checkpoint(run.checkpoints[-1])["step"] == 6


@pytest.mark.parametrize("form", ["file", "shards"])
def test_a_checkpoint_that_lies_alone_is_enough(whole: dict[str, Path], tmp_path: Path, form: str) -> None:
    source, alone = sorted(whole[form].rglob("step-*.ckpt"))[-1], tmp_path / "alone.ckpt"
    (shutil.copytree if source.is_dir() else shutil.copy)(source, alone)
    manifest = read_checkpoint(alone, outline=True)["manifest"]
    assert manifest["world_size"] == (1 if form == "file" else 2) and manifest["versions"]["torch"]
    expected, found = load_module(source).state_dict(), load_module(alone).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())

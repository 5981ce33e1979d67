"""An evaluation that stops where a test wants it, in a process of its own or by Ctrl-C in this one."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import evaluate
from datamodules.schema import Batch
from mmig.base.settings import call
from mmig.editor import EditOutput, with_settings
from mmig.evaluation.rows import read_rows
from mmig.evaluation.unfinished import FOLDER
from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import PerSampleMetric, SampleValues, sample_values
from tests.mmig.evaluation.support import NoisyCopy

LOG, STOP_AFTER, HOW = "COUNTING_LOG", "COUNTING_STOP_AFTER", "COUNTING_HOW"
"""In the environment, for the configuration must stay the same: where edits are written down; before which edit of a
process it stops; "hang" or "interrupt"."""
LIMIT = 240
"""Seconds that a process may take."""


class Counting:
    """Any editor; writes down every edit by its key and the seed of its generator, and may stop.

    Args:
        inner: class_path and init_args of the editor; None for `NoisyCopy`.
        stops: whether it stops where the environment says so.
    """

    def __init__(self, inner: dict[str, Any] | None = None, stops: bool = True) -> None:
        self.stops = stops
        self.inner = NoisyCopy() if inner is None else call(inner)
        self.sampling = self.inner.sampling
        self.required_fields, self.response_source = self.inner.required_fields, self.inner.response_source
        self._count = 0

    def __call__(self, batch: Batch, generator: Sequence[torch.Generator]) -> EditOutput:
        if self.stops and self._count >= int(os.environ.get(STOP_AFTER, 10_000)):
            if os.environ[HOW] == "interrupt":
                raise KeyboardInterrupt
            threading.Event().wait()
        self._count += len(batch["key"])
        if LOG in os.environ:
            with open(os.environ[LOG], "a", encoding="utf-8") as log:
                log.writelines(f"{key} {of.initial_seed()}\n" for key, of in zip(batch["key"], generator, strict=True))
        return with_settings(self.inner, asdict(self.sampling))(batch, generator)


class Patchy(PerSampleMetric):
    """Is not a number for every third sample."""

    name = "patchy"

    def values(self, bank: FeatureBank) -> SampleValues:
        numbers = torch.tensor([int(key[-1]) for key in bank.keys])
        return sample_values(torch.where(numbers % 3 == 0, float("nan"), numbers / 7), {})


def write_config(path: Path, **arguments: Any) -> Path:
    """YAML of the editor, for --config."""
    section = {"class_path": f"{__name__}.Counting", "init_args": arguments}
    path.write_text(yaml.safe_dump({"editor": section}))
    return path


def _rank(rank: int, world_size: int, port: int, environment: dict[str, str], arguments: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), **environment}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    evaluate.main(arguments)


@contextmanager
def running(
    arguments: Sequence[str], num_ranks: int = 1, **environment: str
) -> Iterator[list[multiprocessing.process.BaseProcess]]:
    """Real processes of evaluate.py, one a rank; those that still run are killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forks = multiprocessing.get_context("fork")  # imports are done already
    given = [(rank, num_ranks, port, environment, list(arguments)) for rank in range(num_ranks)]
    processes = [forks.Process(target=_rank, args=of_rank) for of_rank in given]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def wait_for_edits(out: Path, count: int, processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Until the files of an unfinished evaluation hold so many edits."""
    end = time.monotonic() + LIMIT
    while num_edits(out) < count:
        assert all(process.is_alive() for process in processes), "ended before it could be killed"
        assert time.monotonic() < end, f"{num_edits(out)} edits, expected {count}"
        time.sleep(0.01)


def num_edits(out: Path) -> int:
    """Whole lines of the files of an unfinished evaluation."""
    return sum(path.read_bytes().count(b"\n") for path in (out / FOLDER).glob("*.jsonl"))


def kill_after(out: Path, edits: int, arguments: Sequence[str], num_ranks: int = 1, **environment: str) -> None:
    """Run it until each rank has made so many more edits, then SIGKILL."""
    before = num_edits(out)
    stop = {STOP_AFTER: str(edits), HOW: "hang", **environment}
    with running([*arguments, "--out", str(out)], num_ranks, **stop) as processes:
        wait_for_edits(out, before + edits * num_ranks, processes)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * num_ranks


def finish(out: Path, arguments: Sequence[str], num_ranks: int = 1) -> None:
    """Run it to its end in processes of its own, of one thread each, as `kill_after` does: bits depend on threads."""
    with running([*arguments, "--out", str(out)], num_ranks) as processes:
        for process in processes:
            process.join(LIMIT)
        assert [process.exitcode for process in processes] == [0] * num_ranks


def interrupt_after(out: Path, edits: int, arguments: Sequence[str]) -> None:
    """Ctrl-C in this process, after so many edits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STOP_AFTER, str(edits))
        patch.setenv(HOW, "interrupt")
        with pytest.raises(SystemExit) as stopped:
            evaluate.main([*arguments, "--out", str(out)])
    assert stopped.value.code == 130


def check_edited_once(log: Path, count: int) -> None:
    """No edit was made twice, and so many were."""
    edits = Counter(log.read_text(encoding="utf-8").splitlines())
    assert set(edits.values()) == {1}
    assert len(edits) == count


def check_equal(found: Path, expected: Path, exact: bool) -> None:
    """Two evaluations found the same, bit for bit or to 1e-5, and left the same files."""
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (found, expected)]
    assert names[0] == names[1]
    reports = [json.loads((folder / "metrics.json").read_text()) for folder in (found, expected)]
    for report in reports:
        del report["command"]
    if exact:
        assert reports[0] == reports[1]
        for name in ("samples.jsonl", "grid.png", *(name for name in names[0] if name.startswith("pictures/"))):
            if (found / name).is_file():
                assert (found / name).read_bytes() == (expected / name).read_bytes(), name
        return
    for name, metric in reports[0].pop("metrics").items():
        theirs = reports[1]["metrics"][name]
        for number in ("value", "low", "high"):
            assert metric.pop(number) == pytest.approx(theirs.pop(number), abs=1e-5, rel=1e-5), (name, number)
        assert (metric["n"], metric["skipped"]) == (theirs["n"], theirs["skipped"])
    del reports[1]["metrics"]
    assert reports[0] == reports[1]
    ours, others = (read_rows(folder / "samples.jsonl") for folder in (found, expected))
    for row, other in zip(ours, others, strict=True):
        assert row.values == pytest.approx(other.values, abs=1e-5)
        row.values = other.values
        assert row == other
    for name in names[0]:
        if name.endswith(".png"):
            pixels = [np.asarray(Image.open(folder / name)).astype(int) for folder in (found, expected)]
            assert np.abs(pixels[0] - pixels[1]).max() <= 1, name

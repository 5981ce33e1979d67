"""bench/checkpoint.py on a few steps."""

import re
import sys
from pathlib import Path

import pytest

from bench.checkpoint import large, measure, report, size_of, write_data
from tests import warm


@pytest.mark.slow
def test_every_kind_of_round_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", warm.python())
    write_data(tmp_path)
    times = measure(tmp_path, "file", rounds=1, steps=1)
    assert [len(times[kind]) for kind in ("none", "beside", "waited")] == [1, 1, 1]
    assert times["none"][0]["stall"] == 0 and times["beside"][0]["stall"] > 0
    assert all(one[0]["wall"] > one[0]["stall"] for one in times.values())
    size = size_of(next((tmp_path / "runs/file/checkpoints").glob("step-*.ckpt")))
    assert size > 40_000_000  # weights, average and moments of the UNet
    assert re.match(r"checkpoint_cost ratio 0\.\d{5} \(goal <= 0\.05; file, 1 x auto", report("file", times, 1, size))


def test_the_cost_is_what_rounds_with_a_save_take_longer() -> None:
    bare, saved = {"wall": 10.0, "processor": 8.0, "stall": 0.0}, {"wall": 10.5, "processor": 8.4, "stall": 0.1}
    times = {"none": [bare] * 3, "beside": [saved] * 3, "waited": [saved] * 3}
    line = report("file", times, 10, 1_000_000)
    assert "ratio 0.00050 " in line and "processor time 0.00050" in line and "0.100 s a save" in line


def test_a_large_state_is_written(tmp_path: Path) -> None:
    assert large(tmp_path, 0.05).startswith("state of 0.05 GB: copied in ")

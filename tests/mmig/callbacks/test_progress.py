"""Progress of a run, as a log file shows it."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import RichProgressBar

from mmig.callbacks.progress import StepProgressBar, StepProgressLines, progress


def run_steps(first: int, last: int, rank: int = 0, total: int = 100) -> None:
    """Steps `first`..`last` of a run, each of two seconds."""
    now = iter(range(0, 10_000, 2))
    lines = StepProgressLines(interval=30.0, clock=lambda: float(next(now)))
    trainer: Any = SimpleNamespace(
        max_steps=total, is_global_zero=rank == 0, progress_bar_metrics={"train/loss": 0.12345}
    )
    module: Any = SimpleNamespace(step=first - 1)
    lines.on_train_start(trainer, module)
    for step in range(first, last + 1):
        module.step = step
        lines.on_train_batch_end(trainer, module, None, None, 0)


def test_first_and_last_step_and_one_line_in_thirty_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    run_steps(51, 100)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 51 of 100  train/loss 0.1235  2 s a step  1 min 38 s left"
    assert lines[1].startswith("step 66 of 100")
    assert lines[-1] == "step 100 of 100  train/loss 0.1235  2 s a step"
    assert len(lines) == 5


def test_hours_are_named_and_endless_runs_have_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    run_steps(1, 1, total=4000)
    run_steps(1, 1, total=-1)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("2 h 13 min left")
    assert second == "step 1  train/loss 0.1235  2 s a step"


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    run_steps(1, 100, rank=1)
    assert capsys.readouterr().out == ""


def test_a_file_gets_lines() -> None:
    assert isinstance(progress(io.StringIO()), StepProgressLines)


def test_the_bar_is_drawn_at_most_ten_times_a_second_and_at_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(RichProgressBar, "on_train_batch_end", lambda self, *arguments: drawn.append(arguments[-1] + 1))
    now = iter(range(1000))
    bar = StepProgressBar(clock=lambda: next(now) / 32)
    bar._trainer = trainer = SimpleNamespace(max_steps=10)
    for step in range(1, 11):
        bar.on_train_batch_end(trainer, SimpleNamespace(step=step), None, None, 0)
    assert drawn == [1, 5, 9, 10]

"""Steps that are not finite: skipped on all ranks, counted, written down, and the end of the run when too many."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException

from mmig.callbacks.bad_steps import KEYS_SHOWN, bad_step_row, blame, shown
from mmig.callbacks.row_file import RowFile
from mmig.callbacks.step_guard import WARN_EVERY, BadStepsError, StepGuard
from mmig.checkpoints.checkpoint import read_checkpoint
from mmig.checkpoints.files import checkpoints_in
from mmig.training.rng import Draws
from mmig.training.steps import StepOutcome
from mmig.training.terms import LossTerm
from tests.toy import ToyModule, fit

BATCH = 12
NAN = float("nan")


class Poisoned(ToyModule):
    """Positions in `at` have a loss times `factor`; of the ranks only the one whose batch holds them is hit."""

    def __init__(self, *at: int, factor: float = NAN, **settings: Any) -> None:
        super().__init__(**settings)
        self.at, self.factor = torch.tensor(at), factor

    def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
        terms = super().losses(batch, draws)
        factors = torch.where(torch.isin(batch["position"], self.at), self.factor, 1.0)
        squared = terms["squared"]
        return terms | {"squared": LossTerm(squared.counts, lambda: factors * squared.values)}


class LeftOut(ToyModule):
    """Does nothing at all in the steps of `at`, counted from 1."""

    def __init__(self, *at: int) -> None:
        super().__init__()
        self.at = at

    def training_step(self, batch: Any, batch_idx: int) -> None:
        if self.step + 1 in self.at:
            self.outcome = StepOutcome(NAN, NAN)
            self.count_step()
        else:
            super().training_step(batch, batch_idx)


def position(step: int, place: int = BATCH - 1) -> int:
    """Of one sample of a step, the first step being 1; by default the last sample, which the last rank has."""
    return (step - 1) * BATCH + place


def guard(directory: Path, **settings: Any) -> list[StepGuard]:
    return [StepGuard(str(directory), **settings)]


def same_start(*modules: ToyModule) -> None:
    for module in modules[1:]:
        module.load_state_dict(modules[0].state_dict())


def equal(left: Any, right: Any) -> bool:
    """Whether two nested values are the same, tensors bit for bit."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[name], right[name]) for name in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return torch.equal(left, right) if isinstance(left, Tensor) else left == right


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("factor", [NAN, float("inf")])
def test_a_skipped_step_on_one_rank_moves_nothing_on_any(tmp_path: Path, precision: Any, factor: float) -> None:
    torch.manual_seed(0)
    bad, reference = Poisoned(position(3), factor=factor), LeftOut(3)
    same_start(bad, reference)
    for module, name in ((bad, "bad"), (reference, "reference")):
        fit(module, tmp_path / name, 6, devices=2, more_callbacks=guard(tmp_path / name), precision=precision)
    ends = [read_checkpoint(tmp_path / name) for name in ("bad", "reference")]
    for what in ("state_dict", "ema", "optimizer_states", "step"):
        assert equal(ends[0][what], ends[1][what]), what
    assert all(value.isfinite().all() for value in ends[0]["state_dict"].values())
    assert ends[0]["ema"]["updates"] == 5


def test_a_gradient_that_is_not_finite_is_skipped_as_well(tmp_path: Path) -> None:
    class Steep(ToyModule):
        """Finite loss, but no finite slope, in the second step."""

        def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
            terms = super().losses(batch, draws)
            squared, at = terms["squared"], position(2) in batch["position"]

            def steep() -> Tensor:
                return squared.values + ((0 * squared.values).sqrt() if at else 0.0)

            return terms | {"squared": LossTerm(squared.counts, steep)}

    module = Steep()
    fit(module, tmp_path, 1, more_callbacks=guard(tmp_path))
    before = read_checkpoint(tmp_path)["state_dict"]
    resumed = Steep()
    fit(resumed, tmp_path, 2, resume=tmp_path / "step-00000001.ckpt", more_callbacks=guard(tmp_path))
    assert equal(dict(resumed.state_dict()), before)
    [row] = RowFile(tmp_path / "bad_steps.jsonl", "step").read()
    assert row["grad_norm"] == "nan" and row["loss"] > 0 and row["keys_not_finite"] == [[]]


def test_every_skipped_step_is_written_down_with_the_keys_of_all_ranks(tmp_path: Path) -> None:
    module = Poisoned(position(2), position(5, 0), micro_batch_size=4)
    fit(module, tmp_path, 6, devices=2, more_callbacks=guard(tmp_path))
    rows = RowFile(tmp_path / "bad_steps.jsonl", "step").read()
    assert [(row["step"], row["kind"], row["loss"], row["in_a_row"]) for row in rows] == [
        (2, "skipped", "nan", 1),
        (5, "skipped", "nan", 1),
    ]
    assert rows[0]["keys"] == [[str(n) for n in range(12, 18)], [str(n) for n in range(18, 24)]]
    assert [row["keys_not_finite"] for row in rows] == [[[], ["23"]], [["48"], []]]
    assert rows[0]["terms"]["squared"] == "nan" and rows[0]["terms"]["l1"] > 0


def test_too_many_in_a_row_stop_the_run_and_nothing_is_saved(tmp_path: Path) -> None:
    module = Poisoned(*(position(step) for step in (2, 4, 5, 6)))
    with pytest.raises(BadStepsError, match="steps 4 to 6 were skipped") as stop:
        settings = guard(tmp_path, max_skipped_in_a_row=3)
        fit(module, tmp_path / "checkpoints", 20, every_n_steps=3, more_callbacks=settings)
    newest = checkpoints_in(tmp_path / "checkpoints")[-1]
    assert newest.name == "step-00000003.ckpt" and module.step == 6
    for part in (
        "loss term squared is nan; samples 71; ",
        str(tmp_path / "bad_steps.jsonl"),
        str(newest),
        "--guard.max_skipped",
    ):
        assert part in str(stop.value)
    assert "\n" not in str(stop.value)


def test_a_checkpoint_that_falls_on_a_skipped_step_waits_for_the_next(tmp_path: Path) -> None:
    fit(Poisoned(position(4), position(5)), tmp_path, 7, every_n_steps=4, more_callbacks=guard(tmp_path))
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-00000006.ckpt", "step-00000007.ckpt"]


def test_all_ranks_stop_for_the_one_that_is_hit(tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match="steps 2 to 3 were skipped"):  # or rank 0 would wait for ever
        settings = guard(tmp_path, max_skipped_in_a_row=2)
        fit(Poisoned(position(2), position(3)), tmp_path, 9, devices=2, more_callbacks=settings)


def test_counts_and_losses_go_on_after_a_resume(tmp_path: Path) -> None:
    bad = [position(step) for step in (2, 4, 5)]
    torch.manual_seed(0)
    whole, half, rest = Poisoned(*bad), Poisoned(*bad), Poisoned(*bad)
    same_start(whole, half)
    [one], [two], [three] = (guard(tmp_path, spike_window=3) for _ in range(3))
    fit(whole, tmp_path / "whole", 7, more_callbacks=[one])
    fit(half, tmp_path / "halves", 4, more_callbacks=[two])
    fit(rest, tmp_path / "halves", 7, resume=tmp_path / "halves" / "step-00000004.ckpt", more_callbacks=[three])
    assert one.skipped == 3 and two.in_a_row == 1
    assert one.state_dict() == three.state_dict()
    with pytest.raises(BadStepsError, match="steps 4 to 5"):  # the fourth is counted in the checkpoint
        path = tmp_path / "halves" / "step-00000004.ckpt"
        more = guard(tmp_path, max_skipped_in_a_row=2)
        fit(Poisoned(*bad), tmp_path / "halves", 8, resume=path, more_callbacks=more)


def test_counts_are_logged(tmp_path: Path) -> None:
    logged = fit(Poisoned(position(2), position(3)), tmp_path, 3, more_callbacks=guard(tmp_path)).callback_metrics
    assert [float(logged[f"train/{name}"]) for name in ("skipped_steps", "skipped_in_a_row", "spikes")] == [2, 2, 0]


def test_a_spike_is_warned_of_once_in_a_while_and_counted_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spikes = (25, 30, 25 + WARN_EVERY)
    [watch] = guard(tmp_path, spike_window=20)
    module = Poisoned(*(position(step) for step in spikes), factor=1e6)
    with caplog.at_level(logging.WARNING):
        fit(module, tmp_path, spikes[-1] + 1, more_callbacks=[watch])
    lines = [record.getMessage() for record in caplog.records if record.name == "mmig.callbacks.step_guard"]
    assert len(lines) == 2 and lines[0].startswith("step 25: loss ") and "samples 288, 289, " in lines[0]
    assert watch.spikes == 3 and watch.skipped == 0
    rows = RowFile(tmp_path / "bad_steps.jsonl", "step").read()
    assert [(row["step"], row["kind"]) for row in rows] == [(25, "spike"), (25 + WARN_EVERY, "spike")]


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bad_steps.jsonl").mkdir()
    module = Poisoned(position(2))
    fit(module, tmp_path, 4, more_callbacks=guard(tmp_path))
    assert module.step == 4 and "step 2 is not written" in caplog.text


def test_rows_of_work_done_again_replace_the_old_ones(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl", "step")
    for step, value in ((3, "a"), (5, "b"), (8, "c"), (5, "d")):
        file.add({"step": step, "value": value})
    assert [(row["step"], row["value"]) for row in file.read()] == [(3, "a"), (5, "d")]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_what_was_not_finite_is_named() -> None:
    assert (
        blame(StepOutcome(NAN, NAN, {"sdm": 1.0, "mmsm": NAN, "ar": float("inf")}))
        == "loss term mmsm is nan, ar is inf"
    )
    assert blame(StepOutcome(NAN, NAN)) == "the loss is nan"
    assert blame(StepOutcome(1.5, float("inf"), {"sdm": 1.5})) == "the gradient norm is inf while the loss is 1.5"
    assert bad_step_row("skipped", 3, StepOutcome(NAN, 2.0, {"sdm": NAN}), [["a"]], in_a_row=1) == {
        "step": 3, "kind": "skipped", "loss": "nan", "grad_norm": 2.0, "terms": {"sdm": "nan"},
        "in_a_row": 1, "keys": [["a"]],
    }  # fmt: skip


def test_a_line_names_some_keys_of_every_rank() -> None:
    assert shown([["a", "b"], ["c"]]) == "a, c, b"
    many = [[f"{rank}-{n}" for n in range(100)] for rank in range(2)]
    assert shown(many).endswith(f"0-3, 1-3 and {200 - KEYS_SHOWN} more")


@pytest.mark.parametrize(
    "settings", [{"max_skipped_in_a_row": 0}, {"spike_window": 1}, {"spike_z": 0.0}, {"spike_z": NAN}]
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"guard.*{next(iter(settings))}.*found"):
        StepGuard("", **settings)

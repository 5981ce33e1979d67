"""Steps of two optimisers that are not finite move neither; losses are compared with those of the same terms."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmig.callbacks.row_file import RowFile
from mmig.callbacks.step_guard import StepGuard
from mmig.checkpoints.checkpoint import read_checkpoint
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from tests.toy import fit
from tests.two_optimisers import ToyGAN, Watch, moved, optimizer_steps

BATCH = 12


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("term", ["hinge", "gan"])
def test_what_is_not_finite_in_one_turn_moves_nothing_in_any(tmp_path: Path, term: str, devices: int) -> None:
    class Poisoned(ToyGAN):
        """NaN in one sample of the third step, of the last rank."""

        def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
            terms = super().losses(batch, draws)
            factor = torch.where(batch["position"] == 3 * BATCH - 1, float("nan"), 1.0)
            poisoned = terms[term]
            return terms | {term: LossTerm(poisoned.counts, lambda: factor * poisoned.values)}

    torch.manual_seed(0)
    module = Poisoned(adaptive=True)
    guard = StepGuard(str(tmp_path))
    fit(module, tmp_path, 5, devices=devices, every_n_steps=1, more_callbacks=[guard])
    [row] = RowFile(tmp_path / "bad_steps.jsonl", "step").read()
    assert row["step"] == 3 and row["terms"][term] == "nan"
    assert optimizer_steps(tmp_path) == {"rebuilder": 4, "critic": 4}
    end = read_checkpoint(tmp_path)
    assert end["step"] == 5 and end["ema"]["updates"] == 4
    assert all(value.isfinite().all() for value in end["state_dict"].values())


def test_a_skipped_step_is_as_if_it_had_been_left_out(tmp_path: Path) -> None:
    class Unmoved(ToyGAN):
        """No finite slope of the discriminator's loss in the second step."""

        def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
            terms = super().losses(batch, draws)
            hinge = terms["hinge"]
            if self.step != 1:
                return terms
            return terms | {"hinge": LossTerm(hinge.counts, lambda: hinge.values + (0 * hinge.values).sqrt())}

    torch.manual_seed(0)
    watch = Watch()
    fit(Unmoved(), tmp_path, 3, more_callbacks=[watch])
    assert [bool(moved(a, b)) for a, b in zip(watch.weights, watch.weights[1:], strict=False)] == [True, False, True]


def test_a_loss_is_compared_with_losses_of_the_same_terms_only(tmp_path: Path) -> None:
    """The discriminator is due now and then, with a loss of another size."""

    class Apart(ToyGAN):
        def losses(self, batch: Any, draws: Draws) -> dict[str, LossTerm]:
            terms = super().losses(batch, draws)
            hinge = terms["hinge"]
            return terms | {"hinge": LossTerm(hinge.counts, lambda: 1000 + hinge.values)}

    torch.manual_seed(0)
    module, guard = Apart(every=8), StepGuard(str(tmp_path), spike_window=4, spike_z=50.0)
    fit(module, tmp_path, 40, more_callbacks=[guard])
    assert guard.spikes == 0
    losses = guard.state_dict()["losses"]
    assert losses.keys() == {"reconstruction l1 gan hinge", "reconstruction l1 gan"}
    other = StepGuard(str(tmp_path), spike_window=4)
    other.load_state_dict(guard.state_dict())
    assert other.state_dict() == guard.state_dict()


def test_losses_of_a_run_that_kept_one_window_go_on(tmp_path: Path) -> None:
    guard = StepGuard(str(tmp_path), spike_window=4, spike_z=50.0)
    guard.load_state_dict({"skipped": 0, "in_a_row": 0, "spikes": 0, "losses": [1.0, 2.0, 1000.0, 1001.0]})
    fit(ToyGAN(every=8), tmp_path, 1, more_callbacks=[guard])
    [losses] = guard.state_dict()["losses"].values()
    assert losses[:3] == [2.0, 1000.0, 1001.0] and len(losses) == 4

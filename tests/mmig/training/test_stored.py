"""Two optimisers in a checkpoint: an exact resume, and every state back to the turn of its name."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmig.checkpoints.checkpoint import read_checkpoint
from mmig.training.optim import OptimizerConfig
from mmig.training.turns import Turn
from tests.toy import fit
from tests.two_optimisers import ToyGAN, assert_close, optimizer_steps, toy, weights


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_two_halves_equal_one_whole_bit_for_bit(tmp_path: Path, precision: Any) -> None:
    def make() -> ToyGAN:
        return toy(adaptive=True, start=3, every=2, dropout=0.2, micro_batch_size=5)

    whole, resumed = make(), make()
    fit(whole, tmp_path / "whole", 12, precision=precision)
    fit(make(), tmp_path / "halves", 5, precision=precision)
    torch.manual_seed(123)  # whatever ran before must not matter
    half = tmp_path / "halves" / "step-00000005.ckpt"
    trainer = fit(resumed, tmp_path / "halves", 12, resume=half, precision=precision)
    assert trainer.global_step == resumed.step == 12
    assert optimizer_steps(tmp_path / "halves") == {"rebuilder": 12, "critic": 4}
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    ends = [read_checkpoint(tmp_path / name) for name in ("whole", "halves")]
    for left, right in zip(*(end["optimizer_states"] for end in ends), strict=True):
        for name, own in left["state"].items():
            assert all(torch.equal(value, right["state"][name][part]) for part, value in own.items()), name


class Reordered(ToyGAN):
    def turns(self) -> tuple[Turn, ...]:
        return tuple(reversed(super().turns()))


def test_states_find_their_turn_by_its_name(tmp_path: Path) -> None:
    fit(toy(), tmp_path, 3)
    resumed, whole = Reordered(), toy()
    fit(resumed, tmp_path, 6, resume=tmp_path / "step-00000003.ckpt")
    fit(whole, tmp_path / "whole", 6)
    assert_close(weights(resumed), weights(whole))


class Renamed(ToyGAN):
    def turns(self) -> tuple[Turn, ...]:
        return Turn("rebuilder"), Turn("judge", ("discriminator",), ("hinge",))


def test_a_checkpoint_of_other_turns_is_refused(tmp_path: Path) -> None:
    fit(toy(), tmp_path, 1)
    with pytest.raises(ValueError, match=r"optimisers \['critic', 'rebuilder'\], Renamed has \['judge', 'rebuilder'\]"):
        fit(Renamed(OptimizerConfig()), tmp_path, 2, resume=tmp_path / "step-00000001.ckpt")

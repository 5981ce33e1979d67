"""The guard against a collapsed alignment."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException

from mmig.methods.mmig.collapse import CollapseError, CollapseGuard
from tests.toy import ToyModule, fit


class Spread(ToyModule):
    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = spread

    def logged(self) -> dict[str, Tensor]:
        return {"std_text": torch.tensor(self.spread), "other": torch.tensor(0.0)}


def test_collapsed_run_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(CollapseError, match=r"collapsed at step 3: std_text 1\.00e-05"):
        fit(Spread(1e-5), tmp_path, 10, more_callbacks=[CollapseGuard()])


class SpreadOnOneRank(Spread):
    def logged(self) -> dict[str, Tensor]:
        return {"std_text": torch.tensor(self.spread if self.global_rank else 1.0)}


def test_all_ranks_stop_for_the_one_that_collapsed(tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match="collapsed at step 3"):  # or rank 0 would wait for ever
        fit(SpreadOnOneRank(1e-5), tmp_path, 10, devices=2, more_callbacks=[CollapseGuard()])


@pytest.mark.parametrize("spread", [0.1, float("nan")])
def test_healthy_run_goes_on(tmp_path: Path, spread: float) -> None:
    module = Spread(spread)
    fit(module, tmp_path, 6, more_callbacks=[CollapseGuard()])
    assert module.step == 6

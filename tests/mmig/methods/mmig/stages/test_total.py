"""L_Total of a whole training step: each term once, with its weight (eq 21, 22)."""

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.schema import Batch
from mmig.methods.mmig.objective import TERMS
from mmig.methods.mmig.stages.paper import Stage3
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from tests.mmig.methods.mmig.stages.support import settled_stage, world_batch
from tests.tiny_fixtures import build_all


def one_step(module: TrainingModule, batch: Batch) -> dict[str, Tensor]:
    """Fit one batch; what was logged."""
    trainer = L.Trainer(
        max_steps=1,
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader([batch], batch_size=None))
    return dict(trainer.callback_metrics)


class Leaves(TrainingModule):
    """Every term is a parameter, so that its gradient is what the term weighs in the total."""

    def __init__(self, **settings: Any) -> None:
        weights = {name: 2.0**power for power, name in enumerate(TERMS)}
        super().__init__(OptimizerConfig(clip_norm=None), weights, **settings)
        self.leaves = nn.ParameterDict({name: nn.Parameter(torch.ones(())) for name in TERMS})

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Other counts in each term: tokens, 0 where a field is missing."""
        return {
            name: LossTerm(
                batch["position"] * number % 11, lambda name=name: self.leaves[name].expand(len(batch["key"]))
            )
            for number, name in enumerate(TERMS, start=1)
        }


@pytest.mark.parametrize("micro_batch_size", [None, 1])
def test_the_total_of_a_step_weighs_each_term_once(micro_batch_size: int | None) -> None:
    module = Leaves(micro_batch_size=micro_batch_size)
    logged = one_step(module, {"key": list("abcdef"), "position": torch.arange(6), "faults": []})
    assert len(TERMS) == 8
    for power, name in enumerate(TERMS):
        assert module.leaves[name].grad.item() == pytest.approx(2**power, rel=1e-6), name
    assert logged["train/loss"].item() == pytest.approx(255, rel=1e-6)


def test_stage_3_adds_up_eq_21_and_the_alignment(tmp_path_factory: pytest.TempPathFactory) -> None:
    stage, batch = settled_stage(build_all(tmp_path_factory.mktemp("tiny")), Stage3), world_batch()
    draws = Draws(stage.seed, batch["position"])
    with torch.no_grad():
        found = stage.losses(batch, draws)
        means = {name: ((term.values * term.counts).sum() / term.counts.sum()).item() for name, term in found.items()}
    logged = one_step(stage, batch)
    dem = [means[name] for name in ("sdm", "fg", "bg", "as", "ar")]
    assert all(mean > 0 for mean in dem)
    assert (logged["train/loss"] - logged["train/mmsm"]).item() == pytest.approx(sum(dem), rel=1e-5)
    assert logged["train/mmsm"].item() == pytest.approx(means["mmsm"], rel=1e-5)

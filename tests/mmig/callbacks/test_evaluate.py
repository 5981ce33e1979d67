import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules.shard_data import ShardData
from mmig.callbacks.ema import EMA
from mmig.callbacks.evaluate import Evaluate, undisturbed
from mmig.callbacks.run_checkpoint import RunCheckpoint
from mmig.evaluation.settings import ScoringSettings
from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import PerSampleMetric, SampleValues, sample_values
from mmig.metrics.suite import UnknownMetricError
from mmig.run.curves import Curves
from mmig.training.optim import OptimizerConfig
from tests.mmig.evaluation.support import CopyModule, FewBatches, random_samples, write_data
from tests.tiny_fixtures import build_open_clip
from tests.tiny_vision import build_dino

SCORING = ScoringSettings(
    metrics=["l1_input", "ssim_target", "success"], judge="tests.mmig.evaluation.support.BrightJudge"
)


def fit(
    folder: Path,
    callbacks: list[L.Callback],
    steps: int = 6,
    logger: bool | TensorBoardLogger = True,
    data: L.LightningDataModule | None = None,
) -> tuple[CopyModule, L.Trainer]:
    torch.manual_seed(0)
    module = CopyModule(OptimizerConfig(lr=0.05))
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=TensorBoardLogger(folder) if logger is True else logger,
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(callback, RunCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
    )
    trainer.fit(module, data or FewBatches())
    return module, trainer


def events(trainer: L.Trainer) -> EventAccumulator:
    trainer.logger.finalize("success")
    accumulator = EventAccumulator(trainer.logger.log_dir)
    accumulator.Reload()
    return accumulator


def test_metrics_and_a_grid_are_logged_at_our_step(tmp_path: Path) -> None:
    _, trainer = fit(tmp_path, [Evaluate(3, num_samples=5, scoring=SCORING)])
    logged = events(trainer)
    for name in ("l1_input", "ssim_target", "success"):
        assert [event.step for event in logged.Scalars(f"eval/{name}")] == [0, 3, 6]
    assert [event.value for event in logged.Scalars("eval/num_samples")] == [5, 5, 5]
    assert [event.step for event in logged.Images("eval/grid")] == [0, 3, 6]


def test_the_values_before_the_first_step_choose_no_checkpoint(tmp_path: Path) -> None:
    found = RunCheckpoint(str(tmp_path / "checkpoints"), best="eval/l1_input", best_is="largest")
    fit(tmp_path, [Evaluate(3, num_samples=5, scoring=SCORING), found])
    best = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert best["step"] == 3  # the noise, and with it the distance, only shrinks


def test_curves_get_the_grid_too(tmp_path: Path) -> None:
    _, trainer = fit(tmp_path, [Evaluate(3, num_samples=5, scoring=SCORING)], logger=Curves(tmp_path))
    assert [event.step for event in events(trainer).Images("eval/grid")] == [0, 3, 6]


def test_a_grid_that_cannot_be_written_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_image", fail)
    module, _ = fit(tmp_path, [Evaluate(3, num_samples=5, scoring=SCORING)], logger=Curves(tmp_path))
    assert module.step == 6
    assert len([record for record in caplog.records if "curves are not written" in record.getMessage()]) == 1


def _rank(rank: int, folder: str, size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    data = ShardData(val=f"{folder}/val", eval_batch_size=size)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(
        callback_metrics={},
        datamodule=data,
        global_rank=rank,
        world_size=2,
        is_global_zero=False,
        callbacks=[SimpleNamespace(between_batches=dist.barrier)],  # waits for the other rank
        strategy=strategy,
    )
    module = trainer.lightning_module = CopyModule()
    data.trainer = trainer
    result = Evaluate(1, num_samples=5, scoring=ScoringSettings(metrics=["l1_input"])).evaluate(trainer, module)
    Path(folder, f"rank{rank}").write_text(" ".join(row.key for row in result.rows))
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [4, 1], ids=["batches of unequal size", "an empty last batch of one rank"])
def test_two_real_ranks_score_exactly_the_first_samples(tmp_path: Path, size: int) -> None:
    samples = random_samples(9)
    write_data(tmp_path, samples, "val")
    mp.start_processes(_rank, (str(tmp_path), size), nprocs=2, start_method="fork")
    expected = [sample["key"] for sample in samples[:5]]
    assert [(tmp_path / f"rank{rank}").read_text().split() for rank in (0, 1)] == [expected] * 2


def test_training_goes_on_as_if_it_were_not_there(tmp_path: Path) -> None:
    with_it, _ = fit(tmp_path / "a", [EMA(0.9), Evaluate(2, scoring=SCORING)])
    without, _ = fit(tmp_path / "b", [EMA(0.9)])
    assert torch.equal(with_it.strength, without.strength)


def test_the_averaged_weights_are_sampled(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watched(Evaluate):
        def evaluate(self, *given: Any, **options: Any) -> Any:
            result = super().evaluate(*given, **options)
            seen.append(result.rows[0].values["l1_input"])
            return result

    average = EMA(0.999)
    module, _ = fit(tmp_path, [average, Watched(6, scoring=SCORING)])
    averaged = float(average.shadow["strength"])
    assert abs(averaged - float(module.strength)) > 0.02
    module.strength.data.fill_(averaged)
    assert len(seen) == 2  # before the first step, and after the last
    watched = seen[1]
    _, trainer = fit(tmp_path / "again", [], steps=1, logger=False)
    trainer.lightning_module.strength.data.fill_(averaged)
    again = Evaluate(1, scoring=SCORING).evaluate(trainer, trainer.lightning_module)
    assert watched == pytest.approx(again.rows[0].values["l1_input"], abs=1e-6)


def test_modes_and_random_state_come_back() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
    before = torch.random.get_rng_state()
    with undisturbed(module):
        assert not any(part.training for part in module.modules())
        torch.rand(3)
    assert [part.training for part in module] == [True, False]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_unknown_metric_is_refused_before_training() -> None:
    with pytest.raises(UnknownMetricError, match="'l3'"):
        Evaluate(10, scoring=ScoringSettings(metrics=["l3"]))


class WithoutValidation(FewBatches):
    def val_dataloader(self) -> Any:
        return []


class WithoutSource(FewBatches):
    def val_dataloader(self) -> Any:
        loader = super().val_dataloader()
        loader.parts[0]["has_source"][0] = False
        return loader


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (WithoutValidation, "edits validation samples, the data have none: set data.init_args.val"),
        (WithoutSource, "'sample0-000': NoisyCopy needs the field 'source', .* set data.init_args.val"),
    ],
)
def test_data_that_cannot_be_evaluated_are_refused_before_the_first_step(
    tmp_path: Path, data: type[FewBatches], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, [FailAtFirstStep(), Evaluate(1000, scoring=SCORING)], data=data())


class FailAtFirstStep(L.Callback):
    def on_train_batch_start(self, *_: Any) -> None:
        raise AssertionError("training has begun")


class LoudModule(CopyModule):
    """Declares a metric of its own, and one that needs a judge which is not there."""

    metrics = ("tests.mmig.metrics.test_suite.Reader", "tests.mmig.callbacks.test_evaluate.Copied")


class Copied(PerSampleMetric):
    """Distance to the source."""

    name = "copied"
    higher_is_better = False

    def values(self, bank: FeatureBank) -> SampleValues:
        return sample_values((bank.image("edited") - bank.image("source")).abs().flatten(1).mean(1), {})


def test_metrics_of_the_module_are_scored_beside_those_of_the_data(tmp_path: Path) -> None:
    _, trainer = fit(tmp_path, [], steps=1, logger=False)
    scoring = ScoringSettings(metrics=["l1_input"])
    rows = Evaluate(1, scoring=scoring).evaluate(trainer, LoudModule()).rows
    assert list(rows[0].values) == ["l1_input", "copied"]
    assert all(row.values["copied"] == pytest.approx(row.values["l1_input"], abs=1e-6) for row in rows)


def test_a_distance_of_sets_and_a_floor_are_logged_too(tmp_path: Path) -> None:
    dino, clip = str(build_dino(tmp_path / "dino")), str(build_open_clip(tmp_path / "clip"))
    names = ["fid", "dino_target", "clip_text_similarity", "clip_score_torchmetrics"]
    _, trainer = fit(tmp_path, [], steps=1, logger=False)
    scoring = ScoringSettings(metrics=names, dino=dino, clip=clip, features="dino")
    rows = Evaluate(1, scoring=scoring).evaluate(trainer, CopyModule()).rows
    found = {name: float(trainer.callback_metrics[f"eval/{name}"]) for name in names}
    assert "fid" not in rows[0].values and found["fid"] > 0
    assert found["clip_score_torchmetrics"] == pytest.approx(max(100 * found["clip_text_similarity"], 0), abs=1e-4)


def test_a_class_path_in_the_scoring_is_known_before_training(tmp_path: Path) -> None:
    own = "tests.mmig.callbacks.test_evaluate.Copied"
    _, trainer = fit(tmp_path, [Evaluate(2, scoring=ScoringSettings(metrics=[own]))], steps=2)
    assert [event.step for event in events(trainer).Scalars("eval/copied")] == [0, 2]
    with pytest.raises(UnknownMetricError, match=r"cannot load 'no.such.Metric'"):
        Evaluate(10, scoring=ScoringSettings(metrics=["no.such.Metric"]))


def test_a_yaml_can_give_the_scoring_as_values_or_as_a_path(tmp_path: Path) -> None:
    (tmp_path / "scoring.yaml").write_text("metrics: [l1_input]")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callback", type=L.Callback)
    for scoring in ({"metrics": ["l1_input"]}, str(tmp_path / "scoring.yaml")):
        given = {
            "class_path": "mmig.callbacks.evaluate.Evaluate",
            "init_args": {"every_n_steps": 5, "scoring": scoring},
        }
        callback = parser.instantiate(parser.parse_object({"callback": given})).callback
        assert callback.scoring == ScoringSettings(metrics=["l1_input"])


def test_it_works_without_a_logger(tmp_path: Path) -> None:
    fit(tmp_path, [Evaluate(2, scoring=SCORING)], steps=2, logger=False)

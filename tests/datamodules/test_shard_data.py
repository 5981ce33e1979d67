"""The LightningDataModule: its stream's position travels in Lightning's checkpoints."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch

from datamodules.shard_data import ShardData
from datamodules.shards import ShardError, write_shards
from datamodules.stream import StreamError
from tests.datamodules.make_samples import make_samples


class _Recorder(L.LightningModule):
    """Learns next to nothing and remembers which samples it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[str]] = []
        self.validated: list[str] = []

    def training_step(self, batch: dict) -> torch.Tensor:
        self.seen.append(batch["key"])
        return (self.weight - batch["target"].mean()) ** 2

    def validation_step(self, batch: dict) -> None:
        self.validated += batch["key"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shard-data")
    for split, count in (("train", 26), ("val", 7)):
        write_shards(make_samples(count), folder / split, 5)
    return folder


def _fit(
    folder: Path, root: Path, steps: int, resume: str | None = None, workers: int = 0
) -> tuple[_Recorder, L.Trainer]:
    module = _Recorder()
    data = ShardData(
        str(folder / "train"),
        str(folder / "val"),
        global_batch_size=4,
        eval_batch_size=3,
        resolution=16,
        num_workers=workers,
    )
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=2,
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=False if resume else None)
    for stream in (trainer.train_dataloader.stream, trainer.val_dataloaders):
        stream.close()  # the trainer is a cycle, and workers that the garbage collector finds are slow to end
    return module, trainer


@pytest.mark.parametrize("stop", [2, 6, 7])
def test_a_lightning_checkpoint_carries_the_position(folder: Path, tmp_path: Path, stop: int) -> None:
    whole, _ = _fit(folder, tmp_path, 14)
    first, trainer = _fit(folder, tmp_path, stop, workers=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    second, _ = _fit(folder, tmp_path, 14, str(tmp_path / "a.ckpt"))
    assert first.seen + second.seen == whole.seen and len(whole.seen) == 14
    assert torch.equal(second.weight, whole.weight)


def test_validation_sees_every_sample_once(folder: Path, tmp_path: Path) -> None:
    module, _ = _fit(folder, tmp_path, 6)
    assert module.validated[-7:] == [f"{number:06d}" for number in range(7)]


def test_a_checkpoint_of_another_seed_is_refused(folder: Path) -> None:
    one, other = (ShardData(str(folder / "train"), seed=seed, resolution=16) for seed in (0, 1))
    one.train_dataloader()
    other.load_state_dict(one.state_dict())
    with pytest.raises(StreamError, match="its seed was 0"):
        other.train_dataloader()


def test_a_missing_split_or_folder_is_named_before_training(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.init_args\.test: expected a folder of shards"):
        ShardData(str(folder / "train")).setup("test")
    with pytest.raises(ShardError, match=r"nowhere/index\.json: missing"):
        ShardData(str(folder / "nowhere")).setup("fit")
    with pytest.raises(ShardError, match=r"absent/index\.json: missing"):
        ShardData(str(folder / "train"), str(folder / "absent")).setup("fit")
    ShardData(str(folder / "train")).setup("fit")  # without validation

"""What every method promises, as something that a test can run: train, resume, validate, cache, export, edit, evaluate.

Each folder of `mmig/methods/` has a folder of tests with a `contract.py`, whose `CASES` are the modules that it trains;
`test_contract.py` holds each of them to the promises.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from datamodules.schema import Batch, Sample
from datamodules.shards import write_shards
from mmig.checkpoints.checkpoint import find_checkpoint, read_checkpoint
from mmig.evaluation.data import split_batches
from mmig.run.cache import main as write_cache
from mmig.run.cli import MMIGCLI
from tests.golden.samples import make_sample
from tests.integration.forks import fork_ranks, wait_for_end
from tests.tiny_fixtures import TinyBackbones

NUM_STEPS, HALF = 3, 2
NUM_SAMPLES = 12
BATCH_SIZE = 4


def golden_samples() -> tuple[list[Sample], list[Sample]]:
    """Samples to train on, of which some lack a field, and whole ones to validate on."""
    some, further = (list(map(make_sample, range(first, first + 36))) for first in (0, 100))
    whole = max(map(len, further))
    return some[:NUM_SAMPLES], [sample for sample in further if len(sample) == whole][:NUM_SAMPLES]


@dataclass(frozen=True)
class Case:
    """A module that a method trains.

    Attributes:
        model: its `model` section, on the tiny random backbones.
        samples: of its data, `NUM_SAMPLES` to train on and as many to validate on, in which nothing is missing.
        data: further settings of `ShardData`.
        edits: whether it makes pictures, and so has a pipeline.
        export_refused: why such a short run cannot be exported, as it is said; "" where it can be.
        sampling: of quick edits, "name=value" each.
        instruction: what edit.py is told.
        inputs: further options of edit.py; {folder} is a folder with `picture.png` and `tone.wav`.
        metrics: that are scored by name; those that the module declares come beside them.
        repeats: much of another case of its method; its trials are marked slow.
    """

    model: Callable[[TinyBackbones], dict[str, Any]]
    samples: Callable[[], tuple[list[Sample], list[Sample]]] = golden_samples
    data: Mapping[str, Any] = field(default_factory=dict)
    edits: bool = True
    export_refused: str = ""
    sampling: Sequence[str] = ("num_steps=2",)
    instruction: str = "put a red circle on it"
    inputs: Sequence[str] = ("--image", "{folder}/picture.png")
    metrics: Sequence[str] = ("l1_target",)
    repeats: bool = False


@dataclass(frozen=True)
class Trial:
    """A case in a folder of its own.

    Attributes:
        case: what is tried.
        folder: with its shards, configuration and runs.
    """

    case: Case
    folder: Path

    @classmethod
    def begin(cls, case: Case, folder: Path, backbones: TinyBackbones) -> "Trial":
        """Write the shards and the configuration."""
        for split, samples in zip(("train", "val"), case.samples(), strict=True):
            write_shards(samples, folder / "data" / split, samples_per_shard=5)
        data = {split: str(folder / "data" / split) for split in ("train", "val")}
        section = {
            "class_path": "datamodules.shard_data.ShardData",
            "init_args": {
                **data,
                "test": data["val"],
                "global_batch_size": BATCH_SIZE,
                "eval_batch_size": BATCH_SIZE,
                **case.data,
            },
        }
        quiet = {"enable_progress_bar": False, "log_every_n_steps": 1, "accelerator": "cpu"}
        config = {
            "seed_everything": 0,
            "model": case.model(backbones),
            "data": section,
            "trainer": {"max_steps": NUM_STEPS, **quiet},
            "ema": {"decay": 0.5},
            "checkpoint": {"every_n_steps": HALF},
        }
        trial = cls(case, folder)
        trial.config.write_text(yaml.safe_dump(config))
        return trial

    @property
    def config(self) -> Path:
        """What train.py is given."""
        return self.folder / "config.yaml"

    def run(self, name: str) -> Path:
        """Folder of a run."""
        return self.folder / "runs" / name

    def options(self, name: str, *more: str) -> list[str]:
        """Options of train.py for a run."""
        return ["--config", str(self.config), "--runs", str(self.folder / "runs"), "--name", name, *more]

    def command(self, subcommand: str, name: str, *more: str) -> MMIGCLI:
        """A subcommand of train.py, in this process."""
        return MMIGCLI([subcommand, *self.options(name, *more)])

    def processes(self, name: str, num_ranks: int, *more: str) -> list[int]:
        """Exit statuses of a training in processes of its own."""
        pids = fork_ranks(["fit", *self.options(name, *more)], num_ranks, self.folder / f"{name}.log")
        statuses = wait_for_end(pids, seconds=200)
        assert statuses is not None, (self.folder / f"{name}.log").read_text()[-1000:]
        return statuses

    def cache(self) -> Path:
        """Write the features of the training data; their folder."""
        out = self.folder / "features"
        write_cache([*self.options("cache"), "--out", str(out), "--device", "cpu"])
        return out

    def batch(self) -> Batch:
        """A validation batch."""
        return next(iter(split_batches(self.config, "val")))


def learned(run: Path) -> dict[str, Tensor]:
    """Every number that a run's newest checkpoint has learned, averages and moments among them, by name."""
    checkpoint = read_checkpoint(find_checkpoint(run))
    values = {f"weight of {name}": value for name, value in checkpoint["state_dict"].items()}
    values |= {f"average of {name}": value for name, value in checkpoint["ema"]["weights"].items()}
    for number, state in enumerate(checkpoint["optimizer_states"]):
        for name, moments in state["state"].items():
            tensors = {key: value for key, value in moments.items() if isinstance(value, Tensor)}
            values |= {f"{key} of {name} ({number})": value for key, value in tensors.items()}
    return values


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names under which two collections of tensors are not bit for bit equal."""
    return sorted(
        name
        for name in one.keys() | other.keys()
        if name not in one or name not in other or not torch.equal(one[name], other[name])
    )

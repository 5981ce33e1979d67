"""kill -9 and resume of a mixture through train.py: weights, a filter and buckets, on one rank and on two."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.schema import Sample
from datamodules.shards import write_shards
from datamodules.tinyworld.sample import make_sample
from mmig.run.cli import main
from tests.integration.losses import logged
from tests.integration.recorder import recorded
from tests.integration.workspace import Workspace

NUM_STEPS, EVERY, KILLED_AT = 9, 3, 5
SHAPES = ((64, 64), (80, 48), (48, 80))


def samples(count: int, first: int) -> Iterator[Sample]:
    """Pairs of scenes in three shapes, of two edit types."""
    for number in range(first, first + count):
        scene = make_sample(0, "train", number, photographs=False)
        images = {name: scene[name].resize(SHAPES[number % 3]) for name in ("source", "target")}  # type: ignore[literal-required, attr-defined]
        texts = {name: scene[name] for name in ("instruction", "response")}  # type: ignore[literal-required]
        yield {"key": f"{number:06d}", "edit_type": ("add", "remove")[number // 3 % 2], **images, **texts}  # type: ignore[typeddict-item]


class Mixed(Workspace):
    """A workspace whose training data are a mixture of two folders."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        write_shards(samples(45, 0), folder / "large", 8)
        write_shards(samples(24, 100), folder / "small", 8)

    def mixed(self, name: str, num_ranks: int, *callbacks: dict[str, Any]) -> dict[str, Any]:
        """Configuration of a run on so many ranks."""
        recorder = {"folder": str(self.folder / "seen" / name)}
        config = self.config(
            max_steps=NUM_STEPS,
            val_check_interval=NUM_STEPS,
            devices=num_ranks,
            strategy="ddp" if num_ranks > 1 else "auto",
            callbacks=[{"class_path": "tests.integration.recorder.Recorder", "init_args": recorder}, *callbacks],
        )
        config["data"]["init_args"] |= {
            "train": [
                {"path": str(self.folder / "large"), "weight": 2.5},
                {"path": str(self.folder / "small"), "weight": 1, "edit_types": ["add"]},
            ],
            "buckets": {"step": 16, "max_ratio": 2.0},
            "flip": True,
            "num_workers": num_ranks - 1,
        }
        config["checkpoint"] = {"every_n_steps": EVERY}
        return config

    def fit(self, name: str, num_ranks: int, *callbacks: dict[str, Any]) -> int:
        """Run train.py, each rank in a process of its own; returns its exit code."""
        return self.train(name, config=self.mixed(name, num_ranks, *callbacks)).returncode


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """With a run that nothing interrupts, in this process."""
    made = Mixed(tmp_path_factory.mktemp("mixture"))
    file = made.folder / "whole.yaml"
    file.write_text(yaml.safe_dump(made.mixed("whole", 1)), encoding="utf-8")
    main(["fit", "--config", str(file), "--name", "whole", "--runs", str(made.folder / "runs")])
    return made


@pytest.mark.parametrize(("before", "after"), [(1, 2), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_a_killed_mixture_goes_on_exactly_on_other_ranks(workspace: Mixed, before: int, after: int) -> None:
    name = f"from-{before}-to-{after}"
    kill = {"class_path": "tests.integration.kill.KillAtStep", "init_args": {"step": KILLED_AT}}
    assert workspace.fit(name, before, kill) == -signal.SIGKILL
    assert workspace.fit(name, after) == 0
    whole = recorded(workspace.folder / "seen" / "whole", 1)
    lost, survived = (recorded(workspace.folder / "seen" / name, ranks) for ranks in (before, after))
    assert sorted(lost) == [*range(KILLED_AT + 1)] and sorted(survived) == [*range(EVERY, NUM_STEPS)]
    for batches in (lost, survived):
        for step, (keys, positions, sizes) in batches.items():
            assert (keys, positions) == whole[step][:2] and {*map(tuple, sizes)} == {*map(tuple, whole[step][2])}
    assert len({tuple(sizes[0]) for _, _, sizes in whole.values()}) > 1
    assert logged(workspace.folder / "runs" / name) == pytest.approx(
        logged(workspace.folder / "runs" / "whole"), rel=1e-5
    )

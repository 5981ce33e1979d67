"""A folder with everything that a small training run needs: shards, tiny random backbones, a configuration."""

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from datamodules.shards import write_shards
from datamodules.tinyworld.sample import make_sample
from tests import warm
from tests.tiny_fixtures import build_all

ROOT = Path(__file__).parents[2]


class Workspace:
    """Shards, backbones and the configuration of a small stage 1 in `folder`; runs go to `folder/runs`."""

    def __init__(self, folder: Path, num_samples: int = 40) -> None:
        self.folder = folder
        build_all(folder)
        for split, count in {"train": num_samples, "val": 8, "test": 8}.items():
            samples = (make_sample(0, split, i, photographs=False) for i in range(count))
            write_shards(samples, folder / split, samples_per_shard=16)

    def config(self, **trainer: Any) -> dict[str, Any]:
        """Configuration of the run as plain values."""
        folder = self.folder
        return {
            "model": {
                "class_path": "mmig.methods.mmig.stages.paper.Stage1",
                "init_args": {
                    "backbones": {
                        "diffusion": str(folder / "stable-diffusion"),
                        "unet": str(folder / "instruct-pix2pix"),
                        "llm": str(folder / "llama"),
                    },
                    "mmsm": {"dim": 16, "heads": 2},
                    "source_conditioning": "concat",
                    "sampling": {"num_steps": 2},
                    "optimizer": {"lr": 1e-3, "warmup_steps": 5},
                },
            },
            "data": {
                "class_path": "datamodules.shard_data.ShardData",
                "init_args": {
                    **{split: str(folder / split) for split in ("train", "val", "test")},
                    "global_batch_size": 4,
                    "eval_batch_size": 4,
                },
            },
            "trainer": {
                "accelerator": "cpu",
                "devices": 1,
                "log_every_n_steps": 1,
                "val_check_interval": 50,
                **trainer,
            },
            "ema": {"decay": 0.9},
        }

    def train(
        self, name: str, *overrides: str, config: dict[str, Any] | None = None, command: str = "fit"
    ) -> subprocess.CompletedProcess[str]:
        """Run train.py in a process of its own, which begins warm."""
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config or self.config()), encoding="utf-8")
        return self.run(
            "train.py", command, "--config", str(file), "--name", name, "--runs", str(self.folder / "runs"), *overrides
        )

    def run(self, *command: str, interpreter: str = "") -> subprocess.CompletedProcess[str]:
        """Run any of the repository's programs from its root; it begins warm if no other interpreter is given."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [interpreter or warm.python(), *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

"""A site: a cluster, a small world with random tiny backbones for all five stages, and the settings of the scripts."""

import copy
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from mmig.checkpoints.checkpoint import read_checkpoint
from tests.integration.workspace import Workspace
from tests.slurm.cluster import Cluster

STEPS = 6
ONE_CPU = ("--cpus-per-task=1", "--gpus-per-node=0", "--ntasks-per-node=1")


class Site:
    """What the scripts of slurm/ need, in `folder`; its runs go to `folder/runs`."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster, self.runs = folder, cluster, folder / "runs"
        self.workspace = Workspace(folder)
        (folder / "configs").mkdir()
        (folder / "logs").mkdir()
        self.write("data", {"data": self.workspace.config()["data"]})
        self.write("cpu", {"trainer": {"accelerator": "cpu", "strategy": "ddp"}})
        for number in range(1, 6):
            self.write(f"stage{number}", self.stage(number))

    def write(self, name: str, content: dict[str, Any]) -> Path:
        """Write a configuration."""
        path = self.folder / "configs" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def stage(self, number: int) -> dict[str, Any]:
        """A stage's configuration without its data."""
        config = copy.deepcopy(self.workspace.config())
        del config["data"]
        config["trainer"] = {"max_steps": STEPS, "log_every_n_steps": 1, "val_check_interval": 50}
        config["checkpoint"] = {"every_n_steps": 2}
        model = config["model"]
        model["class_path"] = f"mmig.methods.mmig.stages.paper.Stage{number}"
        if number > 1:
            model["init_args"]["backbones"]["vision"] = str(self.folder / "clip-vision")
        if number > 2:
            model["init_args"]["objective"] = {"condition_drop": 0.1}
        if number == 5:
            model["init_args"]["backbones"]["captioner"] = str(self.folder / "blip2")
        return config

    def hold(self, step: int) -> tuple[Path, str]:
        """A further trainer configuration that holds a run at a step; and the folder of its signs."""
        signs = self.folder / f"signs-{len(list(self.folder.glob('signs-*')))}"
        signs.mkdir()
        callback = {"class_path": "tests.slurm.hold.HoldAtStep", "init_args": {"step": step, "folder": str(signs)}}
        return signs, str(self.write(signs.name, {"trainer": {"callbacks": [callback]}}))

    def settings(self, prefix: str, *more_configs: str) -> dict[str, str]:
        """Environment in which the scripts are submitted."""
        configs = self.folder / "configs"
        return {
            "MMIG_CONFIGS": str(configs),
            "MMIG_DATA": str(configs / "data.yaml"),
            "MMIG_TRAINER": " ".join([str(configs / "cpu.yaml"), *more_configs]),
            "MMIG_OVERRIDES": "",
            "MMIG_RUNS": str(self.runs),
            "MMIG_PREFIX": prefix,
            "MMIG_PYTHON": sys.executable,
            "MMIG_HEARTBEAT_SECONDS": "5",
            "MMIG_SUBMIT_OPTIONS": " ".join(ONE_CPU),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": ".",
            "SBATCH_OUTPUT": str(self.folder / "logs" / "%j.log"),
        }

    def python_without_scontrol(self) -> str:
        """An interpreter from which no program of SLURM can be reached, as in a container."""
        path = self.folder / "python"
        path.write_text(f'#!/bin/sh\nPATH=/nowhere exec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def submit(self, script: str, *options: str, settings: dict[str, str], arguments: tuple[str, ...] = ()) -> str:
        """Submit one of the scripts; returns the job's number."""
        command = ("sbatch", "--parsable", *ONE_CPU, *options, f"slurm/{script}", *arguments)
        return self.cluster.run(*command, **settings).strip()

    def weights(self, run: str, step: int = STEPS) -> dict[str, torch.Tensor]:
        """The trained weights of a run's checkpoint."""
        return read_checkpoint(self.runs / run / "checkpoints" / f"step-{step:08d}.ckpt")["state_dict"]

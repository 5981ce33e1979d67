from pathlib import Path

import pytest
import torch
import yaml

from mmig import __version__
from mmig.checkpoints.checkpoint import build_module
from tests.mmig.evaluation.support import random_samples, write_data
from tests.tiny_fixtures import build_all


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `CopyModule`: trained strength 0.5, averaged strength 0.1."""
    run = tmp_path_factory.mktemp("runs") / "copy"
    (run / "checkpoints").mkdir(parents=True)
    model = {"class_path": "tests.mmig.evaluation.support.CopyModule", "init_args": {}}
    data = {"class_path": "datamodules.shard_data.ShardData", "init_args": {"resolution": 64}}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    checkpoint = {
        "state_dict": {"strength": torch.tensor(0.5)},
        "ema": {"decay": 0.9, "updates": 3, "weights": {"strength": torch.tensor(0.1)}},
        "version": __version__,
        "step": 3,
        "backbones": {},
    }
    torch.save(checkpoint, run / "checkpoints" / "step-00000003.ckpt")
    return run


@pytest.fixture(scope="session")
def data_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YAML of a test split of five random samples on disk."""
    return write_data(tmp_path_factory.mktemp("data"), random_samples(5))


@pytest.fixture(scope="session")
def mmig_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MMIG's third stage with random weights, which edits in two steps."""
    folders = build_all(tmp_path_factory.mktemp("tiny"))
    run = tmp_path_factory.mktemp("runs") / "three"
    (run / "checkpoints").mkdir(parents=True)
    arguments = {
        "backbones": {"diffusion": str(folders.stable_diffusion), "llm": str(folders.llama)},
        "optimizer": {"lr": 1e-3},
        "mmsm": {"dim": 16, "heads": 2},
        "multimodal": {"max_response_tokens": 6},
        "source_conditioning": "img2img",
        "sampling": {"num_steps": 2},
        "profile": "practical",
    }
    model = {"class_path": "mmig.methods.mmig.stages.paper.Stage3", "init_args": arguments}
    data = {"class_path": "datamodules.shard_data.ShardData", "init_args": {"resolution": 64}}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
    stage = build_module({"model": model})
    stored = stage.state_dict()
    checkpoint = {
        "state_dict": {name: stored[name] for name in stage.stored_names()},
        "step": 1,
        "version": "0.2.0",
        "backbones": stage.describe_backbones(),
    }
    torch.save(checkpoint, run / "checkpoints" / "step-00000001.ckpt")
    return run

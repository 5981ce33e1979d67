from pathlib import Path

import pytest
import torch
import yaml

from mmig import __version__
from tests.mmig.evaluation.support import random_samples, write_data


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

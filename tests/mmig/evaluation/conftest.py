from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from datamodules.schema import Sample
from datamodules.shards import write_shards
from mmig.metrics.images import signed_to_unit, to_bytes
from tests.mmig.metrics.support import random_batch


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
        "step": 3,
        "backbones": {},
    }
    torch.save(checkpoint, run / "checkpoints" / "step-00000003.ckpt")
    return run


@pytest.fixture(scope="session")
def data_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YAML of a test split of five random samples on disk."""
    folder = tmp_path_factory.mktemp("data")
    batch = random_batch(5)
    images = {name: to_bytes(signed_to_unit(batch[name])).numpy() for name in ("source", "target")}
    samples = [
        Sample(
            key=key,
            source=Image.fromarray(images["source"][row]),
            target=Image.fromarray(images["target"][row]),
            metadata=batch["metadata"][row],
            **{name: batch[name][row] for name in ("instruction", "source_caption", "target_caption", "edit_type")},
        )
        for row, key in enumerate(batch["key"])
    ]
    write_shards(samples, folder / "test", samples_per_shard=3)
    arguments = {"test": str(folder / "test"), "eval_batch_size": 2}
    path = folder / "data.yaml"
    path.write_text(
        yaml.safe_dump({"data": {"class_path": "datamodules.shard_data.ShardData", "init_args": arguments}})
    )
    return path

"""`train.py predict`: what is edited, and what lies in the folder afterwards."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from mmig.callbacks.prediction_writer import PredictionWriter
from mmig.editor import MissingFieldError
from mmig.training.rng import sample_generators
from tests.mmig.evaluation.support import CopyModule, Loader, NoisyCopy
from tests.mmig.metrics.support import random_batch


def predict(folder: Path, batch: dict[str, Any], size: int = 2) -> list[str]:
    """Names of the files that predicting leaves."""
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[PredictionWriter(folder / "images")],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.predict(CopyModule(), Loader(batch, size), return_predictions=False)
    return sorted(path.name for path in (folder / "images").iterdir())


def test_each_file_is_the_edited_image_of_its_key(tmp_path: Path) -> None:
    batch = random_batch(3)
    names = predict(tmp_path, batch)
    assert names == [f"{key}.png" for key in batch["key"]]
    edited = NoisyCopy(0.5)(batch, sample_generators(0, batch["key"])).images
    expected = np.rint((edited.numpy() + 1) / 2 * 255).transpose(0, 2, 3, 1)
    for name, pixels in zip(names, expected, strict=True):
        with Image.open(tmp_path / "images" / name) as image:
            assert np.abs(np.asarray(image, dtype=float) - pixels).max() <= 1


def test_no_two_keys_share_a_file(tmp_path: Path) -> None:
    batch = random_batch(4)
    batch["key"] = ["a/b", "a_b", "a%2Fb", "../a"]
    assert predict(tmp_path, batch) == ["..%2Fa.png", "a%252Fb.png", "a%2Fb.png", "a_b.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_an_unreadable_sample_leaves_no_file(tmp_path: Path) -> None:
    batch = random_batch(4)
    for row in (1, 2, 3):  # the whole second batch, and half of the first
        batch["key"][row] = ""
        batch["has_source"][row] = False
    assert predict(tmp_path, batch) == ["sample0-000.png"]


def test_a_sample_without_a_required_field_is_named(tmp_path: Path) -> None:
    batch = random_batch(2)
    batch["source"][1] = 0
    batch["has_source"] = torch.tensor([True, False])
    with pytest.raises(MissingFieldError, match="'sample0-001': NoisyCopy needs the field 'source'"):
        predict(tmp_path, batch)

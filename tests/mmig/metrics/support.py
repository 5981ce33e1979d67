"""Shared by the metric tests: a random batch in the schema and a tiny random CLIP encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.schema import take
from mmig.metrics.clip_encoder import ClipEncoder, load_encoder
from mmig.metrics.suite import MetricSuite
from tests.tiny_fixtures import build_open_clip


class EvenJudge:
    """Calls even samples right; remembers how often it was asked."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, image: Tensor, metadata: dict[str, Any]) -> dict[str, float]:
        assert image.shape == (3, 64, 64)
        self.num_calls += 1
        return {"success": float(metadata["truth"] % 2 == 0), "preservation": 1.0}

    def text(self, text: str, metadata: dict[str, Any]) -> bool:
        return text == "right"


def random_batch(num_samples: int, seed: int = 0, size: int = 64) -> dict[str, Any]:
    """A batch with all that the metrics read; images in [-1,1]."""
    random = torch.Generator().manual_seed(seed)
    flags = torch.ones(num_samples, dtype=torch.bool)
    colours = ["red", "blue", "green", "yellow"]
    return {
        "key": [f"sample{seed}-{row:03d}" for row in range(num_samples)],
        "source": torch.rand(num_samples, 3, size, size, generator=random) * 2 - 1,
        "target": torch.rand(num_samples, 3, size, size, generator=random) * 2 - 1,
        "has_source": flags,
        "has_target": flags.clone(),
        "instruction": [f"make it {colours[row % 4]}" for row in range(num_samples)],
        "response": [f"a {colours[row % 4]} ball" for row in range(num_samples)],
        "expressive": [f"the ball becomes {colours[row % 4]} in place {row}" for row in range(num_samples)],
        "source_caption": [f"a grey ball and {row} dots" for row in range(num_samples)],
        "target_caption": [f"a {colours[row % 4]} ball and {row} dots" for row in range(num_samples)],
        "edit_type": ["recolour" if row % 2 else "add" for row in range(num_samples)],
        "metadata": [{"truth": row} for row in range(num_samples)],
    }


def with_references(batch: dict[str, Any], roles: list[list[str]], size: int = 48) -> dict[str, Any]:
    """The batch with a random picture for each role of each sample; "" leaves a slot empty."""
    width = max(len(of_sample) for of_sample in roles)
    padded = [of_sample + [""] * (width - len(of_sample)) for of_sample in roles]
    random = torch.Generator().manual_seed(7)
    images = torch.rand(len(roles), width, 3, size, size, generator=random) * 2 - 1
    has_images = torch.tensor([[bool(role) for role in of_sample] for of_sample in padded])
    attached = {"attachment_images": images, "has_attachment_images": has_images, "attachment_roles": padded}
    return {**batch, **attached}


def random_images(num_samples: int, seed: int = 1, size: int = 64) -> torch.Tensor:
    """Images float32 [B,3,H,W] in [-1,1]."""
    return torch.rand(num_samples, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tiny_encoder(folder: Path, preprocessing: str = "default") -> ClipEncoder:
    """An open_clip model with random weights."""
    return load_encoder(str(build_open_clip(folder)), None, preprocessing)


def in_batches(
    names: Sequence[str], tool: str, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[dict[str, float]], list[int]]:
    """Means of the metrics of eight samples and two seeds, in batches of 1, 3 and 8, and how many images were encoded.

    Args:
        names: of the metrics. tool: what they call `encoder`, whose `encode_images` is counted.
    """
    batch, edited, seen = random_batch(8), random_images(8), []
    encode = encoder.encode_images
    monkeypatch.setattr(encoder, "encode_images", lambda images: seen.append(len(images)) or encode(images))
    results, encoded = [], []
    for size in (1, 3, 8):
        suite = MetricSuite(names, **{tool: encoder})
        for start in range(0, 8, size):
            rows = slice(start, start + size)
            bank = suite.bank(take(batch, rows), edited[rows])
            suite.update(bank)
            suite.update(bank.with_edited(edited[rows].flip(-1)))
        results.append(suite.compute())
        encoded.append(sum(seen))
        seen.clear()
    return results, encoded

"""Shared by the metric tests: a random batch in the schema and a tiny random CLIP encoder."""

from pathlib import Path
from typing import Any

import torch

from mmig.metrics.clip_encoder import ClipEncoder, load_encoder
from tests.tiny_fixtures import build_open_clip


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
        "source_caption": [f"a grey ball and {row} dots" for row in range(num_samples)],
        "target_caption": [f"a {colours[row % 4]} ball and {row} dots" for row in range(num_samples)],
        "edit_type": ["recolour" if row % 2 else "add" for row in range(num_samples)],
        "metadata": [{"truth": row} for row in range(num_samples)],
    }


def random_images(num_samples: int, seed: int = 1, size: int = 64) -> torch.Tensor:
    """Images float32 [B,3,H,W] in [-1,1]."""
    return torch.rand(num_samples, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tiny_encoder(folder: Path, preprocessing: str = "default") -> ClipEncoder:
    """An open_clip model with random weights."""
    return load_encoder(str(build_open_clip(folder)), None, preprocessing)

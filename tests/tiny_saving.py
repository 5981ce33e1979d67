"""How the tiny backbones are drawn and written, and the sizes that they share."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

IMAGE_SIZE, LATENT_SIZE, LATENT_CHANNELS, CONTEXT_LENGTH = 64, 16, 4, 77
TEXT_WIDTH, LLM_WIDTH, VISION_WIDTH, NUM_QUERY_TOKENS = 32, 48, 40, 8


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def save(model: nn.Module, folder: Path, dtype: torch.dtype, **options: Any) -> Path:
    nn.Module.to(model, dtype).save_pretrained(folder, **options)  # the base `to`: diffusers warns about its own
    return folder


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")

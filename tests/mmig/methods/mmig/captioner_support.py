"""What the tests of the captioner and of its image path share."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mmig.backbones.blip2 import load_blip2
from tests.tiny_fixtures import build_blip2


def build_seeing_blip2(folder: Path) -> Path:
    """Write a tiny random BLIP-2 that sees the image and writes more than one token.

    Its class starts the image tower and the queries at about zero, which is for published weights only.
    """
    model = load_blip2(build_blip2(folder), frozen=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.6 if name.startswith("language_model.model.decoder.layers") else 0.3)
    model.save_pretrained(folder)
    return folder


def saved_bytes(run: Callable[[], object]) -> int:
    """Memory that the graph of a forward pass holds on to."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()
    del kept
    return sum(sizes.values())

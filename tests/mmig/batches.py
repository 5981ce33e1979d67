"""Small batches in the schema."""

import torch

from datamodules.schema import Batch

RESPONSES = ["a red circle on a white background", "a blue square", "a small ring at the top", ""]


def edit_batch(size: int = 4, resolution: int = 64, seed: int = 0) -> Batch:
    """A batch of random images; the last of four samples has no response."""
    source = torch.Generator().manual_seed(seed)
    responses = [RESPONSES[i % 4] for i in range(size)]
    images = torch.rand(2, size, 3, resolution, resolution, generator=source) * 2 - 1
    yes = torch.ones(size, dtype=torch.bool)
    return Batch(
        key=[f"sample{i}" for i in range(size)],
        position=torch.arange(size),
        source=images[0],
        target=images[1],
        has_source=yes,
        has_target=yes.clone(),
        instruction=["make the circle red"] * size,
        has_instruction=yes.clone(),
        response=responses,
        has_response=torch.tensor([bool(text) for text in responses]),
        faults=[],
    )

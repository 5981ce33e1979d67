"""A model that makes features of the tests' samples; as a program, one that is killed while it writes them.

    python -m tests.datamodules.feature_program FOLDER

writes those of FOLDER/plain to FOLDER/features, and kills itself at sample 000006.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor

from datamodules.feature_shards import write_features
from datamodules.schema import Batch
from datamodules.shard_index import ShardIndex
from datamodules.transforms import ImageTransform

SQUARE = ImageTransform(16)
FACTS = {"model": "one"}
BATCH_SIZE = 3


def compute(batch: Batch, mirrored: bool) -> list[dict[str, Tensor]]:
    """What a model might make: one tensor of the target, and one of the instruction, as long as the text."""
    images: list[dict[str, Tensor]] = [{"image": target[0, :2]} for target in batch["target"]]
    if not mirrored:
        for row, text in zip(images, batch["instruction"], strict=True):
            row["text"] = torch.arange(2.0 * len(text)).view(-1, 2)
    return images


def die_at_the_seventh(batch: Batch, mirrored: bool) -> list[dict[str, Tensor]]:
    """The same, but a kill -9 instead of the features of sample 000006."""
    if "000006" in batch["key"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(batch, mirrored)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    plain = ShardIndex.load(folder / "plain")
    write_features(plain, folder / "features", SQUARE, die_at_the_seventh, FACTS, BATCH_SIZE)

"""Edited images on disk, as `train.py predict` leaves them."""

import os
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image
from torch import Tensor

from datamodules.schema import Batch
from mmig.editing import EditOutput


def to_pil(image: Tensor) -> Image.Image:
    """Image of a float tensor [3,H,W] in [-1,1]; values outside are clipped."""
    pixels = ((image.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


class PredictionWriter(BasePredictionWriter):
    """Writes `KEY.png` for each predicted sample, whole or not at all.

    Args:
        directory: folder of the images.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__(write_interval="batch")
        self.directory = Path(directory)

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: EditOutput,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the images of one batch."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for key, image in zip(batch["key"], prediction.images, strict=True):
            path = self.directory / f"{key.replace('/', '_')}.png"
            partial = path.with_suffix(f".{os.getpid()}.partial")
            to_pil(image).save(partial, format="PNG")
            os.replace(partial, path)

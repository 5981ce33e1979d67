"""Edited images on disk, as `train.py predict` leaves them."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from datamodules.schema import Batch
from mmig.base.batches import readable
from mmig.base.files import replacing
from mmig.editor import EditOutput
from mmig.evaluation.pictures import to_pil
from mmig.evaluation.places import picture_name


class PredictionWriter(BasePredictionWriter):
    """Writes `KEY.png` for each predicted sample, whole or not at all; a / in a key becomes %2F, a % becomes %25.

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
        """Write the images of one batch; samples that could not be read have none."""
        for key, image in zip(readable(batch)["key"], to_pil(prediction.images), strict=True):
            with replacing(self.directory / picture_name(key)) as temporary:
                image.save(temporary, format="PNG")

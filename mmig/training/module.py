"""The training module that every stage and every method derives from.

A subclass says what the loss terms are, which parameters require gradients, and how its weights edit images. A step of
training is `mmig/training/steps.py`, what a checkpoint holds `mmig/training/stored.py`.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from datamodules.schema import Batch
from mmig.base.batches import readable
from mmig.editor import Editor, EditOutput, check_fields
from mmig.training.fsdp import whole_weights
from mmig.training.loss_meter import LossMeter
from mmig.training.rng import Draws, sample_generators
from mmig.training.steps import SteppingModule

VALIDATION_SEED = 1_000_003
"""Added to the run's seed for validation draws, so that no validation noise was ever trained on."""


class CachedFeatures(Protocol):
    """What a method's frozen parts make of a batch, as it is cached (`mmig.cache.frozen.FrozenFeatures`).

    Attributes:
        facts: what features depend on.
    """

    facts: Callable[[], Mapping[str, str]]

    @property
    def names(self) -> frozenset[str]:
        """Features that may be cached."""

    @property
    def names_seeing_images(self) -> frozenset[str]:
        """Those that change where the images are flipped."""

    def compute(self, batch: Batch, names: Sequence[str], dtype: torch.dtype | None = None) -> list[dict[str, Tensor]]:
        """These features of each sample, on the CPU."""


class TrainingModule(SteppingModule):
    """Base of every trainable method: the training step (`SteppingModule`), validation and prediction.

    Attributes:
        new_parts: dotted prefixes of the parameters that no earlier stage has. A checkpoint given to --init_from holds
            each of these parts whole or not at all; every other trained weight outside the backbones it must hold.
        absent_parts: dotted prefixes of what other stages have and this one does without; --init_from leaves them out.
        needed_fields: fields of a sample without each of which it counts in no loss, whatever the settings; train.py
            looks for them in the data before the module is built.
        unlearnt_parts: dotted prefixes of fresh parts that this one does not train; without --init_from it is refused.
        terms_without_timestep: loss terms that validation does not split by timestep, see `LossMeter`.
        metrics: metrics of its own, names or class paths of `mmig.metrics.base.PerSampleMetric`s, which evaluate.py and
            the callbacks score beside those of the data.
        features: what asks its frozen parts and knows which features of theirs may be cached; None: none.
        hub_task: what an exported folder does, in the hub's words for its card; "" where it is no pipeline.
    """

    new_parts: ClassVar[tuple[str, ...]] = ()
    needed_fields: ClassVar[tuple[str, ...]] = ()
    absent_parts: tuple[str, ...] = ()
    unlearnt_parts: tuple[str, ...] = ()
    terms_without_timestep: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[tuple[str, ...]] = ()
    features: CachedFeatures | None = None
    hub_task: ClassVar[str] = "image-to-image"

    # What a subclass defines -------------------------------------------------------------------------------------

    def timesteps(self, draws: Draws) -> Tensor | None:
        """Diffusion timestep of each sample, [B] in [0, 1000), for validation by timestep; None where there is none."""
        return None

    @property
    def images_with_features(self) -> frozenset[str]:
        """Image fields that `losses` does not look at in samples with cached features; these are not even decoded."""
        return frozenset()

    def make_pipeline(self) -> Editor:
        """The editor that evaluate.py and the callbacks run."""
        raise TypeError(f"{type(self).__name__} trains a part that edits no images: it has no pipeline")

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """Write these weights as a folder in diffusers' layout, complete; with `editor.yaml` where it edits images.

        Args:
            folder: to write into; made, and on no checkpoint's way.
            config: of the run: `model`, `data` and so on, as plain values.

        Returns:
            What the folder's card says of the method and its use, in markdown; `{name}` stands for the folder.

        Raises:
            ValueError: a method that exports nothing.
        """
        raise ValueError(f"{type(self).__name__} has no export(folder): its weights alone can be written, as a file")

    # Validation and test -----------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget the sums of the last run."""
        self._meter = LossMeter(self.loss_weights, self.terms_without_timestep)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Every loss term of the batch, by timestep range too; the draws differ from those of training."""
        draws = Draws(self.seed + VALIDATION_SEED, batch["position"])
        terms = self.losses(batch, draws)
        self.computed(terms)
        self._meter.update(terms, self.timesteps(draws), ~batch["repeated"] if "repeated" in batch else None)

    def on_validation_epoch_end(self) -> None:
        """Log `val/<term>`, `val/<term>/t000-249` and so on, and their weighted sum `val/loss`."""
        prefix = "test" if self.trainer.testing else "val"
        metrics = self._meter.compute(self._reduce, self.device)
        self.log_dict({f"{prefix}/{name}": value for name, value in metrics.items() if name != "loss"})
        self.log(f"{prefix}/loss", metrics["loss"], prog_bar=True)

    def on_validation_start(self) -> None:
        """Outside of training, let Lightning log at the checkpoint's step instead of 0."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.step

    on_test_start = on_validation_start
    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def on_predict_epoch_start(self) -> None:
        """Let ranks edit different numbers of images."""
        self._whole = contextlib.ExitStack()
        self._whole.enter_context(whole_weights(self.trainer))

    def on_predict_epoch_end(self) -> None:
        """Go back to shards."""
        self._whole.close()

    def predict_step(self, batch: Batch, batch_idx: int) -> EditOutput:
        """Edit the readable images of a batch; the result depends on seed and key alone, not on the batch around it.

        Raises:
            MissingFieldError: a sample lacks a field that the editor requires.
        """
        editor, batch = self.make_pipeline(), cast(Batch, readable(batch))
        check_fields(editor, batch)
        if not batch["key"]:
            return EditOutput(batch["source"], [])
        return editor(batch, sample_generators(self.seed, batch["key"]))

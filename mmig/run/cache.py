"""Command line: `python -m mmig.run.cache --config FILE [--config FILE ...] --out DIR`.

Takes the configuration of a training, with any of its options, and writes the frozen features of its data to DIR/SPLIT,
beside the images. Then the same training with `--data.init_args.features DIR` reads them. A killed writing goes on when
it is started again.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch.cli import LightningArgumentParser
from rich.progress import Progress
from torch import Tensor

from datamodules.schema import Batch
from mmig.base.batches import chosen_device, move_batch
from mmig.base.commands import one_line_errors
from mmig.base.processor import share_cores
from mmig.checkpoints.checkpoint import init_weights, read_start
from mmig.run.cli import MMIGCLI
from mmig.training.module import TrainingModule

Split = Literal["train", "val", "test"]
Dtype = Literal["float32", "bfloat16", "float16"]


class CacheCLI(MMIGCLI):
    """The parser of train.py without subcommands and trainer, and with the options of the cache."""

    def __init__(self, args: list[str] | None = None) -> None:
        super().__init__(args, run=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a training's configuration may hold, and the options of the cache."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--out", type=str, required=True, help="Folder to write to: one folder of shards a split.")
        parser.add_argument("--splits", type=list[Split], default=["train"], help="Splits to write.")
        parser.add_argument("--batch_size", type=int, default=16, help="Samples computed at once.")
        parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:1.")
        parser.add_argument(
            "--dtype",
            type=Dtype | None,
            default=None,
            help="Precision that is stored; default: the one in which features are computed. float16 halves the size.",
        )

    @property
    def options(self) -> Any:
        """Parsed options."""
        return self.config

    def before_instantiate_classes(self) -> None:
        """Refuse what a training would; there is no run to name."""
        self.check_words()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """None: nothing is trained."""
        return None


def write_split(
    method: TrainingModule,
    data: Any,
    split: Split,
    out: Path,
    batch_size: int,
    dtype: torch.dtype | None,
    context: Callable[[], AbstractContextManager[Any]],
    done: Callable[[int], object],
) -> int:
    """Write the frozen features of one split of the data to `out`/`split`; returns the number of samples.

    Args:
        method: on its device, with the weights that the training will start from.
        data: a datamodule that can write features (`ShardData`).
        split, out, batch_size: see the command line.
        dtype: that is stored; None for the one of the features.
        context: in which features are computed (autocast).
        done: told how many samples each piece of work was.

    Raises:
        ValueError: a method without frozen features, data that cannot be cached, or a folder with other features.
    """
    features = method.features
    if features is None or not features.names:
        raise ValueError(f"{type(method).__name__}: no features of its parts can be cached; train it without a cache")
    if not hasattr(data, "write_features"):
        raise ValueError(
            f"{type(data).__name__}: cannot write features; give a ShardData, or convert the data to shards"
        )
    names = sorted(features.names)
    seen = [name for name in names if name in features.names_seeing_images]

    def of_batch(batch: Batch, mirrored: bool) -> list[dict[str, Tensor]]:
        moved = cast(Batch, move_batch(batch, method.device))
        with context():
            return features.compute(moved, seen if mirrored else names, dtype)

    return len(data.write_features(split, out / split, of_batch, features.facts(), batch_size, done))


def main(args: list[str] | None = None) -> None:
    """Write the cache; what a user can mend ends in one line."""
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    share_cores()
    with one_line_errors():
        cli = CacheCLI(args)
        options, method = cli.config, cli.model
        if not options.splits:
            raise ValueError("--splits: expected at least one of train, val and test, found none")
        if options.init_from is not None:
            init_weights(method, read_start(method, options.init_from))
        device = chosen_device(options.device)
        method.to(device).eval()
        mixed = str(options.trainer.precision).startswith("bf16")

        def context() -> AbstractContextManager[Any]:
            return torch.autocast(device.type, torch.bfloat16, enabled=mixed)

        dtype = None if options.dtype is None else getattr(torch, options.dtype)
        with Progress() as progress:
            for split in options.splits:
                task = progress.add_task(split, total=None)
                count = write_split(
                    method,
                    cli.datamodule,
                    split,
                    Path(options.out),
                    options.batch_size,
                    dtype,
                    context,
                    lambda done, task=task: progress.advance(task, done),
                )
                progress.update(task, total=count, completed=count)
    names = ", ".join(sorted(method.features.names))
    print(f"{options.out}: {names}; train with --data.init_args.features {options.out}")


if __name__ == "__main__":
    main()

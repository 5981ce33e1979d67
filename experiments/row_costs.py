"""What the rows of a comparison cost: parameters that train, processor seconds of a step, and of an edited sample.

    python -m experiments.row_costs configs/results/mmig [--rows stage1 stage5] [--steps 3] [--sampling NAME=VALUE ...]

Each row is built as it is configured, from its backbones and fresh in all else, and takes some steps in this process on
one core, on samples of the small world's level plain; the median counts, the first step does not. Processor time, so
that other work on the machine matters little. Steps and edits are in the precision that train.py and a comparison would
choose here, or in the one that is asked for.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from rich.table import Table

from datamodules.schema import Batch, collate
from datamodules.tinyworld.sample import make_sample
from experiments.arms import BASE, Arm
from experiments.comparison import chosen
from experiments.demo import ROOT, console
from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.checkpoints.checkpoint import build_module
from mmig.editor import Editor, in_layers
from mmig.evaluation.overrides import with_sampling
from mmig.run.cli import MMIGCLI
from mmig.run.evaluate_parser import PRECISIONS
from mmig.run.precision import MIXED, attend_in_products, running, settled
from mmig.training.module import TrainingModule
from mmig.training.optim import trainable
from mmig.training.rng import Draws, sample_generators
from mmig.training.terms import stacked, total_loss

NUM_EDITED = 4
CPU = torch.device("cpu")
InPrecision = Callable[[], AbstractContextManager[Any]]


class _ReadError(Exception):
    """Carries the settings out of the command line before anything is built."""


class _ReadOnly(MMIGCLI):
    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        raise _ReadError(self.resolved_config())


def settings_of(row: Path) -> dict[str, Any]:
    """The merged configuration of a row's own training.

    Raises:
        ValueError: the row is an editor.
    """
    arm = Arm(row, 0, ROOT / "runs")
    if arm.is_editor:
        raise ValueError(f"{row}: an editor, which has no training of its own; name other --rows")
    words = arm.trainings([])[-1]
    try:
        with warnings.catch_warnings(action="ignore"):  # Lightning's, about arguments that are not the command line's
            _ReadOnly(words[1:])
    except _ReadError as read:
        return cast(dict[str, Any], read.args[0])
    raise AssertionError("the command line was not read")


def samples(count: int) -> Batch:
    """Of the level plain, each with every field."""
    made = [make_sample(0, "val", index, photographs=False, level="plain") for index in range(count)]
    return collate(made, positions=range(count))


def step_seconds(module: TrainingModule, batch: Batch, steps: int, in_precision: InPrecision) -> float:
    """Processor seconds of a training step of one optimiser: losses, backward, AdamW."""
    parameters = list(trainable(module.named_parameters()).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    taken = []
    for number in range(steps + 1):
        begun = time.process_time()
        with in_precision():
            values, counts = stacked(module.losses(batch, Draws(number, batch["position"])))
        weights = counts.new_tensor(list(module.loss_weights.values()))
        total_loss((values * counts).sum(dim=0), counts.sum(dim=0), weights).backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.process_time() - begun)
    return median(taken[1:])


@torch.no_grad()
def edit_seconds(editor: Editor, batch: Batch, in_precision: InPrecision) -> float:
    """Processor seconds of an edit, a sample."""
    generators = sample_generators(0, batch["key"])
    begun = time.process_time()
    with in_precision():
        editor(batch, generators)
    return (time.process_time() - begun) / len(batch["key"])


def costs(row: Path, options: argparse.Namespace) -> Mapping[str, str]:
    """Of one row, in words."""
    settings, sampling = settings_of(row), options.sampling
    in_precision = partial(running, CPU, options.precision)
    module = build_module(settings)
    size = settings["data"]["init_args"]["global_batch_size"]
    parameters = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    attend_in_products(options.precision == MIXED)  # as in a training; not in an evaluation
    seconds = step_seconds(module, samples(size), options.steps, in_precision)
    attend_in_products(False)
    editor = module.eval().make_pipeline()
    editor = in_layers(editor) if options.layered else editor
    edited = edit_seconds(with_sampling(editor, sampling), samples(NUM_EDITED), in_precision)
    return {
        "row": row.stem,
        "parameters": f"{parameters:,}",
        "steps": f"{settings['trainer']['max_steps']:,}",
        "s a step": f"{seconds:.2f}",
        "s an edit": f"{edited:.2f}",
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"of the rows' configurations and {BASE}.yaml")
    parser.add_argument("--rows", nargs="+", help="names of files; default: all but the base")
    parser.add_argument("--steps", type=positive, default=3, help="that are measured (default: 3)")
    parser.add_argument("--sampling", nargs="+", default=[], help="NAME=VALUE of the edits")
    parser.add_argument("--layered", action="store_true", help="edit in layers, as evaluate.py does with it (MMIG)")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of steps and edits (default: auto)")
    options = parser.parse_args(arguments)
    options.precision = settled(options.precision, "cpu")
    torch.set_num_threads(1)
    table: Table | None = None
    for row in chosen(options.folder, options.rows, parser):
        with one_line_errors():
            found = costs(row.resolve(), options)
        table = table or Table(*found, title=options.precision)
        table.add_row(*found.values())
    console.print(table)


if __name__ == "__main__":
    main()

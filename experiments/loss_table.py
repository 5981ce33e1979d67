r"""Held-out losses of several runs: each term of eq 22 on the same samples, timesteps and noise.

    python -m experiments.loss_table --config configs/demo/stage5.yaml --data configs/data/demo.yaml \
        --runs runs/chain-stage1 runs/chain-stage2 runs/chain-stage3 --out losses.json

Every run's weights are put into the module of the configuration, so that also terms are measured which the run itself
did not count; what a run has not trained is as the configuration begins with it. The first column, "start", is the
module before any training.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from datamodules.schema import Batch
from experiments.ablation import ABLATION_SEED
from experiments.chain_report import new_table
from mmig.base.batches import readable
from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.base.files import write_json
from mmig.base.processor import share_cores
from mmig.checkpoints.checkpoint import build_module, init_weights, read_checkpoint
from mmig.evaluation.bootstrap import Interval, mean_interval, paired_difference
from mmig.evaluation.data import split_batches
from mmig.evaluation.settings import read_yaml
from mmig.evaluation.summary import interval_dict
from mmig.training.module import TrainingModule
from mmig.training.rng import Draws

START = "start"
TermValues = dict[str, dict[str, float]]
"""Loss term -> sample key -> its mean over the draws in which it counts."""


@torch.no_grad()
def held_out_losses(module: TrainingModule, batches: Iterable[Mapping[str, Any]], num_draws: int) -> TermValues:
    """Every loss term of the module for every sample; samples and draws in which a term does not count have none."""
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in module.loss_weights}
    for whole_batch in batches:
        batch = cast(Batch, readable(whole_batch))
        for number in range(num_draws if batch["key"] else 0):
            draws = Draws(module.seed + ABLATION_SEED + number, batch["position"])
            for name, term in module.losses(batch, draws).items():
                of_samples = found[name]
                for key, value, count in zip(batch["key"], term.values.tolist(), term.counts.tolist(), strict=True):
                    if count > 0:
                        of_samples[key].append(value)
    return {
        name: {key: float(np.mean(values)) for key, values in of_samples.items()} for name, of_samples in found.items()
    }


def compare_runs(
    config: Mapping[str, Any], runs: Sequence[str], data: Path, split: str, num_draws: int, limit: int | None
) -> dict[str, TermValues]:
    """Losses of the module of a configuration before training, and with the averaged weights of each run.

    Raises:
        CheckpointError: a run does not fit the configuration.
    """
    losses = {}
    for run in (None, *runs):
        module = build_module(dict(config))
        if run is not None:
            init_weights(module, read_checkpoint(run), complete=False)
        batches = split_batches(data, split, limit=limit)
        losses[START if run is None else run] = held_out_losses(module.eval(), batches, num_draws)
    return losses


def loss_table(losses: Mapping[str, TermValues], markdown: bool = False) -> Table:
    """A row a term, a column a run; a star where the difference to the column before excludes zero."""
    table = new_table("Held-out losses (* differs from the column before)", markdown)
    table.add_column("")
    for name in losses:
        table.add_column(Path(name).name, justify="right", overflow="fold")
    columns = list(losses.values())
    for term in columns[0]:
        cells = []
        for before, values in zip([None, *columns], columns, strict=False):
            changed = before is not None and difference(values, before, term).excludes_zero
            cells.append(f"{mean_interval(np.array([*values[term].values()])).value:.4f}{'*' if changed else ' '}")
        table.add_row(term, *cells)
    return table


def difference(first: TermValues, second: TermValues, term: str) -> Interval:
    """First - second of one term, paired by sample; empty where it counts nowhere."""
    if not first[term]:
        return mean_interval(np.array([]))
    return paired_difference(first[term], second[term])


def report(losses: Mapping[str, TermValues]) -> dict[str, Any]:
    """What --out holds: the mean of every term of every run and its difference to the run before, with intervals."""
    result: dict[str, Any] = {}
    before = None
    for name, values in losses.items():
        result[name] = {
            term: {
                "loss": interval_dict(mean_interval(np.array([*of_samples.values()]))),
                "difference": None if before is None else interval_dict(difference(values, before, term)),
            }
            for term, of_samples in values.items()
        }
        before = values
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path, help="YAML with a `model` section that has all the terms")
    parser.add_argument("--data", required=True, type=Path, help="YAML with a `data` section")
    parser.add_argument("--runs", required=True, nargs="+", help="run directories, in the order of the columns")
    parser.add_argument("--split", default="val", help="split of the data (default: val)")
    parser.add_argument("--draws", type=positive, default=2, help="timesteps and noises a sample (default: 2)")
    parser.add_argument("--limit", type=positive, help="samples (default: all of the split)")
    parser.add_argument("--out", type=Path, help="write the figures with their intervals to this JSON")
    parser.add_argument("--markdown", action="store_true", help="a table for a document")
    options = parser.parse_args(arguments)
    share_cores()
    with one_line_errors():
        config = read_yaml(options.config)
        losses = compare_runs(config, options.runs, options.data, options.split, options.draws, options.limit)
        if options.out:
            write_json(options.out, report(losses))
    Console(highlight=False, width=200 if options.markdown else None).print(loss_table(losses, options.markdown))


if __name__ == "__main__":
    main()

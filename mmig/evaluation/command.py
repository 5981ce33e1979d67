"""What evaluate.py does after its arguments are parsed."""

import contextlib
import logging
import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmig.checkpoint import find_checkpoint, load_module
from mmig.evaluation.data import data_section, split_batches
from mmig.evaluation.overrides import with_sampling
from mmig.evaluation.report import (
    build_report,
    difference_table,
    edit_type_table,
    metric_table,
    published_table,
    write_report,
)
from mmig.evaluation.rows import read_rows
from mmig.evaluation.runner import EvaluationResult, evaluate_editor
from mmig.evaluation.settings import ScoringSettings, build_suite, read_settings
from mmig.evaluation.summary import compare
from mmig.metrics.suite import MetricSuite, check_names

logger = logging.getLogger(__name__)


def run(arguments: Namespace) -> None:
    """Evaluate a run and write its report; under torchrun every rank takes its part of the data.

    Raises:
        ValueError: for settings, data or a checkpoint that cannot be used.
    """
    settings = choose_settings(arguments)
    check_names(settings.metrics)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = _start(arguments.device, world_size)
    try:
        suite = build_suite(settings, device)
        editor = load_module(arguments.checkpoint, ema=not arguments.no_ema, map_location=device).make_pipeline()
        editor = with_sampling(editor, arguments.sampling)
        batches = split_batches(
            Path(arguments.data), arguments.split, arguments.batch_size, rank, world_size, arguments.limit
        )
        with _progress(batches.num_samples * arguments.seeds, shown=rank == 0) as advance:
            result = evaluate_editor(editor, batches, suite, range(arguments.seeds), device=device, progress=advance)
        if rank == 0:
            _report(arguments, suite, result)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def choose_settings(arguments: Namespace) -> ScoringSettings:
    """Settings of the data's package, overridden by the command line."""
    path = settings_path(data_section(Path(arguments.data))["class_path"])
    settings = ScoringSettings()
    if path.is_file():
        settings = read_settings(path)
        logger.info("scored as %s says", path)
    if arguments.clip is not None:
        settings.clip, settings.clip_weights = (*arguments.clip, None)[:2]
    for name in ("metrics", "preprocessing", "judge"):
        if getattr(arguments, name) is not None:
            setattr(settings, name, getattr(arguments, name))
    return settings


def settings_path(class_path: str) -> Path:
    """Settings of a datamodule: "datamodules.tinyworld.data.TinyWorldData" -> configs/evaluation/tinyworld.yaml."""
    package = class_path.removeprefix("datamodules.").split(".")[0]
    return Path("configs/evaluation") / f"{package}.yaml"


def _start(device: str, world_size: int) -> torch.device:
    kind = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if world_size == 1:
        return torch.device(kind)
    dist.init_process_group("gloo")  # only Python objects and scalars travel
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)


@contextlib.contextmanager
def _progress(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("editing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not shown, console=Console(stderr=True)) as progress:
        task = progress.add_task("editing", total=total)
        yield lambda num_done: progress.advance(task, num_done)


def _report(arguments: Namespace, suite: MetricSuite, result: EvaluationResult) -> None:
    facts = {
        "checkpoint": str(find_checkpoint(arguments.checkpoint)),
        "weights": "trained" if arguments.no_ema else "ema",
        "data": {"config": str(arguments.data), **data_section(Path(arguments.data))},
        "split": arguments.split,
        "limit": arguments.limit,
        "sampling": list(arguments.sampling),
    }
    report = build_report(result, suite, facts)
    directory = Path(arguments.out)
    write_report(directory, result, report)
    console = Console()
    console.print(metric_table(report))
    per_type = edit_type_table(report)
    if per_type is not None:
        console.print(per_type)
    for name in arguments.published or ():
        console.print(published_table(name))
    if arguments.compare is not None:
        other = Path(arguments.compare)
        differences = compare(result.rows, read_rows(other / "samples.jsonl"))
        console.print(difference_table(differences, f"{directory} minus {other}"))
    console.print(f"written: {directory / 'metrics.json'}, samples.jsonl, grid.png", style="dim", highlight=False)

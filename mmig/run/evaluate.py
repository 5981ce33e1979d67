"""What evaluate.py does after its arguments are parsed."""

import contextlib
import logging
import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmig.base.batches import chosen_device
from mmig.editor import Editor, KnowsSeeds, in_layers
from mmig.evaluation.data import SplitBatches, data_section, split_batches
from mmig.evaluation.differences import difference_table
from mmig.evaluation.identity import identity
from mmig.evaluation.kept import KeptPictures
from mmig.evaluation.notes import notes
from mmig.evaluation.opening import Opened, open_named
from mmig.evaluation.overrides import with_sampling
from mmig.evaluation.places import FOLDER
from mmig.evaluation.report import (
    build_report,
    edit_type_table,
    metric_table,
    write_report,
)
from mmig.evaluation.rows import SampleRow, gather, read_rows
from mmig.evaluation.runner import EvaluationResult, evaluate_editor
from mmig.evaluation.settings import ScoringSettings, build_suite
from mmig.evaluation.summary import compare
from mmig.evaluation.turns import InTurns, in_turns
from mmig.evaluation.unfinished import FinishedEdit, Unfinished
from mmig.metrics.base import NO_PICTURE
from mmig.metrics.suite import METRICS, MetricSuite, build_metrics
from mmig.run.jobs import Job, Plan, planned, point_name
from mmig.run.precision import running, settled
from mmig.run.scoring import choose_settings, left_out
from mmig.run.summary import summarise_plan
from mmig.training.agreement import leave_process_group

logger = logging.getLogger(__name__)


def run(arguments: Namespace) -> None:
    """Evaluate every system on all that is asked for and write reports; under torchrun every rank takes its part of the
    data. One evaluation or many: those that a killed command had finished are not edited again.

    Raises:
        ValueError: for settings, data or an editor that cannot be used.
    """
    plan = planned(arguments)
    check_place(Path(arguments.out), plan)
    of_parts = {job.part_name: job for job in plan.jobs}
    settings = {
        name: choose_settings(job.arguments, job.part.scoring if job.part else None) for name, job in of_parts.items()
    }
    for name, chosen in settings.items():
        build_metrics(chosen.metrics)
        data_section(Path(of_parts[name].arguments.data))
    compared = None if arguments.compare is None else read_compared(Path(arguments.compare), plan)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = _start(arguments.device, world_size)
    try:
        precision = gather([settled(arguments.precision, device.type)])[0]  # rank 0's on all
        for number, job in enumerate(plan.jobs, start=1):
            if rank == 0 and len(plan.jobs) > 1:
                _announce(job, number, len(plan.jobs))
            job.arguments.precision = precision
            rows = evaluate_one(job, settings[job.part_name], device, rank, world_size)
        if rank == 0:
            if compared is not None:
                table = difference_table(compare(rows, compared), f"{arguments.out} minus {arguments.compare}")
                Console().print(table)
            if len(plan.jobs) > 1 or plan.protocol:
                summarise_plan(plan, Path(arguments.out), arguments.command)
            for job in plan.jobs:
                Unfinished(job.out).clear()  # not before: what fails or is killed till then goes on from here
    finally:
        leave_process_group()


def check_place(directory: Path, plan: Plan) -> None:
    """Refuse to mix one evaluation and several in a folder.

    Raises:
        ValueError: something of the other kind lies there.
    """
    is_single = [job.out for job in plan.jobs] == [directory] and plan.protocol is None
    other = directory / ("overview.json" if is_single else "metrics.json")
    if other.exists() and not (plan.protocol and directory in [job.out for job in plan.jobs]):
        found, wanted = ("several evaluations", "one") if is_single else ("one evaluation", "several")
        raise ValueError(
            f"--out {directory}: holds {found}, and {wanted} would be mixed with that; give another folder"
        )


def evaluate_one(
    job: Job, settings: ScoringSettings, device: torch.device, rank: int, world_size: int
) -> list[SampleRow]:
    """One evaluation, with its report; its finished edits stay beside until all of the command have ended."""
    arguments = job.arguments
    pictures, unfinished = pictures_to_keep(arguments), Unfinished(job.out, rank)
    try:
        named = arguments.checkpoint, arguments.config, arguments.images
        opened = open_named(*named, ema=not arguments.no_ema, device=device)
        suite = _suite(settings, opened, device, alone=job.part is not None or bool(arguments.metrics))
        editor = _editor(opened, arguments)
        batches = split_batches(
            Path(arguments.data), arguments.split, arguments.batch_size, rank, world_size, arguments.limit
        )
        facts = facts_of(arguments, opened, editor, settings)
        finished: list[FinishedEdit] = []
        if rank == 0:
            finished = unfinished.begin(_identity(arguments, facts, suite, batches))
            if pictures is not None:
                pictures.begin(resumed=bool(finished))
        finished = gather(finished)  # no rank writes before
        context = partial(running, device, arguments.precision)
        options = {"device": device, "context": context, "finished": finished}
        with _progress(batches, arguments.seeds, finished, shown=rank == 0) as advance:
            options |= {"progress": advance, "on_pictures": pictures, "on_edits": unfinished.add}
            result = evaluate_editor(editor, batches, suite, range(arguments.seeds), **options)
        if rank == 0:
            if arguments.images:
                check_pictures(result, arguments.images, unfinished)
            report = build_report(result, suite, facts)
            write_report(job.out, result, report, pictures)
            _show(arguments, report)
        return result.rows
    finally:
        if unfinished.leave() and pictures is not None:  # else the same command goes on from here
            pictures.clear()


def _editor(opened: Opened, arguments: Namespace) -> Editor:
    """What edits, as the options want it."""
    editor = in_layers(opened.editor) if arguments.layered else opened.editor
    editor = with_sampling(editor, arguments.sampling)
    editor = in_turns(editor) if arguments.turns else editor
    if isinstance(editor, KnowsSeeds):
        for seed in range(arguments.seeds):
            editor.at_seed(seed)  # one that it has no results of is refused before anything is scored
    return editor


def _announce(job: Job, number: int, of: int) -> None:
    """A line before each of several evaluations."""
    words = [job.system, job.part_name, point_name(job.point)]
    Console().rule(f"[bold]{number} of {of}: {escape(', '.join(filter(None, words)))}", align="left")


def _suite(settings: ScoringSettings, opened: Opened, device: torch.device, alone: bool) -> MetricSuite:
    """The metrics, with the editor's own unless the settings' are wanted alone; rank 0 says which are left out."""
    declared = () if alone else opened.metrics
    suite = build_suite(settings, device, declared)
    wanted = [*(() if settings.metrics else METRICS), *declared]
    if os.environ.get("RANK", "0") == "0" and (hints := left_out(suite, wanted)):
        logger.info("not scored: %s", "; ".join(hints))
    return suite


def _identity(arguments: Namespace, facts: dict[str, Any], suite: MetricSuite, batches: SplitBatches) -> dict[str, Any]:
    """What must be the same for a command to go on with what an earlier one has finished."""
    return identity(
        facts,
        suite,
        seeds=range(arguments.seeds),
        keep_pictures=arguments.keep_pictures,
        data_fingerprint=batches.fingerprint,
        out=Path(arguments.out),
    )


def pictures_to_keep(arguments: Namespace) -> KeptPictures | None:
    """What keeps the edited pictures beside the rows; None where they are scored from there.

    Raises:
        ValueError: the place is taken.
    """
    place = Path(arguments.out).resolve() / FOLDER
    if arguments.images and Path(arguments.images).resolve().is_relative_to(place):
        return None
    return KeptPictures(Path(arguments.out), arguments.keep_pictures)


def check_pictures(result: EvaluationResult, folder: str, unfinished: Unfinished) -> None:
    """Refuse scores of pictures that belong to other samples, and forget them.

    Raises:
        ValueError: no sample has a picture, or several samples share a key, and so a picture.
    """
    try:
        _check_pictures(result, folder)
    except ValueError:
        unfinished.clear()
        raise


def _check_pictures(result: EvaluationResult, folder: str) -> None:
    if all(NO_PICTURE in row.skipped.values() for row in result.rows):
        raise ValueError(
            f"--images {folder}: no picture of any sample, such as {result.rows[0].key!r}; name the pictures by the "
            "keys of this split, or give the split that they were made of"
        )
    if shared := [row.key for row in result.rows if "." in row.key]:
        raise ValueError(
            f"--images {folder}: several samples of the split have the key {shared[0].partition('.')[0]!r}, and their "
            "pictures one name; score the sources one by one"
        )


def facts_of(arguments: Namespace, opened: Opened, editor: Editor, settings: ScoringSettings) -> dict[str, Any]:
    """What metrics.json says of that which was scored, and on what."""
    kind = type(editor.editor if isinstance(editor, InTurns) else editor)
    return {
        **opened.facts,
        "editor_class": f"{kind.__module__}.{kind.__qualname__}",
        "required_fields": list(editor.required_fields),
        "data": {"config": str(arguments.data), **data_section(Path(arguments.data))},
        "split": arguments.split,
        "command": arguments.command,
        "limit": arguments.limit,
        "precision": arguments.precision,
        "scoring": asdict(settings),
        "layered": arguments.layered,
        "turns": arguments.turns,
        "sampling": asdict(editor.sampling),
    }


def read_compared(directory: Path, plan: Plan) -> list[SampleRow]:
    """Rows of the evaluation that --compare names, read before anything is edited.

    Raises:
        ValueError: it holds no samples.jsonl, or a broken one; or several evaluations are asked for.
    """
    if len(plan.jobs) > 1:
        raise ValueError("--compare: several evaluations are asked for; give `evaluate.py compare` their folders")
    path = directory / "samples.jsonl"
    if not path.is_file():
        raise ValueError(f"--compare {directory}: no samples.jsonl there; give the --out folder of another evaluation")
    return read_rows(path)


def _start(device: str, world_size: int) -> torch.device:
    chosen = chosen_device(device)
    if world_size > 1:
        dist.init_process_group("gloo")  # only Python objects and scalars travel
        if chosen == torch.device("cuda"):
            return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return chosen


@contextlib.contextmanager
def _progress(
    batches: SplitBatches, num_seeds: int, finished: Sequence[FinishedEdit], shown: bool
) -> Iterator[Callable[[int], None]]:
    """A bar of this rank's edits, which begins at those that are finished; a line says how many of all ranks' are."""
    numbers = gather([batches.num_samples])
    if finished and shown:
        of_all = "" if None in numbers else f" of {sum(numbers) * num_seeds}"
        logger.info("resumed: %d%s edits were there", len(finished), of_all)
    places = batches.places
    done = len(finished) if places is None else sum(edit.place in places for edit in finished)
    columns = (TextColumn("editing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not shown, console=Console(stderr=True)) as progress:
        total = None if batches.num_samples is None else batches.num_samples * num_seeds
        task = progress.add_task("editing", total=total, completed=done)
        yield lambda num_done: progress.advance(task, num_done)


def _show(arguments: Namespace, report: dict[str, Any]) -> None:
    console = Console()
    console.print(metric_table(report))
    per_type = edit_type_table(report)
    if per_type is not None:
        console.print(per_type)
    for note in notes(report):
        console.print(note, highlight=False, markup=False)
    names = ("report.html", "table.md", "table.tex", "samples.jsonl", "samples.parquet", "grid.png", f"{FOLDER}/")
    written = ", ".join(name for name in names if (Path(arguments.out) / name).exists())
    console.print(f"written: {Path(arguments.out) / 'metrics.json'}, {written}", style="dim", highlight=False)

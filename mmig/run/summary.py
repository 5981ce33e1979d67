"""What a command of several evaluations says at its end: comparisons of systems, and one overview of everything."""

import json
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmig.base.files import write_json, write_text
from mmig.evaluation.finished import check_comparable, read_finished
from mmig.evaluation.overview import (
    PUBLISHED,
    Evaluated,
    PublishedValues,
    Section,
    as_json,
    count,
    markdown,
    own_mean,
)
from mmig.evaluation.page.build import write_overview, write_page
from mmig.evaluation.sections import notes_of, section
from mmig.run.jobs import Job, Plan

MOST_COLUMNS = 5
"""Of a table on the terminal."""


def summarise_plan(plan: Plan, directory: Path, command: str) -> None:
    """Write the pages that compare systems, then overview.html, .md and .json, and print the tables.

    Args:
        plan: of evaluations that have ended.
        directory: --out of the command.
        command: what makes it again.
    """
    for folder, jobs in plan.groups().items():
        evaluations = read_finished([job.out for job in jobs])
        check_comparable(evaluations)
        write_page(folder, evaluations, command)
    title = plan.protocol.title if plan.protocol else "Evaluations"
    sections, notes = sections_of(plan, directory), notes_of(plan.protocol)
    pages = [f"{place_of(folder, directory)}/report.html".removeprefix("./") for folder in plan.groups()]
    write_overview(directory, title, sections, notes, command, plan.protocol is not None, pages)
    write_text(directory / "overview.md", markdown(title, sections, notes, command))
    write_json(directory / "overview.json", as_json(title, sections, notes, command))
    _show(title, sections, notes)
    told = f"written: {', '.join([str(directory / 'overview.html'), 'overview.md', 'overview.json', *pages])}"
    Console().print(told, style="dim", highlight=False, markup=False)


def sections_of(plan: Plan, directory: Path) -> list[Section]:
    """A table a data set."""
    systems = list(dict.fromkeys(job.system for job in plan.jobs))
    jobs = sorted(plan.jobs, key=lambda job: systems.index(job.system))  # points of a grid one below the other
    parts = plan.protocol.parts if plan.protocol else [None]
    return [
        section(plan.protocol, part, [_evaluated(job, directory) for job in jobs if job.part is part]) for part in parts
    ]


def _evaluated(job: Job, directory: Path) -> Evaluated:
    report = json.loads((job.out / "metrics.json").read_text(encoding="utf-8"))
    return Evaluated(job.system, place_of(job.out, directory), report, job.point)


def _show(title: str, sections: Iterable[Section], notes: Iterable[str]) -> None:
    console = Console()
    console.rule(f"[bold]{escape(title)}", align="left")
    for one in sections:
        beside = [] if one.reasons else one.theirs
        console.print(_table(one.title, one, own=True, theirs=beside))
        if one.theirs and one.reasons:
            told = f"published, not to be compared with the above: {'; '.join(one.reasons)}"
            console.print(told, highlight=False, markup=False)
            console.print(_table("", one, own=False, theirs=one.theirs))
    for note in notes:
        console.print(note, style="dim", highlight=False, markup=False)


def _table(title: str, one: Section, own: bool, theirs: Iterable[PublishedValues]) -> Table:
    """Means alone, of the first columns, to fit a terminal; overview.md has all with intervals."""
    shown = one.headings[:MOST_COLUMNS]
    hidden = len(one.headings) - len(shown)
    table = Table(title=escape(title) or None, title_justify="left", title_style="bold", caption_justify="left")
    table.caption = f"{hidden} more metrics in overview.md" if hidden else None
    table.add_column(one.naming if own else "method", no_wrap=True)
    for heading in shown:
        table.add_column((heading.full if own else heading.short).replace("_", " "), justify="right")
    if own:
        table.add_column("n", justify="right")
        for row in one.ours:
            table.add_row(escape(row.name), *map(own_mean, row.values[:MOST_COLUMNS]), str(count(row)))
    for other in theirs:
        table.add_row(other.name, *other.values[:MOST_COLUMNS], *([PUBLISHED] if own else []))
    return table


def place_of(folder: Path, root: Path) -> str:
    """A folder as a link from the overview's."""
    return folder.resolve().relative_to(root.resolve()).as_posix()

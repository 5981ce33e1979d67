"""A judged benchmark's numbers on the terminal, as JSON, as a table of Markdown and as a page with the replies."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmig.base.files import write_json, write_text
from mmig.evaluation.bootstrap import Interval
from mmig.evaluation.judged.benchmark import Benchmark
from mmig.evaluation.judged.items import Item
from mmig.evaluation.judged.record import FILE
from mmig.evaluation.page.judged import render_judged
from mmig.evaluation.page.tables import Grid, markdown

KIND = "kind"
DIGITS = 3


def write_results(
    out: Path,
    benchmark: Benchmark,
    items: Sequence[Item],
    rows: Sequence[Mapping[str, Any]],
    results: Mapping[str, Any],
) -> None:
    """Write metrics.MODE.json, table.MODE.md and report.MODE.html.

    Args:
        out: folder.
        benchmark, items, rows: what was judged.
        results: `aggregate`'s, with what it depends on.
    """
    mode, facts = results["mode"], benchmark.facts
    write_json(out / f"metrics.{mode}.json", dict(results))
    tables = [(title, grid) for title, grid in grids(results)]
    told = "\n\n".join(sentences(results, facts))
    parts = [f"# {results['title']}, {mode}", told, *(f"## {title}\n\n{markdown(grid, '')}" for title, grid in tables)]
    write_text(out / f"table.{mode}.md", "\n\n".join(part.strip() for part in parts) + "\n")
    page = render_judged(results, sentences(results, facts), tables, acted(results, facts), items, rows)
    write_text(out / f"report.{mode}.html", page)


def grids(results: Mapping[str, Any]) -> list[tuple[str, Grid]]:
    """Tables with their titles: all measures, then each level of groups."""
    measures = results["measures"]
    headings = ["measure", "micro (over items)", "macro (over types)", "worst to best", "n of items"]
    rows = []
    for name, table in measures.items():
        headline = table[results["headline"]]
        counted = f"{headline['n']} of {headline['items']}"
        rows.append([name, shown(table["micro"]), shown(table["macro"]), bounds(headline), counted])
    found = [("All items", Grid(headings, rows))]
    levels = list(dict.fromkeys(level for table in measures.values() for level in table["groups"]))
    for level in levels:
        names = sorted({name for table in measures.values() for name in table["groups"].get(level, {})})
        lines = []
        for name in names:
            cells = [table["groups"].get(level, {}).get(name) for table in measures.values()]
            lines.append([name, *("-" if cell is None else counted_value(cell) for cell in cells)])
        found.append((f"By {'type' if level == KIND else level}", Grid([level, *measures], lines)))
    return found


def shown(cell: Mapping[str, Any]) -> str:
    """A mean with its interval, "4.120 [4.050, 4.190]"; "-" where nothing was counted."""
    if cell["value"] is None:
        return "-"
    low, high = (math.nan if cell[name] is None else cell[name] for name in ("low", "high"))
    return Interval(cell["value"], low, high, cell["n"]).told(f".{DIGITS}f")


def counted_value(cell: Mapping[str, Any]) -> str:
    """A mean with how many items it is of, "4.120 (36 of 36)"."""
    value = "-" if cell["value"] is None else f"{cell['value']:.{DIGITS}f}"
    return f"{value} ({cell['n']} of {cell['items']})"


def bounds(cell: Mapping[str, Any]) -> str:
    """What the missing could do, "4.010 to 4.200"; "complete" where nothing is missing."""
    if cell["worst"] is None:
        return "-"
    low, high = (f"{cell[name]:.{DIGITS}f}" for name in ("worst", "best"))
    return "complete" if low == high and cell["n"] == cell["items"] else f"{low} to {high}"


def sentences(results: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """What must be known beside the numbers."""
    counts = results["counts"]
    not_read = ", ".join(f"{reason} {count}" for reason, count in counts["not_read"].items()) or "none"
    told = [
        f"{counts['complete']} of {counts['items']} items are complete. Answers: {counts['read']} of "
        f"{counts['answers']} read; not read: {not_read}.",
        f"The benchmark's own tables print the {results['headline']} mean of the first measure. "
        '"Worst to best": the mean if all that is missing had the lowest or the highest scores.',
    ]
    if results["mode"] == "official":
        named = "; ".join(f"{name} {count}" for name, count in results["defects"].items()) or "none"
        told.append(f"As the official script counts ({facts['evaluator']}), defects and all. Acted here: {named}.")
    else:
        told.append("Replies are read strictly, and nothing that is missing leaves a mean unnoticed.")
    if results.get("not_comparable"):
        told.append(f"Not comparable with published numbers: {'; '.join(results['not_comparable'])}.")
    return told


def acted(results: Mapping[str, Any], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The official script's defects, with how often each acted here (None where it is not counted)."""
    if results["mode"] != "official":
        return []
    return [
        {"name": name, "count": results["defects"].get(name, 0), **about} for name, about in facts["defects"].items()
    ]


def show(results: Mapping[str, Any], facts: Mapping[str, Any], out: Path) -> None:
    """Print the tables and what must be known beside them."""
    console = Console()
    for title, grid in grids(results):
        table = Table(title=f"{results['title']}, {results['mode']}: {title}", title_justify="left", title_style="bold")
        for number, heading in enumerate(grid.headings):
            table.add_column(heading, justify="right" if number else "left", overflow="fold")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table, highlight=False)
    for sentence in sentences(results, facts):
        console.print(sentence, highlight=False, markup=False)
    for defect in acted(results, facts):
        if defect["count"]:
            console.print(f"  {defect['name']} ({defect['count']}): {defect['what']}", highlight=False, markup=False)
    mode = results["mode"]
    written = f"written: {out / FILE}, metrics.{mode}.json, table.{mode}.md, report.{mode}.html"
    console.print(written, style="dim", highlight=False, markup=False)

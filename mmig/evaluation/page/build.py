"""From evaluations to report.html, table.md and table.tex."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmig.base.files import write_text
from mmig.evaluation.bootstrap import LEVEL
from mmig.evaluation.differences import ALL, Differences, all_differences
from mmig.evaluation.finished import Finished
from mmig.evaluation.notes import notes
from mmig.evaluation.overview import Section, own_cell
from mmig.evaluation.page import figures, found
from mmig.evaluation.page.causes import CAUSES, causes_by_type, count_causes
from mmig.evaluation.page.chosen import TIES
from mmig.evaluation.page.curve import curve
from mmig.evaluation.page.images import LARGEST
from mmig.evaluation.page.samples import browsed_keys, ranked_groups, shown_samples
from mmig.evaluation.page.tables import cell, difference_cell, latex, markdown, metric_grid
from mmig.evaluation.summary import interval_of

MORE_FORESTS = ("success", "preservation", "clip_image_similarity_input")
"""Metrics by edit type beside the one that the page is about."""


def write_page(directory: Path, evaluations: Sequence[Finished], command: str) -> Differences:
    """Write report.html, table.md and table.tex of one evaluation, or of several that `check_comparable` takes.

    Args:
        directory: where to.
        evaluations: the first one is what the others are held against.
        command: what makes the page again.

    Returns:
        The paired differences, {} of one evaluation.
    """
    differences = all_differences(evaluations)
    of_all = {name: {metric: found[ALL] for metric, found in of.items()} for name, of in differences.items()}
    grid = metric_grid(evaluations, of_all)
    caption = _caption(evaluations, command)
    write_text(directory / "table.md", markdown(grid, caption))
    write_text(directory / "table.tex", latex(grid, caption))
    write_text(directory / "report.html", render(evaluations, differences, command))
    return differences


def write_overview(
    directory: Path,
    title: str,
    sections: Sequence[Section],
    notes: Sequence[str],
    command: str,
    is_protocol: bool,
    pages: Sequence[str] = (),
) -> None:
    """Write overview.html: the tables of several evaluations, with the curves of their grids.

    Args:
        directory: where to.
        title, sections, notes: what it says.
        command: what makes it again.
        is_protocol: whether the evaluations are those of a protocol.
        pages: that compare systems, from the directory.
    """
    page = page_environment(figures=figures, own_cell=own_cell).get_template("overview.html")
    drawn = [(one, curve(one.evaluated, one.curve)) for one in sections]
    given = {"title": title, "sections": drawn, "notes": notes, "command": command, "pages": pages}
    write_text(directory / "overview.html", page.render(protocol=is_protocol, **given))


def page_environment(**given: Any) -> Environment:
    """Templates whose values are escaped; `given` is known in all of them."""
    environment = Environment(
        loader=PackageLoader("mmig.evaluation.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals |= given
    return environment


def render(evaluations: Sequence[Finished], differences: Differences, command: str) -> str:
    """The page; every value is escaped by the templates."""
    contested = _contested(evaluations, differences)
    metrics = found.common_metrics([evaluations[0], *(each for each in evaluations if each.name in contested)])
    primary = found.primary_metric(metrics)
    ties = [name for name in TIES if name in metrics and name != primary]
    environment = page_environment(ALL=ALL, cell=cell, difference_cell=difference_cell, interval_of=interval_of)
    return environment.get_template("report.html").render(
        systems=evaluations,
        letters=[figures.letter_of(number) for number in range(len(evaluations))],
        sentences=_sentences(evaluations, contested, primary),
        chance=_chance(contested),
        scatter=figures.scatter(evaluations, found.common_metrics(found.without_bounds(evaluations))),
        figures=figures,
        higher=found.directions(evaluations[0]),
        differences=differences,
        contested=contested,
        forests=_forests(evaluations, contested, primary, metrics),
        causes=CAUSES,
        counts=[(each, count_causes(each.rows), causes_by_type(each.rows)) for each in evaluations],
        groups=_groups(evaluations, contested, [primary, *ties], metrics) if primary else [],
        ties=ties,
        primary=primary,
        browsed=shown_samples(evaluations, browsed_keys(evaluations), _under_pictures(primary, metrics)),
        largest=LARGEST,
        level=LEVEL,
        notes=_notes(evaluations),
        command=command,
    )


def _contested(evaluations: Sequence[Finished], differences: Differences) -> Differences:
    """Differences without those of floors and ceilings, which nobody doubts: without others the page is about one."""
    bounds = {evaluation.name for evaluation in evaluations if evaluation.role}
    return {name: of_system for name, of_system in differences.items() if name not in bounds}


def _caption(evaluations: Sequence[Finished], command: str) -> str:
    first = evaluations[0].report
    scored = f"{first['num_samples']} samples of the split {first.get('split')} of {first['data']['class_path']}"
    told = f"Mean [95 % bootstrap interval over samples] of {scored}; n counts samples with a value."
    if len(evaluations) > 1:
        told += " Differences are paired by sample; * marks an interval that excludes zero, each taken alone."
    return "\n".join([told, *_notes(evaluations), f"Made by: {command}"])


def _notes(evaluations: Sequence[Finished]) -> list[str]:
    """What must be known beside the numbers; what is true of several evaluations alike is said once."""
    if len(evaluations) == 1:
        return notes(evaluations[0].report)
    whose: dict[str, list[str]] = {}
    for evaluation in evaluations:
        for note in notes(evaluation.report):
            whose.setdefault(note, []).append(evaluation.name)
    return [note if len(of) == len(evaluations) else f"{', '.join(of)}: {note}" for note, of in whose.items()]


def _sentences(evaluations: Sequence[Finished], differences: Differences, primary: str | None) -> list[str]:
    bounds = found.describe_bounds(evaluations, primary)
    if not differences:
        first_sentence, *rest = found.describe_one(evaluations[0])
        return [first_sentence, *bounds, *rest]
    first, higher = evaluations[0], found.directions(evaluations[0])
    known = {name: of[primary][ALL] for name, of in differences.items() if primary in of}
    if primary is None or not known:
        return ["These evaluations have no metric of which one sample has a value in all of them."]
    told = [
        found.describe_difference(name, first.name, primary, interval, higher[primary])
        for name, interval in known.items()
    ]
    fewest = min(known.values(), key=lambda interval: interval.n)
    return [*told, *bounds, *found.limits(fewest, "other trainings of the same systems")]


def _chance(differences: Differences) -> str:
    intervals = [found[ALL] for of_system in differences.values() for found in of_system.values()]
    return found.by_chance(intervals, LEVEL) if intervals else ""


def _forests(
    evaluations: Sequence[Finished], differences: Differences, primary: str | None, metrics: Sequence[str]
) -> list[figures.Forest]:
    """By edit type: values of one evaluation, or differences to the first of several."""
    names = [name for name in dict.fromkeys((primary, *MORE_FORESTS)) if name in metrics]
    shown = []
    for name in names:
        if differences:
            systems = {system: of[name] for system, of in differences.items() if name in of}
        else:
            value = evaluations[0].report["metrics"][name]
            types = {edit_type: interval_of(entry) for edit_type, entry in value["per_edit_type"].items()}
            systems = {evaluations[0].name: {ALL: interval_of(value), **types}}
        if systems and any(len(types) > 1 for types in systems.values()):
            shown.append(figures.forest(name, systems, [each.name for each in evaluations], zero=bool(differences)))
    return shown


def _groups(
    evaluations: Sequence[Finished], differences: Differences, order: Sequence[str], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Best, median and worst samples of one evaluation, or of every contested one against the first."""
    reference = evaluations[0] if differences else None
    shown = []
    for evaluation in [each for each in evaluations if each.name in differences] or evaluations:
        groups = ranked_groups(evaluation, order, reference)
        systems = [evaluation] if reference is None else [reference, evaluation]
        if any(groups.values()):
            names = _under_pictures(order[0], metrics)
            samples = {group: shown_samples(systems, keys, names) for group, keys in groups.items()}
            shown.append({"system": evaluation.name, "groups": samples})
    return shown


def _under_pictures(primary: str | None, metrics: Sequence[str]) -> list[str]:
    first = [name for name in (primary, "success", "preservation") if name in metrics]
    return list(dict.fromkeys([*first, *metrics]))

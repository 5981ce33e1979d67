"""Write and show what an evaluation found: metrics.json, samples.jsonl, pictures, a page, tables on the terminal."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmig.base.files import replacing, write_json, write_json_lines
from mmig.base.versions import git_commit, package_versions
from mmig.evaluation.bootstrap import LEVEL, NUM_RESAMPLES
from mmig.evaluation.finished import Finished
from mmig.evaluation.grid import draw_grid
from mmig.evaluation.kept import KeptPictures
from mmig.evaluation.page.build import write_page
from mmig.evaluation.runner import EvaluationResult
from mmig.evaluation.samples_table import write_samples_table
from mmig.evaluation.sets import NUM_SET_RESAMPLES, summarise_sets
from mmig.evaluation.summary import interval_of, summarise
from mmig.metrics.images import RESIZING
from mmig.metrics.suite import MetricSuite

if TYPE_CHECKING:
    from rich.table import Table


def build_report(
    result: EvaluationResult, suite: MetricSuite, facts: Mapping[str, Any], bootstrap_seed: int = 0
) -> dict[str, Any]:
    """Everything that metrics.json holds; `facts` name what was scored, data and split."""
    about, scored = suite.describe(), summarise(result.rows, seed=bootstrap_seed, floors=suite.floors)
    scored |= summarise_sets(result.rows, suite.sets, seed=bootstrap_seed)
    return {
        **facts,
        "num_samples": len({row.key for row in result.rows}),
        "seeds": result.seeds,
        "response_source": result.response_source,
        "metrics": {name: {**values, **about[name]} for name, values in scored.items()},
        **suite.tools.describe(),
        "truncated_texts": _count_truncated(result),
        "resized_pictures": _count_resized(result),
        "duplicates_dropped": result.num_duplicates,
        "stream_faults": result.faults,
        "bootstrap": {
            "level": LEVEL,
            "num_resamples": NUM_RESAMPLES,
            "num_set_resamples": NUM_SET_RESAMPLES,
            "seed": bootstrap_seed,
            "unit": "sample key",
        },
        "versions": package_versions(),
        "commit": git_commit(),
    }


def write_report(
    directory: Path, result: EvaluationResult, report: Mapping[str, Any], pictures: KeptPictures | None = None
) -> None:
    """Write samples.jsonl, samples.parquet, grid.png, the pictures, report.html with its tables, and last metrics.json,
    so that its presence means that all is there.
    """
    (directory / "metrics.json").unlink(missing_ok=True)
    write_json_lines(directory / "samples.jsonl", [row.to_dict() for row in result.rows])
    system = directory.resolve().name
    write_samples_table(directory / "samples.parquet", system, report, result.rows)
    if pictures is not None:
        pictures.finish(result.rows)
    if result.examples:
        with replacing(directory / "grid.png") as temporary:
            draw_grid(result.examples).save(temporary)
    finished = Finished(system, directory, dict(report), result.rows)
    write_page(directory, [finished], str(report.get("command", "")))
    write_json(directory / "metrics.json", dict(report))


def format_value(value: Mapping[str, Any], digits: int | None = None) -> str:
    """Mean and interval as "0.512 [0.480, 0.540]"; "0.512 [-]" for one sample, "-" where nothing was counted.

    Args:
        value: an entry of metrics.json. digits: decimals; None for as many as its size asks for.
    """
    if value["value"] is None:
        return "-"
    interval = interval_of(value)
    spec = f".{interval.digits if digits is None else digits}f"
    return interval.told(spec)


def metric_table(report: Mapping[str, Any]) -> "Table":
    """All samples: one row a metric."""
    from rich.table import Table

    known = {name: report.get(name) for name in ("clip", "dino", "lpips", "features")}
    models = "".join(f" · {_named(name, described)}" for name, described in known.items() if described)
    counts = f"{report['num_samples']} samples x {len(report['seeds'])} seeds"
    title = f"{counts} · response {report['response_source']}{models}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("metric", no_wrap=True)
    table.add_column("mean [95 % interval]", justify="right", no_wrap=True)
    table.add_column("n", justify="right")
    table.add_column("skipped", overflow="fold")
    for name, value in report["metrics"].items():
        arrow = "↑" if value["higher_is_better"] else "↓"
        skipped = ", ".join(f"{reason} {count}" for reason, count in value["skipped"].items())
        table.add_row(f"{name} {arrow}", format_value(value), str(value["n"]), skipped or "-")
    return table


def edit_type_table(report: Mapping[str, Any], max_metrics: int = 3) -> "Table | None":
    """Per edit type: the first metrics only, to fit a terminal; metrics.json has all. None where there are none."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    names = [name for name, value in report["metrics"].items() if value["per_edit_type"]][:max_metrics]
    if not names:
        return None
    table = Table(
        title="per edit type", title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("edit type")
    table.add_column("n", justify="right")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")  # breaks between words where it is long
    for edit_type in report["metrics"][names[0]]["per_edit_type"]:
        values = [report["metrics"][name]["per_edit_type"][edit_type] for name in names]
        table.add_row(
            edit_type, str(max(value["n"] for value in values)), *[format_value(value, 2) for value in values]
        )
    return table


def _named(tool: str, described: Mapping[str, Any]) -> str:
    """A model in a table's title: "CLIP ViT-B-32 (default)"."""
    title = tool if tool == "features" else tool.upper()
    preset = f" ({described.get('preset', 'custom')})" if tool in ("clip", "dino") else ""
    return f"{title} {described.get('name')}{preset}"


def _count_truncated(result: EvaluationResult) -> dict[str, int]:
    counts: dict[str, set[str]] = {}
    for row in result.rows:
        for name in row.truncated:
            counts.setdefault(name, set()).add(row.key)
    return {name: len(keys) for name, keys in sorted(counts.items())}


def _count_resized(result: EvaluationResult) -> dict[str, Any]:
    """How many edited pictures were resized to their sample's images, by which rule, and how many of each size."""
    sizes = Counter("{}x{}".format(*row.resized_from) for row in result.rows if row.resized_from)
    return {"count": sizes.total(), "rule": RESIZING, "sizes": dict(sorted(sizes.items()))}

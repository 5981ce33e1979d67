"""What one sample can and cannot show, in every table and in metrics.json."""

import json

from rich.console import Console
from rich.table import Table

from mmig.evaluation.differences import difference_table
from mmig.evaluation.report import edit_type_table, format_value, metric_table
from mmig.evaluation.rows import SampleRow
from mmig.evaluation.summary import compare, summarise


def rows(*values: float) -> list[SampleRow]:
    """One sample of type "add", all others of type "move"."""
    return [
        SampleRow(f"sample{number}", 0, "add" if number == 0 else "move", {"x": value})
        for number, value in enumerate(values)
    ]


def shown(table: Table | None) -> str:
    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def report(*values: float) -> dict:
    metrics = {name: {**summary, "higher_is_better": True} for name, summary in summarise(rows(*values)).items()}
    return {"clip": None, "num_samples": len(values), "seeds": [0], "response_source": "none", "metrics": metrics}


def test_metrics_json_has_no_bounds_for_one_sample_overall_and_of_a_type() -> None:
    alone = json.loads(json.dumps(report(0.5)["metrics"]["x"], allow_nan=False))
    assert (alone["value"], alone["low"], alone["high"], alone["n"]) == (0.5, None, None, 1)
    of_types = report(0.5, 0.25, 0.75)["metrics"]["x"]["per_edit_type"]
    assert (of_types["add"]["low"], of_types["add"]["high"]) == (None, None)
    assert of_types["move"]["low"] < of_types["move"]["value"] < of_types["move"]["high"]


def test_tables_show_the_value_of_one_sample_without_an_interval() -> None:
    assert "0.500 [-]" in shown(metric_table(report(0.5)))
    types = shown(edit_type_table(report(0.5, 0.25, 0.75))).splitlines()
    assert [("[-]" in line) for line in types if line.strip().startswith(("add", "move"))] == [True, False]


def test_the_title_names_every_model_that_the_numbers_depend_on() -> None:
    models = {
        "clip": {"name": "ViT-B-32", "preset": "crop"},
        "dino": {"name": "dino-vits16", "preset": "default"},
        "lpips": {"name": "alex"},
        "features": {"name": "resnet50"},
    }
    title = "CLIP ViT-B-32 (crop) · DINO dino-vits16 (default) · LPIPS alex · features resnet50"
    assert str(metric_table({**report(0.5), **models}).title).endswith(f"response none · {title}")
    assert str(metric_table(report(0.5)).title).endswith("response none")


def test_where_nothing_was_counted_there_is_a_dash() -> None:
    assert format_value({"value": None, "low": None, "high": None, "n": 0}) == "-"


def test_one_pair_does_not_exclude_zero_and_is_not_said_to_include_it() -> None:
    line = shown(difference_table(compare(rows(0.5), rows(0.1)), "one")).splitlines()[-2]
    assert "+0.4000 [-]" in line
    assert "excluded" not in line
    assert "inside" not in line

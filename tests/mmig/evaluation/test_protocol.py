"""Protocols as files: all of ours can be read, bad ones are refused, and deviations are noticed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmig.base.paths import resolved
from mmig.evaluation.protocol import FOLDER, Column, Protocol, deviations, read_protocol
from mmig.evaluation.settings import SettingsError
from mmig.metrics.suite import METRICS

NAMES = sorted(path.stem for path in resolved(FOLDER).glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_protocol_names_data_and_metrics_that_there_are(name: str) -> None:
    protocol = read_protocol(name)
    for part in protocol.parts:
        assert resolved(part.data).is_file()
        assert set(part.scoring.metrics) <= set(METRICS)


def test_the_protocols_of_the_issue_are_there() -> None:
    assert set(NAMES) == {"emu_edit", "instruct_any2pix", "instruct_pix2pix", "magicbrush", "mgie", "small_world"}


def test_every_column_of_mgie_has_its_metric_and_unit() -> None:
    protocol = read_protocol("mgie")
    assert protocol.table is not None
    columns = {name: column for part in protocol.parts for name, column in part.columns.items()}
    assert set(columns) == set(protocol.table.metrics)
    assert columns["evr_cvs"] == Column("clip_image_similarity_target", 100)
    assert columns["ma5k_lpips"] == Column("lpips_target", 1)
    assert [part.num_samples for part in protocol.parts] == [1485, 2969, 4950, 1053]


def write(path: Path, **changes: Any) -> Path:
    part = {"data": "d.yaml", "settings": "single", "scoring": {"metrics": ["l1_target", "l2_target"]}}
    part |= changes.pop("part", {})
    path.write_text(yaml.safe_dump({"title": "t", "published": "magicbrush", "parts": {"a": part}} | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": None}, "expected a `title` and a mapping `parts`"),
        ({"parts": []}, "expected a `title` and a mapping `parts`"),
        ({"metrics": []}, "unknown key 'metrics'"),
        ({"published": "coco"}, "'coco' is unknown"),
        ({"part": {"data": None}}, "parts.a.data: expected the path of a YAML"),
        ({"part": {"datum": 1}}, "parts.a: unknown key 'datum'"),
        ({"part": {"scoring": {"metrics": []}}}, "parts.a.scoring.metrics: expected the protocol's metrics"),
        ({"part": {"scoring": {"metrics": ["l1_target"], "clop": 1}}}, "parts.a.scoring: unknown key 'clop'"),
        ({"part": {"settings": "tripled"}}, "no published row is of 'tripled'"),
        ({"part": {"columns": {"l3_target": "l1_target"}}}, "'l3_target' is no column"),
        ({"part": {"curve": ["l1_target", "ssim_target"]}}, "parts.a.curve: expected two of the metrics"),
        ({"part": {"curve": ["l1_target"]}}, "parts.a.curve: expected two of the metrics"),
        ({"part": {"columns": {"l1_target": "ssim_target"}}}, "'ssim_target' is not among the metrics"),
        ({"part": {"columns": {"l1_target": {"metric": "l1_target", "time": 1}}}}, "unknown key 'time'"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as refused:
        read_protocol(write(tmp_path / "mine.yaml", **changes))
    assert message in str(refused.value)


def test_one_may_be_like_another_but_for_what_it_says(tmp_path: Path) -> None:
    whole = read_protocol(write(tmp_path / "whole.yaml", notes="both"))
    own = {"like": "../whole.yaml", "title": "own", "parts": {"a": {"grid": {"alpha": [1, 2]}}}}
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "mine.yaml"
    file.write_text(yaml.safe_dump(own))
    found = read_protocol(file)
    (part,) = whole.parts
    assert found.parts == (replace(part, grid={"alpha": (1, 2)}),)
    assert (found.name, found.title, found.notes, found.table) == ("mine", "own", ("both",), whole.table)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"like": 3}, "mine.yaml: like: expected the path of another protocol, found 3"),
        ({"like": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"like": "mine.yaml"}, "like: expected a whole protocol, found mine.yaml, which is like another one"),
        ({"like": "whole.yaml", "parts": {"a": 3}}, "parts.a: expected a mapping, found 3"),
        ({"like": "whole.yaml", "metrics": []}, "unknown key 'metrics'"),
    ],
)
def test_what_cannot_be_like_another_is_refused(own: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "whole.yaml")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(SettingsError) as refused:
        read_protocol(tmp_path / "mine.yaml")
    assert message in str(refused.value)


def test_columns_called_as_our_metrics_need_no_word(tmp_path: Path) -> None:
    (part,) = read_protocol(write(tmp_path / "mine.yaml")).parts
    assert part.columns == {"l1_target": Column("l1_target"), "l2_target": Column("l2_target")}


def test_one_text_is_a_list_of_one(tmp_path: Path) -> None:
    protocol = read_protocol(write(tmp_path / "mine.yaml", unstated="which CLIP", not_reproduced="scores by people"))
    assert (protocol.unstated, protocol.not_reproduced) == (("which CLIP",), ("scores by people",))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_protocol(tmp_path / "none.yaml")


def report(protocol: Protocol, **changes: Any) -> dict[str, Any]:
    """What metrics.json says of an evaluation that keeps to the first part."""
    part = protocol.parts[0]
    metrics = {name: {"value": 0.5, "n": part.num_samples, "skipped": {}} for name in part.scoring.metrics}
    faithful = {"num_samples": part.num_samples, "limit": None, "seeds": list(range(protocol.seeds))}
    return {**faithful, "scoring": dict(vars(part.scoring)), "metrics": metrics, **changes}


def test_an_evaluation_as_the_paper_has_it_may_stand_beside_its_numbers() -> None:
    protocol = read_protocol("magicbrush")
    assert deviations(protocol, protocol.parts[0], report(protocol)) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_samples": 8}, "8 samples, where the protocol has 1053"),
        ({"seeds": [0, 1]}, "sampling seeds 2, where the protocol has 1"),
        ({"scoring": {"clip": "ViT-L-14"}}, "clip ViT-L-14, where the protocol has ViT-B-32-quickgelu"),
        ({"metrics": {"l1_target": {"value": 1.0, "n": 1, "skipped": {"no_picture": 3}}}}, "no picture of 3 edits"),
        (
            {"metrics": {"clip_text_similarity": {"value": 1.0, "n": 1, "skipped": {"no_caption": 2}}}},
            "clip_text_similarity has no value of 2 edits (no_caption)",
        ),
    ],
)
def test_what_differs_is_told(changes: dict[str, Any], told: str) -> None:
    protocol = read_protocol("magicbrush")
    changed = dict(changes)
    if "scoring" in changed:
        changed["scoring"] = vars(protocol.parts[0].scoring) | changed["scoring"]
    assert deviations(protocol, protocol.parts[0], report(protocol, **changed)) == [told]


def test_what_a_paper_leaves_open_is_a_deviation_too() -> None:
    protocol = read_protocol("mgie")
    (told,) = deviations(protocol, protocol.parts[0], report(protocol))
    assert told.startswith("the paper does not say: which CLIP")
    protocol = read_protocol("instruct_any2pix")
    assert deviations(protocol, protocol.parts[0], report(protocol, num_samples=3, limit=3))[1] == (
        "the first 3 samples alone"
    )

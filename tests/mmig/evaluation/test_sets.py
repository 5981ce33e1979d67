"""Distances of whole sets: the same for any batch size and number of ranks, with intervals, and no hidden losses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console
from torch import Tensor, nn

from mmig.base.files import write_json_lines
from mmig.editor import EditOutput
from mmig.evaluation.report import build_report, edit_type_table, metric_table
from mmig.evaluation.rows import SampleRow, read_rows
from mmig.evaluation.runner import EvaluationResult, evaluate_editor
from mmig.evaluation.sets import set_values, stacked, summarise_sets
from mmig.metrics.set_features import NetworkFeatures
from mmig.metrics.sets import FrechetDistance
from mmig.metrics.suite import MetricSuite
from tests.mmig.evaluation.support import NoisyCopy, batches, pick
from tests.mmig.metrics.support import random_batch

NAMES = ["fid", "kid"]


class Patches(nn.Module):
    """Features small enough for few samples: the means of the upper and the lower half, by colour."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, (2, 1)).flatten(1)


def suite(*names: str) -> MetricSuite:
    return MetricSuite(names or NAMES, features=NetworkFeatures(Patches(), lambda images: images, {"name": "patches"}))


def evaluate(batch: dict[str, Any], size: int, seeds: tuple[int, ...] = (0, 1)) -> EvaluationResult:
    return evaluate_editor(NoisyCopy(), batches(batch, size), suite(), seeds)


def numbers(scored: dict[str, Any]) -> list[float]:
    return [scored[name] for name in ("value", "low", "high", "n")]


def test_neither_batch_size_nor_order_changes_a_distance_or_its_interval() -> None:
    batch = random_batch(8)
    first = summarise_sets(evaluate(batch, 8).rows, suite().sets)
    for other in (evaluate(batch, 3), evaluate(batch, 1), evaluate(pick(batch, [6, 2, 0, 5, 1, 3, 7, 4]), 3)):
        found = summarise_sets(other.rows, suite().sets)
        for name in NAMES:
            assert numbers(found[name]) == pytest.approx(numbers(first[name]), rel=1e-4)


def test_the_value_is_the_mean_over_seeds_of_the_distance_to_the_targets() -> None:
    rows = evaluate(random_batch(8), 3).rows
    targets, edited = stacked(rows)
    assert (targets.shape, edited.shape) == ((8, 6), (2, 8, 6))
    expected = np.mean([FrechetDistance().distance(targets, edited[seed]) for seed in (0, 1)])
    assert summarise_sets(rows, suite().sets)["fid"]["value"] == pytest.approx(expected)
    assert set_values(rows, suite().sets)["fid"] == pytest.approx(expected)


def test_the_interval_holds_the_value_and_is_the_same_each_time() -> None:
    rows = evaluate(random_batch(12), 4).rows
    one, other = (summarise_sets(rows, suite().sets) for _ in range(2))
    assert one == other != summarise_sets(rows, suite().sets, seed=1)
    for name in NAMES:
        assert one[name]["low"] < one[name]["value"] < one[name]["high"]
        assert one[name]["n"] == 12


def drawn(seed: int) -> list[SampleRow]:
    """A set of 200 samples whose edited images lie near their targets, drawn anew for each seed."""
    random = np.random.default_rng(seed)
    targets = random.normal(size=(200, 4))
    edited = 0.6 * targets + 0.9 * random.normal(size=(200, 4)) + 0.4
    pairs = zip(edited, targets, strict=True)
    return [SampleRow(f"{row:03d}", 0, "", {}, features={"edited": y, "target": g}) for row, (y, g) in enumerate(pairs)]


@pytest.mark.parametrize("name", NAMES)
def test_the_interval_is_as_wide_as_the_spread_over_sets_drawn_anew(name: str) -> None:
    metrics = {name: suite().sets[name]}
    values = [set_values(drawn(seed), metrics)[name] for seed in range(60)]
    low, high = np.quantile(values, [0.025, 0.975])
    found = [summarise_sets(drawn(seed), metrics)[name] for seed in range(4)]
    width = np.mean([interval["high"] - interval["low"] for interval in found])
    assert 0.7 < width / (high - low) < 1.5
    assert sum(interval["low"] < np.mean(values) < interval["high"] for interval in found) >= 3


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    own = pick(random_batch(8), [0, 1, 2, 3, 4, 5] if rank == 0 else [6, 7, 0])  # uneven, and one sample on both ranks
    found = summarise_sets(evaluate(own, 2).rows, suite().sets)
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_two_real_ranks_with_uneven_data_and_a_duplicate_find_what_one_finds(tmp_path: Path) -> None:
    mp.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    alone = summarise_sets(evaluate(random_batch(8), 8).rows, suite().sets)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        for name in NAMES:
            assert numbers(found[name]) == pytest.approx(numbers(alone[name]), rel=1e-4)


class Lossy(NoisyCopy):
    """Gives no picture of the first sample and a broken one of the second."""

    def __call__(self, batch: Any, generator: Any) -> EditOutput:
        output = super().__call__(batch, generator)
        output.images[1] = float("nan")
        output.extras["missing"] = [True] + [False] * (len(batch["key"]) - 1)
        return output


def test_what_has_no_part_in_a_set_is_counted_by_reason_and_left_out_for_every_seed() -> None:
    batch = random_batch(7)
    batch["has_target"][2] = False
    rows = evaluate_editor(Lossy(), batches(batch, 7), suite(), (0, 1)).rows
    found = summarise_sets(rows, suite().sets)["fid"]
    assert found["skipped"] == {"no_picture": 2, "no_target": 2, "not_finite": 2}
    assert found["n"] == 4


def test_one_sample_has_no_distance_and_a_dash_in_the_table() -> None:
    scored = suite("l1_input", "fid")
    result = evaluate_editor(NoisyCopy(), batches(random_batch(1), 1), scored, (0,))
    report = build_report(result, scored, {})
    assert (report["metrics"]["fid"]["value"], report["metrics"]["fid"]["n"]) == (None, 1)
    assert set_values(result.rows, scored.sets) == {}
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(metric_table(report), edit_type_table(report))
    line = next(line for line in capture.get().splitlines() if "fid" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["fid ↓", "-", "1", "-"]


def test_sets_alone_have_a_report_without_edit_types() -> None:
    result = evaluate(random_batch(4), 2)
    report = build_report(result, suite(), {})
    assert list(report["metrics"]) == NAMES
    assert report["features"] == {"name": "patches", "precision": "fp32"}
    assert edit_type_table(report) is None


def test_features_are_in_no_file(tmp_path: Path) -> None:
    rows = evaluate(random_batch(2), 2).rows
    write_json_lines(tmp_path / "samples.jsonl", [row.to_dict() for row in rows])
    assert "features" not in (tmp_path / "samples.jsonl").read_text()
    assert read_rows(tmp_path / "samples.jsonl") == rows

import dataclasses
from collections import Counter
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from datamodules.sources import Source
from mmig.base.files import write_json_lines
from mmig.editor import EditOutput, MissingFieldError
from mmig.evaluation.data import SplitBatches, split_batches
from mmig.evaluation.rows import SampleRow, by_key, deduplicate, read_rows, tell_apart
from mmig.evaluation.runner import EvaluationResult, evaluate_editor
from mmig.evaluation.summary import compare, summarise
from mmig.metrics.suite import MetricSuite
from mmig.run.precision import running
from tests.mmig.evaluation.support import BrightJudge, NoisyCopy, batches, pick, random_samples, write_data
from tests.mmig.metrics.support import random_batch

NAMES = ["l1_target", "ssim_target", "success"]


def evaluate(batch: dict[str, Any], size: int, seeds: tuple[int, ...] = (0, 1), **options: Any) -> EvaluationResult:
    suite = MetricSuite(NAMES, judge=BrightJudge())
    return evaluate_editor(NoisyCopy(), batches(batch, size), suite, seeds, **options)


def test_one_row_a_key_and_seed() -> None:
    result = evaluate(random_batch(5), 2)
    assert [(row.key, row.seed) for row in result.rows] == sorted(
        (k, s) for k in random_batch(5)["key"] for s in (0, 1)
    )


def test_results_do_not_depend_on_batch_size_or_order() -> None:
    batch = random_batch(7)
    first = evaluate(batch, 7)
    for other in (evaluate(batch, 3), evaluate(pick(batch, [6, 2, 0, 5, 1, 3, 4]), 2)):
        assert [row.key for row in other.rows] == [row.key for row in first.rows]
        for ours, theirs in zip(first.rows, other.rows, strict=True):
            assert ours.values == pytest.approx(theirs.values, abs=1e-6)


def test_the_editor_alone_works_in_the_given_context() -> None:
    seen: list[tuple[str, bool]] = []

    class Watching(NoisyCopy):
        def __call__(self, *given: Any) -> EditOutput:
            seen.append(("editor", torch.is_autocast_enabled("cpu")))
            return super().__call__(*given)

    class Judge(BrightJudge):
        def __call__(self, *given: Any) -> dict[str, float]:
            seen.append(("judge", torch.is_autocast_enabled("cpu")))
            return super().__call__(*given)

    suite, context = MetricSuite(NAMES, judge=Judge()), partial(running, torch.device("cpu"), "bf16-mixed")
    evaluate_editor(Watching(), batches(random_batch(3), 2), suite, (0,), context=context)
    assert set(seen) == {("editor", True), ("judge", False)}


def test_what_is_told_of_an_edit_counts_where_it_has_no_picture_and_seconds_are_told_of_each() -> None:
    class Skips(NoisyCopy):
        def __call__(self, *given: Any) -> EditOutput:
            output = super().__call__(*given)
            return dataclasses.replace(output, extras={"missing": [True, False], "inversion_error": [0.5, 0.25]})

    paths = ["mmig.methods.styleclip.metric.InversionError", "mmig.metrics.measures.EditSeconds"]
    suite = MetricSuite(["l1_target", *paths])
    rows = evaluate_editor(Skips(), batches(random_batch(2), 2), suite).rows
    assert [row.values["inversion_error"] for row in rows] == [0.5, 0.25]
    assert [row.skipped for row in rows] == [{"l1_target": "no_picture"}, {}]
    assert rows[0].values["edit_seconds"] == rows[1].values["edit_seconds"] > 0
    assert suite.compute()["inversion_error"] == 0.375
    assert suite.compute()["l1_target"] == rows[1].values["l1_target"]


def test_seeds_give_different_edits() -> None:
    rows = evaluate(random_batch(1), 1).rows
    assert rows[0].values["l1_target"] != rows[1].values["l1_target"]


def test_repeated_samples_count_once() -> None:
    batch = random_batch(4)
    padded = pick(batch, [0, 1, 2, 3, 0, 1])
    result = evaluate(padded, 3)
    assert result.num_duplicates == 4
    assert result.rows == evaluate(batch, 4).rows


def test_samples_of_several_sources_that_share_their_keys_all_count(tmp_path: Path) -> None:
    samples = random_samples(4)
    halves = [[{**sample, "key": f"s{row}"} for row, sample in enumerate(samples[start:][:2])] for start in (0, 2)]
    folders = [str(tmp_path / str(number)) for number in (0, 1)]
    for half, folder in zip(halves, folders, strict=True):
        write_shards(half, Path(folder))

    def scored(test: str | list[Source]) -> EvaluationResult:
        batches = ShardData(test=test, eval_batch_size=3).test_dataloader()
        return evaluate_editor(NoisyCopy(), batches, MetricSuite(["l1_target"]), (0, 1))

    expected = {(row.key, row.seed): row.values for row in scored(folders[0]).rows}
    expected |= {(f"{row.key}.2", row.seed): row.values for row in scored(folders[1]).rows}
    result = scored([Source(folder) for folder in folders])
    assert len(expected) == 8 and result.num_duplicates == 0
    assert {(row.key, row.seed): row.values for row in result.rows} == expected


def test_unreadable_samples_are_left_out_and_faults_counted() -> None:
    batch = random_batch(4)
    batch["key"][1] = ""
    batch["has_source"][1] = False
    given = [{**part, "faults": [{"reason": "truncated", "shard": "a", "key": "b"}]} for part in batches(batch, 2)]
    result = evaluate_editor(NoisyCopy(), given, MetricSuite(["l1_target"]), (0,))
    assert len(result.rows) == 3
    assert result.faults == {"truncated": 2}


@pytest.mark.parametrize("limit", [1, 2, 7, None])
def test_ranks_find_together_what_one_finds_and_their_progress_ends_at_its_total(
    tmp_path: Path, limit: int | None
) -> None:
    samples = random_samples(11)
    samples[3]["source"] = samples[6]["source"] = b"\x89PNG\r\n\x1a\n, and no picture"
    data = write_data(tmp_path, samples, max_bad_fraction=1.0)

    def part(rank: int, world_size: int) -> EvaluationResult | None:
        batches, done = split_batches(data, "test", limit=limit), [0]
        batches = SplitBatches(batches.loader, rank, world_size, limit)
        if batches.num_samples == 0:
            assert all(not batch["key"] and not batch["faults"] for batch in batches)
            return None
        suite = MetricSuite(["l1_target"])
        result = evaluate_editor(NoisyCopy(), batches, suite, (0, 1), progress=done.append)
        assert sum(done) == 2 * batches.num_samples
        return result

    one = part(0, 1)
    for world_size in (2, 3):
        found = [result for rank in range(world_size) if (result := part(rank, world_size))]
        rows, _ = deduplicate(row for result in found for row in result.rows)
        assert [(row.key, row.seed) for row in rows] == [(row.key, row.seed) for row in one.rows]
        for ours, theirs in zip(rows, one.rows, strict=True):
            assert ours.values == pytest.approx(theirs.values, abs=1e-6)
        assert sum((Counter(result.faults) for result in found), Counter()) == one.faults


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("limit", [1, 4, 7, 8, None])
def test_a_loader_that_cannot_be_parted_is_cut_before_the_ranks_share_it_and_a_fault_counts_once(
    limit: int | None, world_size: int
) -> None:
    data = [{**part, "faults": [{"reason": "image"}]} for part in batches(random_batch(8), 3)]
    found = [list(SplitBatches(data, rank, world_size, limit)) for rank in range(world_size)]
    keys = [key for of_rank in found for batch in of_rank for key in batch["key"]]
    assert sorted(keys) == random_batch(8)["key"][:limit]
    assert sum(len(batch["faults"]) for batch in chain(*found)) == len(found[0])
    assert len({len(of_rank) for of_rank in found}) == 1


@pytest.mark.parametrize("limit", [1, 4, 7, 8, 40])
def test_of_a_trainers_loader_that_cannot_be_parted_each_rank_takes_its_share(limit: int) -> None:
    parts = [list(batches(pick(random_batch(8), range(rank, 8, 2)), 3)) for rank in (0, 1)]
    found = [list(SplitBatches(part, rank, 2, limit, is_shared=True)) for rank, part in enumerate(parts)]
    assert sorted(key for batch in chain(*found) for key in batch["key"]) == random_batch(8)["key"][:limit]
    assert len(found[0]) == len(found[1])  # others wait for a rank before each batch


def test_a_missing_field_is_named() -> None:
    batch = random_batch(3)
    batch["has_source"][1] = False
    with pytest.raises(MissingFieldError, match="'sample0-001': NoisyCopy needs the field 'source'"):
        evaluate(batch, 3)


def test_no_sample_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="found none"):
        evaluate_editor(NoisyCopy(), [], MetricSuite(["l1_target"]))


def test_examples_show_every_edit_type() -> None:
    batch = random_batch(12)
    batch["edit_type"] = ["add"] * 10 + ["style", "visual"]
    shown = evaluate(batch, 5, (0,), num_examples=3).examples
    assert sorted(example.edit_type for example in shown) == ["add", "style", "visual"]


def test_examples_of_a_single_edit_type_are_as_many_as_asked_for() -> None:
    batch = random_batch(12)
    batch["edit_type"] = ["outline"] * 12
    assert len(evaluate(batch, 5, (0,), num_examples=8).examples) == 8


def test_an_attached_picture_that_is_needed_and_not_there_is_named() -> None:
    class Needy(NoisyCopy):
        required_fields = ("attachment_images",)

    batch = random_batch(3)
    batch["has_attachment_images"] = torch.tensor([[True, False], [False, True], [False, False]])
    with pytest.raises(MissingFieldError, match="'sample0-002': Needy needs the field 'attachment_images'"):
        evaluate_editor(Needy(), batches(batch, 3), MetricSuite(["l1_target"]))


def test_seeds_of_a_sample_are_averaged_before_anything_else() -> None:
    rows = [SampleRow("a", 0, "", {"x": 0.0}), SampleRow("a", 1, "", {"x": 1.0}), SampleRow("b", 0, "", {"x": 2.0})]
    assert by_key(rows, "x") == {"a": 0.5, "b": 2.0}
    assert summarise(rows)["x"]["n"] == 2


def test_skips_are_counted_by_reason_and_type() -> None:
    rows = [
        SampleRow("a", 0, "add", {"x": None}, {"x": "zero_text_direction"}),
        SampleRow("b", 0, "add", {"x": 1.0}),
        SampleRow("c", 0, "move", {"x": 3.0}),
    ]
    summary = summarise(rows)["x"]
    assert (summary["value"], summary["n"], summary["skipped"]) == (2.0, 2, {"zero_text_direction": 1})
    assert summary["per_edit_type"]["add"]["value"] == 1.0
    assert summary["per_edit_type"]["move"]["skipped"] == {}


def test_two_runs_are_compared_in_pairs() -> None:
    batch = random_batch(6)
    noisy = evaluate(batch, 6).rows
    suite = MetricSuite(NAMES, judge=BrightJudge())
    noisier = evaluate_editor(NoisyCopy(0.3), batches(batch, 6), suite, (0, 1)).rows
    difference = compare(noisier, noisy)["ssim_target"]
    expected = [a.values["ssim_target"] - b.values["ssim_target"] for a, b in zip(noisier, noisy, strict=True)]
    assert difference.value == pytest.approx(sum(expected) / len(expected))
    assert difference.n == 6


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [SampleRow("a", 0, "add", {"x": 1.5}, instruction="two\u2028lines"), SampleRow("b", 1, "", {"x": None})]
    write_json_lines(tmp_path / "samples.jsonl", [row.to_dict() for row in rows])
    assert read_rows(tmp_path / "samples.jsonl") == rows


def test_a_foreign_file_of_rows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"key": "a"}\n')
    with pytest.raises(ValueError, match=r"samples\.jsonl, line 1"):
        read_rows(path)


def _rank(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world_size)
    batch = random_batch(7)
    own = pick(batch, [0, 1, 2, 3, 4] if rank == 0 else [5, 6, 0])  # uneven, and one sample on both ranks
    result = evaluate(own, 2)
    suite = MetricSuite(["l1_target"])
    for part in batches(own, 2):
        suite.update(suite.bank(part, part["source"]))
    torch.save(
        ([dataclasses.asdict(row) for row in result.rows], result.num_duplicates, suite.compute()),
        f"{folder}/rank{rank}.pt",
    )
    dist.destroy_process_group()


def test_two_real_ranks_with_uneven_data_find_what_one_finds(tmp_path: Path) -> None:
    mp.start_processes(_rank, (2, str(tmp_path)), nprocs=2, start_method="fork")  # imports are done already
    alone = evaluate(random_batch(7), 7).rows
    (rows, num_duplicates, means), (other_rows, _, other_means) = (
        torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert rows == other_rows
    assert num_duplicates == 2
    assert [row["key"] for row in rows] == [row.key for row in alone]
    for ours, theirs in zip(alone, rows, strict=True):
        assert ours.values == pytest.approx(theirs["values"], abs=1e-6)
    suite = MetricSuite(["l1_target"])  # the metric's own state reduces over ranks too
    for part in batches(pick(random_batch(7), [0, 1, 2, 3, 4, 5, 6, 0]), 8):
        suite.update(suite.bank(part, part["source"]))
    assert means == other_means == pytest.approx(suite.compute())


def test_a_stand_in_never_takes_the_place_of_the_sample_whose_key_it_has() -> None:
    stand_in, first, second = (SampleRow("a", 0, "", {"x": value}) for value in (2.0, 1.0, 2.0))
    rows, num_dropped = deduplicate(tell_apart([(None, stand_in), (5, second), (3, first)]))
    assert [(row.key, row.values["x"]) for row in rows] == [("a", 1.0), ("a.2", 2.0)]
    assert num_dropped == 1
    assert tell_apart([(None, stand_in)]) == [stand_in]


def test_deduplication_keeps_the_first() -> None:
    rows = [SampleRow("b", 0, "", {"x": 1.0}), SampleRow("a", 0, "", {}), SampleRow("b", 0, "", {"x": 2.0})]
    unique, num_dropped = deduplicate(rows)
    assert [(row.key, row.values) for row in unique] == [("a", {}), ("b", {"x": 1.0})]
    assert num_dropped == 1

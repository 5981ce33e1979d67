"""What is kept of an evaluation that has not ended, and when it is of use."""

import logging
import math
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmig.evaluation.data import SplitBatches, split_batches
from mmig.evaluation.examples import places
from mmig.evaluation.identity import identity, stamp
from mmig.evaluation.kept import KeptPictures
from mmig.evaluation.rows import SampleRow
from mmig.evaluation.runner import evaluate_editor
from mmig.evaluation.samples_table import write_samples_table
from mmig.evaluation.unfinished import FOLDER, FinishedEdit, Unfinished, difference
from mmig.metrics.suite import MetricSuite
from tests.mmig.evaluation.support import NoisyCopy, batches, pick, random_samples, write_data
from tests.mmig.metrics.support import random_batch

FACTS = {"split": "test", "sampling": {"num_steps": 20}}


def edit(key: str, value: float | None = 0.1 + 0.2, seed: int = 0) -> FinishedEdit:
    return FinishedEdit(SampleRow(key, seed, "add", {"x": value}), place=int(key[-1]), position=int(key[-1]))


def test_an_edit_comes_back_as_it_was() -> None:
    generator = np.random.default_rng(0)
    row = SampleRow(
        "a/é\u2028b", 3, "add", {"x": 1 / 3, "y": None}, {"y": "not_finite"}, "two\nlines", "written", ["caption"]
    )
    row.features = {name: generator.normal(size=5).astype(np.float32) for name in ("edited", "target")}
    picture = generator.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    made = FinishedEdit(row, 7, None, picture)
    line = made.to_line()
    found = FinishedEdit.from_line(line.encode())
    assert line.count("\n") == 1 and line.isascii()
    assert found == made
    assert np.array_equal(found.picture, picture)
    for name, value in row.features.items():
        assert found.row.features[name].dtype == np.float32
        assert np.array_equal(found.row.features[name], value)


def test_not_a_number_comes_back_as_such() -> None:
    found = FinishedEdit.from_line(edit("a1", float("nan")).to_line().encode())
    assert math.isnan(found.row.values["x"])


def test_the_edits_of_all_ranks_are_there_for_the_same_facts(tmp_path: Path) -> None:
    assert Unfinished(tmp_path).begin(FACTS) == []
    for rank, key in enumerate(("a0", "a1", "a2")):
        Unfinished(tmp_path, rank).add([edit(key)])
    Unfinished(tmp_path, 1).add([edit("a3"), edit("a3", seed=1)])
    found = Unfinished(tmp_path).begin(dict(FACTS))
    assert sorted(one.identity for one in found) == [
        ("a0", 0, 0),
        ("a1", 1, 0),
        ("a2", 2, 0),
        ("a3", 3, 0),
        ("a3", 3, 1),
    ]


def test_those_of_other_facts_are_dropped_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Unfinished(tmp_path).begin(FACTS)
    Unfinished(tmp_path).add([edit("a0")])
    assert Unfinished(tmp_path).begin({**FACTS, "sampling": {"num_steps": 50}}) == []
    assert not Unfinished(tmp_path).has_edits
    assert "sampling.num_steps was 20 and is 50" in caplog.text


def test_a_half_written_last_line_is_cut_off_so_that_the_next_one_is_whole(tmp_path: Path) -> None:
    unfinished = Unfinished(tmp_path)
    unfinished.begin(FACTS)
    unfinished.add([edit("a0"), edit("a1")])
    path = tmp_path / FOLDER / "0.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert unfinished.begin(FACTS) == [edit("a0")]
    unfinished.add([edit("a2")])
    assert unfinished.begin(FACTS) == [edit("a0"), edit("a2")]


def test_a_difference_names_the_fact_and_both_values() -> None:
    assert difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b was 1 and is 2"
    assert difference({"a": 1}, {"a": 1, "c": "x"}) == "c was not there and is x"
    assert difference({"a": 1, "c": "x"}, {"a": 1}) == "c was x and is not there"
    assert difference({"a": "x" * 200}, {"a": "y"}) == f"a was {'x' * 57}... and is y"


def test_batches_do_not_count_in_the_identity_and_changed_files_do(tmp_path: Path) -> None:
    checkpoint = tmp_path / "step.ckpt"
    checkpoint.write_bytes(b"weights")

    def of(**arguments: object) -> dict[str, object]:
        facts = {"checkpoint": str(checkpoint), "data": {"class_path": "a.B", "init_args": arguments}, "command": "x"}
        suite = MetricSuite(["l1_target"])
        more = {"seeds": [0], "keep_pictures": 0, "data_fingerprint": "f", "out": tmp_path}
        return identity(facts, suite, **more)

    first = of(test="folder", eval_batch_size=2)
    assert first == of(test="folder", eval_batch_size=5, num_workers=3)
    assert difference(first, of(test="other")) == "data.init_args.test was folder and is other"
    os.utime(checkpoint, (1, 1))
    assert difference(first, of(test="folder")).startswith(f"files.{checkpoint} was ")


def test_of_a_folder_the_evaluation_that_lies_in_it_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"1")
    before = stamp(tmp_path, tmp_path / "evaluation")
    Unfinished(tmp_path / "evaluation").begin(FACTS)
    Unfinished(tmp_path).begin(FACTS)
    assert stamp(tmp_path, tmp_path / "evaluation") == before
    (tmp_path / "weights").write_bytes(b"22")
    assert stamp(tmp_path, tmp_path / "evaluation") != before


def test_pictures_that_are_in_their_place_already_come_back_when_the_report_is_made_again(tmp_path: Path) -> None:
    batch = {**random_batch(2), "number": [0, 1]}
    pictures = KeptPictures(tmp_path, 5)
    pictures.begin(resumed=False)
    rows = evaluate_editor(NoisyCopy(), [batch], MetricSuite(["l1_target"]), on_pictures=pictures).rows
    pictures.finish(rows)
    before = {path: path.read_bytes() for path in (tmp_path / "pictures").rglob("*.png")}
    again = KeptPictures(tmp_path, 5)
    again.begin(resumed=True)
    again.finish(rows)
    assert {path: path.read_bytes() for path in (tmp_path / "pictures").rglob("*.png")} == before != {}


def test_a_picture_that_was_half_written_does_not_stay(tmp_path: Path) -> None:
    pictures = KeptPictures(tmp_path, 5)
    pictures.begin(resumed=False)
    half = tmp_path / ".pictures.part" / "source" / ".a.123.png"
    half.parent.mkdir()
    half.write_bytes(b"half")
    KeptPictures(tmp_path, 5).begin(resumed=True)
    assert not half.exists()


@pytest.mark.parametrize("size", [1, 3, 8])
def test_what_is_finished_is_read_but_not_edited_and_the_rest_is_as_before(size: int) -> None:
    batch, suite, kept = random_batch(8), MetricSuite(["l1_target"]), []
    given = [{**part, "number": part["position"].tolist()} for part in batches(batch, 3)]
    whole = evaluate_editor(NoisyCopy(), given, suite, (0, 1), on_edits=kept.extend, num_examples=2)
    finished = [FinishedEdit.from_line(one.to_line().encode()) for one in kept[::2]]
    edited: list[int] = []
    parts = [{**part, "number": part["position"].tolist()} for part in batches(batch, size)]
    again = evaluate_editor(
        NoisyCopy(), parts, suite, (0, 1), finished=finished, progress=edited.append, num_examples=2
    )
    assert sum(edited) == 16 - len(finished)
    assert again.num_duplicates == whole.num_duplicates == 0
    for ours, theirs in zip(again.rows, whole.rows, strict=True):
        assert ours.values == pytest.approx(theirs.values, abs=1e-6)
    assert [example.key for example in again.examples] == [example.key for example in whole.examples]
    for ours, theirs in zip(again.examples, whole.examples, strict=True):
        assert np.array_equal(ours.edited, theirs.edited) and np.array_equal(ours.source, theirs.source)


def test_duplicates_count_as_often_as_they_were_read_also_after_a_resume() -> None:
    batch, suite, kept = pick(random_batch(4), [0, 1, 2, 3, 0, 1]), MetricSuite(["l1_target"]), []
    whole = evaluate_editor(NoisyCopy(), batches(batch, 3), suite, on_edits=kept.extend)
    again = evaluate_editor(NoisyCopy(), batches(batch, 3), suite, finished=kept[:3])
    assert again.num_duplicates == whole.num_duplicates == 2
    assert again.rows == whole.rows


def test_the_table_holds_what_the_lines_hold(tmp_path: Path) -> None:
    rows = [
        SampleRow("a", 0, "add", {"l1_target": 0.25, "text": 1.0}, instruction="do", text="done"),
        SampleRow("a", 1, "", {"l1_target": None, "text": 2.0}, {"l1_target": "no_target"}),
    ]
    report = {"data": {"config": "configs/data/plain.yaml", "class_path": "a.B"}, "split": "val"}
    write_samples_table(tmp_path / "samples.parquet", "mine", report, rows)
    table = pq.read_table(tmp_path / "samples.parquet")
    named = {"system": "mine", "dataset": "plain", "split": "val"}
    first = {"key": "a", "seed": 0, "edit_type": "add", "l1_target": 0.25, "metric_text": 1.0}
    second = {"key": "a", "seed": 1, "edit_type": "", "l1_target": None, "metric_text": 2.0}
    assert table.to_pylist() == [
        {**named, **first, "instruction": "do", "text": "done"},
        {**named, **second, "instruction": "", "text": ""},
    ]
    assert [str(table.schema.field(name).type) for name in ("key", "seed", "l1_target")] == [
        "string",
        "int64",
        "double",
    ]


def test_a_seeds_generator_is_that_of_the_sample_whatever_is_left_of_a_batch() -> None:
    seen: list[dict[str, int]] = []

    class Watching(NoisyCopy):
        def __call__(self, batch, generator):  # type: ignore[no-untyped-def]
            seen.append({key: of.initial_seed() for key, of in zip(batch["key"], generator, strict=True)})
            return super().__call__(batch, generator)

    kept: list[FinishedEdit] = []
    suite = MetricSuite(["l1_target"])
    evaluate_editor(Watching(), batches(random_batch(4), 4), suite, on_edits=kept.extend)
    evaluate_editor(Watching(), batches(random_batch(4), 4), suite, finished=[kept[0], kept[2]])
    left = {key: seed for key, seed in seen[0].items() if key in (kept[1].row.key, kept[3].row.key)}
    assert seen[1] == left


@pytest.mark.parametrize(("world_size", "limit"), [(1, None), (2, None), (3, 7)])
def test_a_rank_knows_its_places_before_it_reads(world_size: int, limit: int | None, tmp_path: Path) -> None:
    data = write_data(tmp_path, random_samples(8))
    for rank in range(world_size):
        part = SplitBatches(split_batches(data, "test").loader, rank, world_size, limit)
        known = part.places
        assert known == {place for batch in part for place in places(batch)}
        assert len(known) == part.num_samples


def test_places_of_a_loader_that_cannot_be_parted_are_those_of_the_split() -> None:
    given = list(batches(random_batch(8), 3))
    parts = [SplitBatches(given, rank, 2, 7) for rank in (0, 1)]
    found = {
        place: key for part in parts for batch in part for place, key in zip(places(batch), batch["key"], strict=True)
    }
    assert [part.places for part in parts] == [None, None]
    assert found == dict(enumerate(random_batch(8)["key"][:7]))


def test_half_removed_pictures_of_an_earlier_evaluation_never_lie_under_their_name(tmp_path: Path) -> None:
    batch = {**random_batch(2), "number": [0, 1]}
    for _ in range(2):
        pictures = KeptPictures(tmp_path, 5)
        pictures.begin(resumed=False)
        rows = evaluate_editor(NoisyCopy(), [batch], MetricSuite(["l1_target"]), on_pictures=pictures).rows
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mmig.evaluation.kept.shutil.rmtree", lambda *_, **__: None)  # killed before it
            pictures.finish(rows)
        assert KeptPictures(tmp_path, 5).folder.is_dir()

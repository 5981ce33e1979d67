"""Shards out of shards: killed and resumed, on several ranks, with answers from elsewhere, and on bad input."""

import io
import json
import os
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datamodules.decode import decode
from datamodules.schema import Outcome
from datamodules.shard_index import ShardIndex
from datamodules.shard_reader import ShardReader
from datamodules.shards import map_shards, verify, write_shards
from mmig.cache.map import Answered, AnswerError
from mmig.run.map import main
from tests.datamodules.make_samples import make_image, make_samples
from tests.mmig.cache.toy_mappers import Describer, Painter, Picky, Silent, Splitter

HERE = "tests.mmig.cache.toy_mappers"
COUNT, EACH = 22, 4


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    make_image(seed).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards whose sources are JPEGs; the targets of two samples cannot be read."""
    samples: list[Any] = [sample | {"source": jpeg(number)} for number, sample in enumerate(make_samples(COUNT))]
    samples[5]["target"] = b"\x89PNG cut off"
    samples[9]["target"] = make_image(1).resize((16, 8))  # of another shape: the stream would refuse it
    folder = tmp_path_factory.mktemp("map") / "source"
    write_shards(samples, folder, EACH)
    return folder


def config(folder: Path, name: str, **arguments: Any) -> Path:
    path = folder / f"{name}-{len(list(folder.glob('*.yaml')))}.yaml"
    section = {"class_path": f"{HERE}.{name}", "init_args": arguments}
    path.write_text(yaml.safe_dump({"mapper": section, "batch_size": 3}))
    return path


def options(source: Path, out: Path, config: Path, *more: str) -> list[str]:
    return ["--config", str(config), "--source", str(source), "--out", str(out), *more]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def samples_in(folder: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    index = ShardIndex.load(folder)
    reader = ShardReader(index)
    for shard, row in enumerate(index.shards):
        for number in range(row.count):
            yield reader.key(shard, number), {name: bytes(data) for name, data in reader.read(shard, number).items()}


def started(arguments: list[str], rank: int = 0, num_ranks: int = 1) -> ForkProcess:
    """The command in a process of its own: a fork, which has imported everything."""

    def run() -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
        torch.set_num_threads(torch.get_num_threads())  # makes the thread pool anew
        main(arguments)

    process = get_context("fork").Process(target=run)
    process.start()
    return process


def ended(process: ForkProcess) -> int | None:
    """Its exit status, -9 after a kill -9."""
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def described(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one undisturbed process makes, and its answers in answers.jsonl beside."""
    folder = tmp_path_factory.mktemp("described")
    record = str(folder / "answers.jsonl")
    main(options(source, folder / "out", config(folder, "Describer"), "--record", record))
    return folder / "out"


def test_none_one_or_several_samples_come_of_each_in_order(source: Path, tmp_path: Path) -> None:
    report = map_shards(source, tmp_path, Splitter(), {}, batch_size=3)
    keys = [key for key, _ in samples_in(tmp_path)]
    good = [number for number in range(COUNT) if number not in (5, 9)]
    names = [[], ["{:06d}"], ["{:06d}-0", "{:06d}-1"]]
    assert keys == [name.format(number) for number in good for name in names[number % 3]]
    assert verify(tmp_path) == []
    dropped = report["splits"][""]["dropped"]
    assert dropped == {"format": 1, "nothing": 8}  # among them 000009, whose shape nobody has seen then
    attached = next(files for key, files in samples_in(tmp_path) if key.endswith("-1"))
    assert decode("a", attached)["attachments"][0]["data"].size == (8, 8)


def test_a_mapper_may_say_why_it_makes_no_sample(source: Path, tmp_path: Path) -> None:
    report = map_shards(source, tmp_path / "said", Picky(), {})
    silent = map_shards(source, tmp_path / "silent", Splitter(), {})
    assert report["splits"][""] == silent["splits"][""]
    said = [entry["detail"] for entry in report["findings"] if entry["reason"] == "nothing"]
    assert said[:2] == ["number 0 is not to my taste", "number 3 is not to my taste"]
    assert {entry["detail"] for entry in silent["findings"] if entry["reason"] == "nothing"} == {
        "the mapper made no sample of it"
    }


def test_a_mapper_may_count_samples_by_a_word_and_what_is_in_them(source: Path, tmp_path: Path) -> None:
    def odd(samples: Any) -> list[Outcome]:
        numbers = [sample["metadata"]["number"] for sample in samples]
        return [
            Outcome([sample] if number % 2 else (), "even", f"{number} is even", {"digits": len(str(number))})
            for sample, number in zip(samples, numbers, strict=True)
        ]

    report = map_shards(source, tmp_path, odd, {}, batch_size=3)
    totals, read = report["splits"][""], [number for number in range(COUNT) if number != 5]
    assert totals["dropped"] == {"format": 1, "nothing: even": COUNT // 2, "size": 1}
    assert totals["counted"] == {"digits": sum(len(str(number)) for number in read)}
    assert {"nothing: even": "0 is even"}.items() <= {
        entry["reason"]: entry["detail"] for entry in reversed(report["findings"])
    }.items()


def test_images_that_stay_keep_their_bytes_and_those_that_were_drawn_into_do_not(source: Path, tmp_path: Path) -> None:
    before = dict(samples_in(source))
    map_shards(source, tmp_path / "same", Splitter(), {})
    for key, files in samples_in(tmp_path / "same"):
        original = before[key.partition("-")[0]]
        assert files["source.jpg"] == original["source.jpg"] and files["target.png"] == original["target.png"]
    map_shards(source, tmp_path / "drawn", Painter(), {})
    for key, files in samples_in(tmp_path / "drawn"):
        assert "source.jpg" not in files and files["target.png"] == before[key]["target.png"]
        assert decode(key, files)["source"].getpixel((0, 0)) == (1, 2, 3)


def test_bad_samples_are_counted_by_reason_and_named(described: Path) -> None:
    report = json.loads((described / "conversion.json").read_bytes())
    totals = report["splits"][""]
    assert (totals["items"], totals["shards"], totals["samples"]) == (6, 6, COUNT - 2)
    assert (totals["dropped"], totals["kept"]) == ({"format": 1, "size": 1}, {})
    assert {entry["item"] for entry in report["findings"]} == {"000005", "000009"}


def test_a_killed_one_goes_on_where_it_was_and_asks_nothing_twice(
    source: Path, described: Path, tmp_path: Path
) -> None:
    out, record = tmp_path / "out", tmp_path / "answers.jsonl"
    deadly = options(source, out, config(tmp_path, "Describer", fatal_at="000014"), "--record", str(record))
    assert ended(started(deadly)) == -9
    written = {tar: tar.stat().st_mtime_ns for tar in out.glob("*.tar")}
    assert len(written) == 3 and not (out / "index.json").exists()
    with record.open("ab") as file:
        file.write(b'{"key": "0000')  # what a kill in the middle of a line leaves
    main(options(source, out, config(tmp_path, "Describer"), "--record", str(record)))
    assert contents(out) == contents(described)
    assert {tar: tar.stat().st_mtime_ns for tar in written} == written
    assert record.read_bytes() == (described.parent / "answers.jsonl").read_bytes()
    assert len(record.read_text().splitlines()) == COUNT - 1


def test_ranks_that_come_one_after_the_other_give_the_bytes_of_one(
    source: Path, described: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, record = config(tmp_path, "Describer"), tmp_path / "answers.jsonl"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        assert not (tmp_path / "out" / "index.json").exists()
        monkeypatch.setenv("RANK", rank)
        main(options(source, tmp_path / "out", made, "--record", str(record)))
    assert contents(tmp_path / "out") == contents(described)
    lines = [(tmp_path / f"answers.0000{rank}.jsonl").read_text().splitlines() for rank in range(2)]
    assert sorted(lines[0] + lines[1]) == sorted((described.parent / "answers.jsonl").read_text().splitlines())


def test_two_ranks_at_once_one_of_which_is_killed_and_started_again(
    source: Path, described: Path, tmp_path: Path
) -> None:
    out, deadly = tmp_path / "out", config(tmp_path, "Describer", fatal_at="000014")  # in a shard of rank 1
    whole = config(tmp_path, "Describer")

    both = [started(options(source, out, deadly), rank, 2) for rank in range(2)]
    assert [ended(process) for process in both] == [0, -9]
    assert not (out / "index.json").exists()
    assert ended(started(options(source, out, whole), 1, 2)) == 0
    assert contents(out) == contents(described)


def test_replayed_answers_give_the_bytes_of_computed_ones_without_a_model(
    source: Path, described: Path, tmp_path: Path
) -> None:
    answers = (described.parent / "answers.jsonl").read_text().splitlines(keepends=True)
    parts = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for path, lines in zip(parts, (answers[:9], answers[8:]), strict=True):  # one line in both
        path.write_text("".join(reversed(lines)))
    made = config(tmp_path, "Describer", is_there=False)
    main(options(source, tmp_path / "out", made, "--replay", *map(str, parts)))
    assert contents(tmp_path / "out") == contents(described)
    with pytest.raises(SystemExit, match=r"^error: no model here to ask about 000010$"):
        main(options(source, tmp_path / "other", made, "--replay", str(parts[0])))


def test_other_facts_or_other_shards_are_refused_in_one_line(source: Path, described: Path, tmp_path: Path) -> None:
    word = "holds a conversion whose settings.facts.model is 'one', now it is 'two'"
    with pytest.raises(SystemExit, match=word):
        main(options(source, described, config(tmp_path, "Describer", model="two")))
    write_shards(make_samples(8), tmp_path / "others", EACH)
    with pytest.raises(SystemExit, match=r"whose items\. is \[6, '\w+'\], now it is \[2, '\w+'\]"):
        main(options(tmp_path / "others", described, config(tmp_path, "Describer")))
    with pytest.raises(SystemExit, match="there already; remove it or choose another --out"):
        main(options(tmp_path / "others", source, config(tmp_path, "Describer")))


def test_a_finished_one_is_left_alone(source: Path, described: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in described.rglob("*")}
    main(options(source, described, config(tmp_path, "Describer", is_there=False)))
    assert {path: path.stat().st_mtime_ns for path in described.rglob("*")} == before


def test_a_mapper_that_loses_samples_is_one_clear_line(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected samples for each of 4, found them for 3") as caught:
        map_shards(source, tmp_path, Silent(), {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"not json", "line 2: expected"),
        (b'{"key": "a"}', r"line 2: expected .*KeyError\('answer'\)"),
        (b'{"key": 3, "answer": 1}', "line 2: expected .*key 3"),
        (b"[1]", "line 2: expected"),
        (b"\xff\xfe", "line 2: expected"),
        (b'{"key": "000000", "answer": 2}', "line 2: another answer for '000000' than before"),
    ],
)
def test_a_broken_file_of_answers_is_one_clear_line(line: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_bytes(b'{"key": "000000", "answer": 1}\n' + line + b"\n")
    with pytest.raises(AnswerError, match=rf"answers\.jsonl, {found}") as caught:
        Answered(Describer(), [tmp_path / "answers.jsonl"])
    assert "\n" not in str(caught.value)


def test_answers_that_are_no_json_or_too_few_are_refused() -> None:
    class Odd(Describer):
        def answer(self, samples: Any) -> Any:
            return [{1, 2} for _ in samples] if self.model == "sets" else []

    (sample,) = make_samples(1)
    with pytest.raises(AnswerError, match=r"the answer for '000000': expected plain JSON, found \{1, 2\}"):
        Answered(Odd("sets"))([sample])
    with pytest.raises(AnswerError, match=r"Odd\.answer: expected one answer for each of 1 samples, found 0"):
        Answered(Odd())([sample])


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({}, "expected a section `mapper`"),
        ({"mapper": {"class_path": "fractions.Fraction"}}, "is no mapper: expected facts"),
        ({"mapper": {"class_path": f"{HERE}.Nobody"}}, "mapper: .*Nobody"),
        ({"mapper": {"class_path": f"{HERE}.Describer", "init_args": {"modell": "x"}}}, "modell.* it has model, fatal"),
        ({"mapper": {"class_path": f"{HERE}.Splitter"}, "batch_size": 0}, "batch_size: expected a whole number"),
        ({"mapper": {"class_path": f"{HERE}.Splitter"}, "batchsize": 2}, "found 'batchsize' beside them"),
    ],
)
def test_a_configuration_without_a_mapper_is_one_clear_line(
    written: dict[str, Any], found: str, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(written))
    with pytest.raises(SystemExit, match=f"^error: .*{found}") as stop:
        main(options(source, tmp_path / "out", tmp_path / "map.yaml"))
    assert "\n" not in str(stop.value.code) and not (tmp_path / "out").exists()


def test_answers_for_a_mapper_that_asks_nothing_and_shards_that_are_not_there_are_refused(
    source: Path, tmp_path: Path
) -> None:
    made = config(tmp_path, "Splitter")
    with pytest.raises(SystemExit, match="Splitter asks nothing"):
        main(options(source, tmp_path / "out", made, "--record", str(tmp_path / "a.jsonl")))
    with pytest.raises(SystemExit, match=r"index\.json: missing; write shards there"):
        main(options(tmp_path / "nowhere", tmp_path / "out", made))

"""U9: photographs through the whole data step, at least one a rule, with boxes from a file; bad input is one line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mmig.backbones.fetch import read_references
from mmig.methods.umm_diffusion.crop_rules import LOST
from mmig.methods.umm_diffusion.subject_crops import SubjectCrops, read_boxes
from mmig.methods.umm_diffusion.subjects import main
from mmig.methods.umm_diffusion.words import NO_SUBJECT, place_subjects
from mmig.run.map import main as map_by_config
from mmig.run.map import read_config
from tests.datamodules.convert.results import samples
from tests.mmig.methods.umm_diffusion.laion_like import (
    photograph,
    png,
    report_of,
    write_answers,
    write_laion,
)
from tests.mmig.methods.umm_diffusion.support import as_batch, module
from tests.tiny_fixtures import IMAGE_SIZE

ASTRONAUT, CHELSEA, MOON, HUBBLE = map(photograph, ("astronaut", "chelsea", "moon", "hubble_deep_field"))
FACE, ROCKET = (90.0, 0.0, 420.0, 500.5), (380.2, 0.0, 512.0, 300.0)
CASES: dict[str, tuple[np.ndarray, str | None, Any, str]] = {
    "small": (CHELSEA, "a cat", None, "resolution"),
    "silent": (ASTRONAUT, None, None, "no_caption"),
    "blank": (ASTRONAUT, " \n", None, "no_caption"),
    "unseen": (MOON, "the moon", [], "score"),
    "unsure": (MOON, "a clock", [("clock", 0.7, (0, 0, 512, 512))], "score"),
    "beside": (MOON, "a clock", [("clock", 0.9, (512, 0, 700, 512))], "outside"),
    "two": (ASTRONAUT, "a person", [("person", 0.9, FACE), ("person", 0.8, (430, 300, 512, 512))], "repeated"),
    "tiny": (ASTRONAUT, "a person", [("person", 0.9, (0, 0, 161, 162))], "area"),  # 26,082 of 26,214.4
    "unsaid": (ASTRONAUT, "an astronaut", [("person", 0.9, FACE)], "word_absent"),
    "plural": (ASTRONAUT, "persons", [("person", 0.9, FACE)], "word_absent"),
    "twice": (ASTRONAUT, "a person beside a person", [("person", 0.9, FACE)], "word_repeated"),
    "edge": (HUBBLE, "a boat", [("boat", 0.9, (0, 0, 200, 872))], "cut"),
    "one": (ASTRONAUT, "Portrait of a Person", [("person", 0.9, FACE), ("person", 0.6, ROCKET)], ""),
    "large": (ASTRONAUT, "a person", [("person", 0.9, (0, 0, 162, 162))], ""),  # 26,244 of 26,214.4
    "both": (
        ASTRONAUT,
        "A dog is under a tower",  # the paper's example, p = 2, 6
        [("tower", 0.8, ROCKET), ("dog", 0.9, FACE), ("cat", 0.99, (0, 0, 9, 9))],
        "",
    ),
}
"""Picture, caption, boxes and the rule that drops it; "" where it stays."""
WORDS = {"one": [4], "large": [2], "both": [2, 6]}
"""p: which words, counted from 1."""
CUTS = {"one": [FACE], "large": [(0, 0, 162, 162)], "both": [FACE, ROCKET]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards `source` and `out`, and boxes.jsonl; one picture is none, one is cut off."""
    folder = tmp_path_factory.mktemp("u9")
    entries = [(key, png(pixels), caption) for key, (pixels, caption, _, _) in CASES.items()]
    damaged = [("broken", png(ASTRONAUT)[:9000], "a person"), ("text", b"<html>", "a person")]
    write_laion(folder / "source", [entries[:8], [*entries[8:], *damaged]])
    write_answers(folder / "boxes.jsonl", {key: found for key, (_, _, found, _) in CASES.items() if found is not None})
    main([*options(folder), "--replay", str(folder / "boxes.jsonl")])
    return folder


def options(folder: Path, out: str = "out") -> list[str]:
    return ["--source", str(folder / "source"), "--out", str(folder / out)]


def spans(text: str) -> list[tuple[int, int]]:
    """Characters of the words of a text of words and blanks alone."""
    found, start = [], 0
    for word in text.split(" "):
        found.append((start, start + len(word)))
        start += len(word) + 1
    return found


def test_every_rule_drops_its_picture_and_the_report_counts_it(made: Path) -> None:
    report, reasons = report_of(made / "out"), [rule for _, _, _, rule in CASES.values() if rule]
    expected = {f"nothing: {rule}": reasons.count(rule) for rule in sorted(set(reasons))}
    assert report["dropped"] == {"format": 1, "image": 1, **expected} and report["samples"] == 3
    named = json.loads((made / "out/conversion.json").read_bytes())["findings"]
    by_key = {entry["item"]: entry["reason"] for entry in named}
    assert by_key == {
        **{key: f"nothing: {rule}" for key, (_, _, _, rule) in CASES.items() if rule},
        "broken": "image",
        "text": "format",
    }


def test_boxes_are_counted_by_the_rule_that_dropped_them(made: Path) -> None:
    counted = report_of(made / "out")["counted"]
    total = sum(len(found) for _, _, found, _ in CASES.values() if found)
    lost = {"score": 2, "outside": 1, "repeated": 2, "area": 2, "word_absent": 2, "word_repeated": 1, "cut": 1}
    assert counted == {"boxes": total, "subjects": 4, **{f"lost: {rule}": count for rule, count in lost.items()}}
    assert total == 4 + sum(lost.values()) and set(lost) < set(LOST)


def test_what_stays_is_the_picture_its_caption_and_rectangles_of_it(made: Path) -> None:
    found = samples(made / "out")
    assert found.keys() == WORDS.keys()
    for key, sample in found.items():
        pixels, caption, boxes, _ = CASES[key]
        assert sample["target_caption"] == caption and np.array_equal(np.asarray(sample["target"]), pixels)
        assert sample["metadata"]["url"] == f"https://example.org/{key}"
        for number, (word, box) in enumerate(zip(WORDS[key], CUTS[key], strict=True)):
            attached, about = sample["attachments"][number], sample["metadata"]["subjects"][number]
            assert (attached["kind"], attached["role"]) == ("image", "subject")
            assert tuple(attached["word"]) == spans(str(caption))[word - 1]
            left, top, right, bottom = int(box[0]), int(box[1]), int(np.ceil(box[2])), int(np.ceil(box[3]))
            assert np.array_equal(np.asarray(attached["data"]), pixels[top:bottom, left:right])
            share = (box[2] - box[0]) * (box[3] - box[1]) / 512**2
            assert about["box"] == list(box) and about["area"] == pytest.approx(share, abs=1e-4)
            assert (about["attachment"], about["inside"]) == (number, 1.0)
            assert (about["label"], about["score"]) in [(label, score) for label, score, _ in boxes]


def test_the_tokens_that_crops_stand_for_are_those_of_their_words(made: Path) -> None:
    tokenizer = module().tokenizer
    for key, sample in samples(made / "out").items():
        batch = as_batch([sample | {"target": sample["target"].resize((IMAGE_SIZE, IMAGE_SIZE))}])
        placed = place_subjects(tokenizer, batch, "target_caption", "last")
        text, expected = str(CASES[key][1]), {}
        for number, word in enumerate(WORDS[key]):
            before = tokenizer(text[: spans(text)[word - 1][1]], add_special_tokens=False)["input_ids"]
            expected[len(before)] = number  # the start is token 0
        owner = placed.owner[0].tolist()
        assert {token: number for token, number in enumerate(owner) if number != NO_SUBJECT} == expected


def test_rules_of_ones_own_replay_the_same_boxes(made: Path) -> None:
    boxes = ["--replay", str(made / "boxes.jsonl")]
    main([*options(made, "others"), *boxes, "--min-area", "0.05", "--min-inside", "0", "--threshold", "0.85"])
    assert samples(made / "others").keys() == {"two", "tiny", "one", "large", "both", "edge"}
    (made / "words.yaml").write_text(yaml.safe_dump([["person", "astronaut", "persons"]]))
    main([*options(made, "words"), *boxes, "--synonyms", str(made / "words.yaml"), "--labels", "astronaut"])
    assert samples(made / "words").keys() == {"unsaid", "plural", "one", "large"}


def test_a_configuration_makes_the_shards_of_the_options(made: Path) -> None:
    section = {"class_path": "mmig.methods.umm_diffusion.subject_crops.SubjectCrops", "init_args": {}}
    (made / "map.yaml").write_text(yaml.safe_dump({"mapper": section}))
    map_by_config(["--config", str(made / "map.yaml"), *options(made, "mapped"), "--replay", str(made / "boxes.jsonl")])
    for file in (made / "out").iterdir():
        assert (made / "mapped" / file.name).read_bytes() == file.read_bytes()


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = str(stop.value.code) if stop.value.code != 2 else capsys.readouterr().err.splitlines()[-1]
    assert "\n" not in said
    return said


def test_bad_input_is_one_clear_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def replayed(answer: Any, keys: Sequence[str] = tuple(CASES)) -> list[str]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        return ["--replay", str(write_answers(path, dict.fromkeys(keys, answer)))]

    given, sides = ["--replay", str(made / "boxes.jsonl")], "expected boxes [left, top, right, bottom], found "
    box = {"boxes": [[0, 0, 400, 400]], "labels": ["dog"], "scores": [0.9]}
    (tmp_path / "words.yaml").write_text("couch: sofa")
    for arguments, said in (
        ([], "error: no detector is named: give --detector MODEL, or --replay FILE with boxes"),
        (replayed([], ["small", "unseen"]), "error: 'unsure': the replayed files have no boxes for it"),
        (replayed(None), "expected boxes, found null: the picture was not looked at"),
        (replayed("dog"), "expected boxes, labels and scores, as many of each, found dog"),
        (replayed(box | {"labels": []}), "expected boxes, labels and scores, as many of each"),
        (replayed(box | {"labels": [3]}), "expected labels in words and scores in [0, 1], found 3, 0.9"),
        (replayed(box | {"scores": [90]}), "expected labels in words and scores in [0, 1], found 'dog', 90.0"),
        (replayed(box | {"boxes": [[400, 0, 0, 400]]}), f"{sides}[400.0, 0.0, 0.0, 400.0] of 'dog'"),
        (replayed(box | {"boxes": [[0, 0, 400]]}), f"{sides}[0.0, 0.0, 400.0]"),
        (
            replayed(box | {"boxes": [[0, 0, 0.5, 1]]}),
            "in pixels of a picture of 512x512, found only numbers from 0 to 1",
        ),
        ([*given, "--min-area", "10"], "rules.min_area: expected a finite number in [0, 1], found 10.0"),
        ([*given, "--labels", " "], "labels: expected words"),
        ([*given, "--synonyms", "nowhere.yaml"], "synonyms nowhere.yaml: expected coco or a readable YAML file"),
        ([*given, "--synonyms", str(tmp_path / "words.yaml")], "expected a list of lists of words"),
        (["--detector", "nobody/detector"], "nobody/detector is no local folder and not complete in the hub cache"),
        ([*given, "--min-sides", "3"], "unknown option --min-sides (did you mean --min-side?)"),
    ):
        found = refused([*options(made, f"refused-{len(list(made.iterdir()))}"), *arguments], capsys)
        assert said in found, (said, found)


def test_shards_without_captions_or_subjects_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_laion(tmp_path / "source", [[(key, png(MOON), None) for key in ("a", "b")]])
    replay = write_answers(tmp_path / "boxes.jsonl", {"a": [], "b": []})
    said = refused([*options(tmp_path), "--replay", str(replay)], capsys)
    assert "no sample was kept" in said and "nothing: no_caption 2" in said and "no caption, of which" in said


def test_boxes_in_shares_are_told_from_boxes_in_pixels() -> None:
    answer = {"boxes": [[0, 0, 1, 1], [0, 0, 3, 2]], "labels": ["dog", "cat"], "scores": [0.9, 0.9]}
    assert len(read_boxes("a", answer, (4, 4))) == 2


def test_the_published_configuration_names_its_detector_to_whoever_fetches_it(root: Path) -> None:
    path = root / "configs/umm_diffusion/subjects.yaml"
    mapper, _ = read_config(path)
    assert isinstance(mapper, SubjectCrops)
    assert mapper.rules.threshold == 0.7 and mapper.rules.min_area == 0.1 and mapper.rules.min_side == 512
    found = {reference.path: {part.name for part in reference.parts} for reference in read_references([path])}
    assert found == {"PekingU/rtdetr_r50vd": {"detector", "detector_processor"}}

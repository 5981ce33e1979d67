"""The command with replies that were made elsewhere: its numbers, its files, and what ends in one line."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from mmig.evaluation.judged.__main__ import NAMES, main
from mmig.evaluation.judged.benchmarks import BENCHMARKS
from mmig.evaluation.judged.prompts import read_prompts
from mmig.evaluation.places import MARK, picture_name
from tests.mmig.evaluation.judged import layouts
from tests.mmig.evaluation.judged.running import results_of, rows_of
from tests.mmig.evaluation.judged.support import lines, vie


def write_replies(path: Path, replies: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(reply) for reply in replies) + "\n", encoding="utf-8")
    return path


def given(name: str, folder: Path, judge: Path | str, *more: str) -> list[str]:
    items, edited = layouts.write(name, folder)
    return [name, "--items", str(items), "--pictures", str(edited), "--judge", str(judge), *more]


REPLIES = {"100": (5, 5, 5), "101": (4, 3, 2), "102": (1, 1, 1), "103": (2, 2, 5)}


def test_replies_from_elsewhere_become_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replies = [{"item": key, "reply": lines(*scores), "judge": "gpt-x 2026"} for key, scores in REPLIES.items()]
    file = write_replies(tmp_path / "replies.jsonl", replies)
    main([*given("imgedit", tmp_path, file), "--out", str(tmp_path / "out")])
    results = results_of(tmp_path / "out")
    score = results["measures"]["score"]
    assert score["macro"]["value"] == pytest.approx(((5 + 3) / 2 + 1 + 3) / 3)
    assert score["micro"]["value"] == pytest.approx((5 + 3 + 1 + 3) / 4)
    assert results["judge"].startswith("gpt-x 2026 (replies replies.jsonl ")
    assert [row["scores"] for row in rows_of(tmp_path / "out")] == [list(scores) for scores in REPLIES.values()]
    printed = capsys.readouterr().out
    assert "2.667" in printed
    assert "our own words" in " ".join(printed.split())
    assert "| add | 4.000 (2 of 2) |" in (tmp_path / "out/table.corrected.md").read_text()


def test_the_official_result_json_of_imgedit_is_taken(tmp_path: Path) -> None:
    layouts.write_json(tmp_path / "result.json", {key: lines(*scores) for key, scores in REPLIES.items()})
    main([*given("imgedit", tmp_path, tmp_path / "result.json"), "--mode", "official", "--out", str(tmp_path / "out")])
    assert results_of(tmp_path / "out", "official")["measures"]["score"]["micro"]["value"] == 3


def test_questions_can_be_answered_elsewhere(tmp_path: Path) -> None:
    arguments = given("gedit", tmp_path, "unused")
    place = arguments.index("--judge")
    out = str(tmp_path / "out")
    main([*arguments[:place], "--write-questions", "--out", out])
    asked = [json.loads(line) for line in (tmp_path / "out/questions.jsonl").read_text().splitlines()]
    assert [question["question"] for question in asked] == ["SC", "PQ"] * 3
    assert asked[0]["parts"][2]["text"].startswith("You compare two pictures")
    assert asked[0]["parts"][1]["like"] == asked[0]["parts"][0]["picture"]
    replies = [{**question, "reply": vie([8, 9] if question["question"] == "SC" else [2, 3])} for question in asked]
    file = write_replies(tmp_path / "replies.jsonl", replies)
    main([*arguments[:place], "--judge", str(file), "--out", out])
    assert results_of(tmp_path / "out")["measures"]["O"]["macro"]["value"] == 4
    assert {row["prompt_hash"] for row in rows_of(tmp_path / "out")} == {question["prompt_hash"] for question in asked}


def test_official_output_names_its_defects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replies = [{"item": key, "reply": "**Score:** great"} for key in REPLIES]
    file = write_replies(tmp_path / "replies.jsonl", replies)
    main([*given("imgedit", tmp_path, file), "--mode", "official", "--out", str(tmp_path / "out")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "unread_leaves_the_mean (4): only lines with one" in printed
    page = (tmp_path / "out/report.official.html").read_text()
    assert "missing_stops_the_script" in page
    assert results_of(tmp_path / "out", "official")["defects"] == {"unread_leaves_the_mean": 4}


def test_the_page_shows_replies_beside_pictures_and_escapes_them(tmp_path: Path) -> None:
    replies = [{"item": key, "reply": "<script>bad()</script>\n" + lines(*scores)} for key, scores in REPLIES.items()]
    file = write_replies(tmp_path / "replies.jsonl", replies)
    main([*given("imgedit", tmp_path, file), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out/report.corrected.html").read_text()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;bad()&lt;/script&gt;") == len(REPLIES)
    assert page.count("data:image/") == 2 * len(REPLIES)
    assert "5, 5, 5" in page


def test_pictures_of_evaluate_are_found_by_key(tmp_path: Path) -> None:
    items, edited = layouts.write("rededit", tmp_path)
    kept = tmp_path / "evaluation/pictures"
    kept.mkdir(parents=True)
    layouts.write_json(kept / MARK, {"pictures": 4})
    for item in BENCHMARKS["rededit"]().items(items, edited, "en", tmp_path):
        (kept / picture_name(item.key)).write_bytes(item.edited.read_bytes())
    file = write_replies(tmp_path / "replies.jsonl", [{"item": "add/1", "reply": lines(1, 1, 1)}])
    arguments = ["rededit", "--items", str(items), "--pictures", str(kept), "--judge", str(file)]
    main([*arguments, "--out", str(tmp_path / "out")])
    counts = results_of(tmp_path / "out")["counts"]
    assert (counts["read"], counts["not_read"]) == (1, {"no reply": 3})


def test_prompts_of_a_published_file_are_known_by_their_hash(tmp_path: Path) -> None:
    file = tmp_path / "prompts.py"
    file.write_text('a = """one"""\nb = f"{print(1)}"\nc: str = "no"\nimport nothing_at_all\n')
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    found = read_prompts(file, [{"sha256": digest, "source": "there"}])
    assert (found.texts, found.source) == ({"a": "one"}, "there")
    assert read_prompts(file).source == ""


def test_every_name_on_the_command_line_is_a_benchmark_with_facts() -> None:
    assert set(NAMES) == set(BENCHMARKS)
    for name in NAMES:
        benchmark = BENCHMARKS[name]()
        assert benchmark.name == name
        assert {"title", "paper", "evaluator", "judge", "counts", "prompts", "defects"} == benchmark.facts.keys()
        for defect in benchmark.facts["defects"].values():
            assert defect.keys() == {"what", "source", "official", "corrected"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--language", "cn"], "--language cn: imgedit has en"),
        (["--prompts", "nowhere.json"], r"--prompts nowhere\.json: cannot be read"),
        (["--items", "nowhere"], "--items nowhere: no such file or folder"),
        (["--judge", "nowhere.jsonl"], r"nowhere\.jsonl: cannot be read"),
        (["--judge", "nowhere"], "nowhere"),
        (["--pictures", "."], "none of 4 edited pictures is there; expected such as"),
    ],
)
def test_what_a_user_can_mend_ends_in_one_line(
    more: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = given("imgedit", tmp_path, write_replies(tmp_path / "r.jsonl", []))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(SystemExit, match=message) as ended:
        main([*arguments, *more, "--out", str(tmp_path / "out")])
    assert "\n" not in str(ended.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--editscore"], "--editscore: asks gedit's questions alone"),
        (["--passes", "2"], "--passes: a model without --temperature says the same each time"),
        (["--temperature", "-1"], "expected a temperature of at least 0"),
        (["--mode", "mended"], "invalid choice: 'mended'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*given("imgedit", tmp_path, "model"), *more, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"reply": "x"}], "line 1: expected a field 'item'"),
        ([{"item": "100", "reply": "x"}, {"item": "100", "reply": "y"}], "line 2: a second reply for '100'"),
    ],
)
def test_replies_that_say_nothing_sure_are_refused(rows: list[dict[str, str]], message: str, tmp_path: Path) -> None:
    file = write_replies(tmp_path / "r.jsonl", rows)
    with pytest.raises(SystemExit, match=message):
        main([*given("imgedit", tmp_path, file), "--out", str(tmp_path / "out")])

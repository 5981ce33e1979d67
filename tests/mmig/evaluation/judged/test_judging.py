"""A random judge on every benchmark in its published layout, killed twice; and what else may change meanwhile."""

from pathlib import Path
from typing import Any

import pytest

from mmig.evaluation.judged.__main__ import main
from mmig.evaluation.judged.record import FILE, Record
from mmig.evaluation.judged.replies import BROKEN_PICTURE, NO_PICTURE
from tests.marks import slow_but
from tests.mmig.evaluation.judged import layouts
from tests.mmig.evaluation.judged.running import LIMIT, SMALL, kill_after, num_lines, results_of, rows_of, running
from tests.tiny_llava import build_llava
from tests.tiny_qwen_vl import build_qwen_vl

NUM_QUESTIONS = {"gedit": 6, "imgedit": 4, "imgedit_uge": 4, "kris": 21, "risebench": 10, "rededit": 4}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llava(tmp_path_factory.mktemp("judge") / "llava", context=4096)


def command(name: str, folder: Path, judge: Path | str, *more: str) -> list[str]:
    """Arguments on fresh items and pictures of a benchmark; --out is still to come."""
    items, edited = layouts.write(name, folder)
    return [name, "--items", str(items), "--pictures", str(edited), "--judge", str(judge), *SMALL, *more]


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


@pytest.mark.parametrize("name", slow_but({"gedit"}, layouts.LAYOUTS))
def test_killed_twice_it_asks_each_question_once(name: str, llava: Path, tmp_path: Path) -> None:
    given, out, whole = command(name, tmp_path, llava), tmp_path / "out", tmp_path / "whole"
    kill_after(out, 1, [*given, "--out", str(out)])
    first = rows_of(out)
    kill_after(out, max(len(first) + 1, 2), [*given, "--out", str(out)])
    second = rows_of(out)
    assert second[: len(first)] == first
    assert not (out / "metrics.corrected.json").exists()
    main([*given, "--out", str(out)])
    rows = rows_of(out)
    assert rows[: len(second)] == second
    assert len({(row["item"], row["question"], row["pass"]) for row in rows}) == len(rows) == NUM_QUESTIONS[name]
    assert all(isinstance(row["reply"], str) for row in rows)
    main([*given, "--out", str(whole)])  # never killed
    assert without_time(rows_of(whole)) == without_time(rows)
    assert results_of(out)["measures"] == results_of(whole)["measures"]
    assert {path.name for path in out.iterdir()} >= {"table.corrected.md", "report.corrected.html"}


def test_a_line_that_was_being_written_is_asked_again(llava: Path, tmp_path: Path) -> None:
    given, out = [*command("imgedit", tmp_path, llava), "--out", str(tmp_path / "out")], tmp_path / "out"
    main(given)
    rows, path = rows_of(out), out / FILE
    content = path.read_bytes()
    path.write_bytes(content[: content.rstrip(b"\n").rfind(b"\n") + 20])
    main(given)
    assert without_time(rows_of(out)) == without_time(rows)


def test_two_processes_do_not_judge_into_one_folder(llava: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = [*command("imgedit", tmp_path, llava), "--out", str(out)]
    with Record(out), running(given) as second:
        second.join(LIMIT)
        assert second.exitcode == 1
    assert not (out / FILE).exists()
    main(given)
    assert num_lines(out) == 4


def test_items_of_another_language_stay_in_the_file(llava: Path, tmp_path: Path) -> None:
    given, out = [*command("gedit", tmp_path, llava), "--out", str(tmp_path / "out")], tmp_path / "out"
    main(given)
    before = rows_of(out)
    main([*given, "--language", "cn"])
    assert rows_of(out)[: len(before)] == before
    assert results_of(out)["counts"]["items"] == 1
    main(given)
    assert len(rows_of(out)) == 8
    assert results_of(out)["counts"]["items"] == 3


def test_another_mode_asks_nothing(llava: Path, tmp_path: Path) -> None:
    given, out = [*command("imgedit", tmp_path, llava), "--out", str(tmp_path / "out")], tmp_path / "out"
    main(given)
    content = (out / FILE).read_bytes()
    main([*given, "--mode", "official"])
    assert (out / FILE).read_bytes() == content
    assert results_of(out, "official")["mode"] == "official"
    assert results_of(out)["mode"] == "corrected"


def test_pictures_that_come_or_change_are_judged_anew_and_only_they(llava: Path, tmp_path: Path) -> None:
    given, out = [*command("imgedit", tmp_path, llava), "--out", str(tmp_path / "out")], tmp_path / "out"
    missing, changed = tmp_path / "edited/100.png", tmp_path / "edited/101.png"
    content = missing.read_bytes()
    missing.unlink()
    main(given)
    before = {row["item"]: row for row in rows_of(out)}
    assert (before["100"]["failure"], before["100"]["reply"]) == (NO_PICTURE, None)
    missing.write_bytes(content)
    layouts.picture(changed, 11)
    main(given)
    after = {row["item"]: row for row in rows_of(out)}
    assert after["100"]["reply"] is not None
    assert after["101"]["pictures"] != before["101"]["pictures"]
    assert [after[key] for key in ("102", "103")] == [before[key] for key in ("102", "103")]
    assert num_lines(out) == 4


def test_a_picture_that_cannot_be_read_is_counted_and_the_page_shows_none(llava: Path, tmp_path: Path) -> None:
    given, out = [*command("imgedit", tmp_path, llava), "--out", str(tmp_path / "out")], tmp_path / "out"
    (tmp_path / "edited/101.png").write_bytes(b"no picture")
    main(given)
    assert [row["failure"] for row in rows_of(out) if row["item"] == "101"] == [BROKEN_PICTURE]
    assert results_of(out)["counts"]["not_read"][BROKEN_PICTURE] == 1
    assert "no picture" in (out / "report.corrected.html").read_text()


def test_a_source_that_cannot_be_read_is_counted_for_questions_without_it_too(llava: Path, tmp_path: Path) -> None:
    given, out = [*command("gedit", tmp_path, llava), "--out", str(tmp_path / "out")], tmp_path / "out"
    (tmp_path / "edited/fullset/ps_human/en/k2_SRCIMG.png").write_bytes(b"no picture")
    main(given)
    failures = {row["question"]: row["failure"] for row in rows_of(out) if row["item"] == "ps_human/en/k2"}
    assert failures["SC"] == failures["PQ"] == BROKEN_PICTURE  # the edited one has no size to be resized to


def test_another_judge_and_other_words_need_another_folder(
    llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = [*command("imgedit", tmp_path, llava), "--out", str(tmp_path / "out")], tmp_path / "out"
    main(given)
    content = (out / FILE).read_bytes()
    words = tmp_path / "prompts.json"
    layouts.write_json(words, dict.fromkeys(("add", "style", "extract"), "rate <edit_prompt>"))
    for more, named in ((["--max-tokens", "8"], "judge is"), (["--prompts", str(words)], "prompt_hash is")):
        with pytest.raises(SystemExit, match=rf"judge\.jsonl, line 1: {named} .*give another --out"):
            main([*given, *more])
    assert (out / FILE).read_bytes() == content


def test_any_model_with_a_chat_template_judges_pictures_of_any_size(tmp_path: Path) -> None:
    judge = build_qwen_vl(tmp_path / "qwen")
    given, out = command("gedit", tmp_path, judge), tmp_path / "out"
    given[given.index("--max-tokens") + 1] = "8"
    main([*given, "--out", str(out)])
    assert all(row["judge"].startswith("qwen ") for row in rows_of(out))
    assert len({row["judge"] for row in rows_of(out)}) == 1


def test_editscore_draws_each_pass_from_its_own_seed(llava: Path, tmp_path: Path) -> None:
    given = command("gedit", tmp_path, llava, "--editscore", "--passes", "2", "--max-tokens", "12")
    for out in (tmp_path / "out", tmp_path / "again"):
        main([*given, "--out", str(out)])
    rows = rows_of(tmp_path / "out")
    assert without_time(rows) == without_time(rows_of(tmp_path / "again"))
    assert len(rows) == 2 * NUM_QUESTIONS["gedit"]
    assert "temperature=0.7 top_p=0.9 top_k=20 seed=42" in rows[0]["judge"]
    by_pass = [[row["reply"] for row in rows if row["pass"] == number] for number in (0, 1)]
    assert by_pass[0] != by_pass[1]


def test_an_adapter_is_merged_and_part_of_the_judges_name(llava: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = get_peft_model(
        AutoModelForImageTextToText.from_pretrained(llava), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "lora_B" in name:
                values.normal_(std=5.0, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "lora")
    given = command("imgedit", tmp_path, llava, "--max-tokens", "8")
    main([*given, "--out", str(tmp_path / "plain")])
    main([*given, "--adapter", str(tmp_path / "lora"), "--out", str(tmp_path / "adapted")])
    plain, adapted = rows_of(tmp_path / "plain"), rows_of(tmp_path / "adapted")
    assert "adapter=lora" in adapted[0]["judge"]
    assert [row["reply"] for row in plain] != [row["reply"] for row in adapted]
    with pytest.raises(SystemExit, match=r"--adapter .*nothing: no such folder"):
        main([*given, "--adapter", str(tmp_path / "nothing"), "--out", str(tmp_path / "none")])


def test_a_question_that_fills_the_context_has_no_reply(tmp_path: Path) -> None:
    judge = build_llava(tmp_path / "short", context=32)
    given, out = command("imgedit", tmp_path, judge), tmp_path / "out"
    main([*given, "--out", str(out)])
    assert {row["failure"] for row in rows_of(out)} == {"question fills the judge's context"}
    assert results_of(out)["counts"]["not_read"] == {"question fills the judge's context": 4}

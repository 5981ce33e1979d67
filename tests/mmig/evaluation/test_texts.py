"""Texts that say nothing are refused by the option's name; of texts that are too long it is said what was read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import edit
import evaluate
from datamodules.schema import Sample
from mmig.base.texts import CutText, cut_texts, joined
from mmig.editor import EditOutput
from mmig.evaluation.rows import read_rows
from mmig.evaluation.runner import evaluate_editor
from mmig.metrics.suite import MetricSuite
from mmig.run.edit_options import EditError, check_texts
from mmig.run.edit_parser import build_parser
from tests.mmig.evaluation.support import NoisyCopy, batches, random_samples, write_data
from tests.mmig.metrics.support import random_batch

LONG = " ".join(["circle"] * 80)
OF_ENCODER = "response: 80 tokens, of which the text encoder reads 75: what follows has no effect"


@pytest.fixture
def given(mmig_run: Path, tmp_path: Path) -> list[str]:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "in.png")
    return ["--checkpoint", str(mmig_run), "--image", str(tmp_path / "in.png"), "--out", str(tmp_path / "out.png")]


def test_a_text_is_cut_where_its_reader_ends() -> None:
    assert cut_texts("a", "b", [1, 2, 3], 2) == [[], [], [CutText("a", "b", 3, 2)]]
    one, other = CutText("a", "b", 3, 2), CutText("c", "d", 5, 4)
    assert joined([[one], []], [[other], [other]]) == [[one, other], [other]]


def test_edit_py_says_how_much_of_a_response_was_read(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    edit.main([*given, "--instruction", "make it red", "--response", LONG])
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "no effect" in line] == [
        OF_ENCODER,
        "response: 80 tokens, of which the language model reads 6: what follows has no effect",
    ]
    edit.main([*given, "--instruction", "make it red", "--response", "red circle"])
    assert "no effect" not in capsys.readouterr().err


def test_so_it_does_of_the_phrases_of_a_layered_edit(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    layered = ["--layered", "--sampling", "inner_steps=0"]
    edit.main([*given, *layered, "--instruction", "x", "--response", "a circle", "--background-phrase", LONG])
    assert OF_ENCODER.replace("response", "background_phrase") in capsys.readouterr().err


def test_an_instruction_that_the_language_model_cannot_read_is_refused(given: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: instruction 'red red .* shorten it$"):
        edit.main([*given, "--instruction", "red " * 6000])
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("option", "text"),
    [("--instruction", ""), ("--instruction", " \n"), ("--response", ""), ("--background-phrase", " ")],
)
def test_edit_py_refuses_a_text_that_says_nothing(given: list[str], option: str, text: str) -> None:
    texts = {"--instruction": "make it red", "--response": "a circle"} | {option: text}
    with pytest.raises(SystemExit, match=f"^error: {option}: expected words.*, found an empty text") as stopped:
        edit.main([*given, "--layered", *(word for pair in texts.items() for word in pair)])
    assert "\n" not in str(stopped.value)


def test_who_follows_a_given_response_alone_needs_no_instruction() -> None:
    class Follower(NoisyCopy):
        required_fields = ("source", "response")

    def options(**texts: str | None) -> Any:
        return build_parser().parse_args(["--config", "x", "--out", "y", "--instruction", "", *_words(texts)])

    check_texts(Follower(), options(response="a circle"))
    for editor, texts in ((Follower(), {}), (NoisyCopy(), {"response": "a circle"})):
        with pytest.raises(EditError, match="--instruction: expected words"):
            check_texts(editor, options(**texts))


def _words(texts: dict[str, str | None]) -> list[str]:
    return [word for name, text in texts.items() for word in (f"--{name}", str(text))]


class Cutter(NoisyCopy):
    """Reads one word of each instruction."""

    def __call__(self, batch: Any, generator: Any) -> EditOutput:
        output = super().__call__(batch, generator)
        lengths = [len(text.split()) for text in batch["instruction"]]
        output.extras["cut"] = cut_texts("instruction", "eye", lengths, 1)
        return output


def test_evaluation_counts_samples_of_which_the_editor_read_a_part(tmp_path: Path) -> None:
    batch = random_batch(4)
    batch["instruction"] = ["one", "one two", "", "three more words"]
    batch["has_instruction"] = torch.ones(4, dtype=torch.bool)
    result = evaluate_editor(Cutter(), batches(batch, 2), MetricSuite(["l1_target"]))
    assert [row.truncated for row in result.rows] == [[], ["instruction (eye)"], [], ["instruction (eye)"]]


def test_evaluate_py_says_and_writes_how_many_were_cut(
    mmig_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples: list[Sample] = random_samples(3)
    for sample, text in zip(samples, (LONG, "a circle", LONG), strict=True):
        sample["response"] = text
    data = write_data(tmp_path, samples)
    arguments = ["--checkpoint", str(mmig_run), "--data", str(data), "--metrics", "l1_input", "--seeds", "2"]
    evaluate.main([*arguments, "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["truncated_texts"] == {"response (language model)": 2, "response (text encoder)": 2}
    assert sum(bool(row.truncated) for row in read_rows(tmp_path / "out" / "samples.jsonl")) == 4
    said = " ".join(capsys.readouterr().out.split())
    assert "of 3 samples a text was longer than what reads it: response (language model) 2, response (text" in said

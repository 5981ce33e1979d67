"""What is asked for, as words of edit.py: nothing that is typed becomes an option, and limits are said in words."""

import shlex

import pytest

from mmig.app.asking import EditRequest, RequestError, check_settings, check_text, check_whole, in_words
from mmig.app.controls import as_words
from mmig.app.systems import System
from mmig.run.edit_options import EditError
from mmig.run.edit_parser import build_parser

TEXTS = ["make it night", "--out /etc/passwd", "-h", 'it\'s "quoted"; rm -rf $HOME `ls`', "naïve 🎈", "<image:0> a=b"]


@pytest.mark.parametrize("text", TEXTS)
def test_the_command_says_what_was_typed_to_the_letter(text: str, system: System) -> None:
    request = EditRequest(text, response=text, picture="source.png", seed=3, settings={"num_steps": 2})
    words = shlex.split(request.command(system))
    assert words[:2] == ["python", "edit.py"]
    parsed = build_parser().parse_args(words[2:])
    assert (parsed.instruction, parsed.response, parsed.image) == (text, text, "edited/source.png")
    assert (parsed.seed, parsed.sampling, parsed.out) == (3, ["num_steps=2"], "edited/again.png")
    assert (parsed.config, parsed.checkpoint) == ("configs/editors/tiny_instruction.yaml", None)


def test_what_is_not_asked_for_is_not_in_the_command(system: System) -> None:
    assert EditRequest("x").command(system) == (
        "python edit.py --config configs/editors/tiny_instruction.yaml --instruction x --seed 0 --out edited/again.png"
    )


def test_settings_are_words_that_yaml_reads_back() -> None:
    assert as_words({"a": 1e-5, "b": None, "c": True, "d": "all", "e": 2}) == [
        "a=1.0e-05",
        "b=null",
        "c=true",
        "d=all",
        "e=2",
    ]


def test_long_texts_are_refused_with_their_length() -> None:
    with pytest.raises(RequestError, match=r"Instruction: this has 2,001 characters and at most 2,000"):
        check_text("Instruction", "x" * 2_001)
    assert check_text("Instruction", " a  red\n\tball ") == "a red ball"
    for wrong in (None, 3, "a\0b"):
        with pytest.raises(RequestError, match="Instruction: this"):
            check_text("Instruction", wrong)


@pytest.mark.parametrize("value", [-1, 9, 1.5, float("nan"), float("inf"), None, True, "3", [3]])
def test_numbers_that_cannot_be_are_refused(value: object) -> None:
    with pytest.raises(RequestError, match=r"Results: .* from 1 to 8"):
        check_whole("Results", value, 1, 8)


def test_counts_that_would_take_hours_are_refused() -> None:
    with pytest.raises(RequestError, match="num_steps: 100,000 is more"):
        check_settings({"num_steps": 100_000})
    check_settings({"num_steps": 2_000, "guidance_scale": 1e9, "use_mmsm": True})


def test_errors_of_the_command_line_are_said_in_the_pages_names() -> None:
    error = EditError("--image: MMIGEditor edits a picture, and none is given; give the one to edit")
    assert in_words(error) == "“Picture”: MMIGEditor edits a picture, and none is given; give the one to edit"
    attach = EditError("--attach image=FILE: SubjectEditor needs an attached image, and none is given")
    assert in_words(attach) == "“Attachments”: SubjectEditor needs an attached image, and none is given"
    assert "/tmp" not in in_words(EditError("--image /tmp/app/x/source.png: cannot be read as an image"))

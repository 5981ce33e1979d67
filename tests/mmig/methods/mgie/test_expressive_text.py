"""The question about an edit and the rule by which its answer is cleaned: every part of it, and their order."""

import pytest

from mmig.methods.mgie.expressive_text import QUESTION, clean, question_about


def test_the_question_is_the_published_one_with_its_suffix_on_a_line_of_its_own() -> None:
    asked = question_about("make the sky red")
    assert asked == "what will this image be like if 'make the sky red'  (in a short paragraph)\n"


def test_braces_of_an_instruction_and_of_a_template_are_text() -> None:
    assert question_about("write {x}", "{how} will '{instruction}' look?") == "{how} will 'write {x}' look?"


def test_placeholders_of_attachments_are_not_asked_about() -> None:
    assert "'put a dog there'" in question_about("put a <image:0> dog there")


def test_a_template_without_place_for_the_instruction_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"question: expected \{instruction\} in it.*found 'what now\?'") as caught:
        question_about("make it red", "what now?")
    assert "\n" not in str(caught.value)
    assert "{instruction}" in QUESTION


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("The sky is red.", "The sky is red."),
        ("USER: what?\nASSISTANT: The sky is red.", "The sky is red."),  # what follows the header
        ("ASSISTANT: Red. ASSISTANT: Blue.", "Red. ASSISTANT: Blue."),  # the first one
        ("The sky is red.</s> The sea is blue.", "The sky is red."),
        ("The sky is red. Alternatively, it is blue.", "The sky is red."),
        ("The sky is red. In an ALTERNATIVE world it is blue.", "The sky is red. In an."),
        ("The sky is red [IMG0][IMG1]", "The sky is red."),
        ("One. Two. Three.", "One. Two."),
        ("Is it red? It is! And more.", "Is it red? It is."),
        ("It costs 2.5 euros. It is 1.20 m high. And more.", "It costs 2.5 euros. It is 1.20 m high."),
        ("The sky is red", "The sky is red."),
        ("The sky is red!", "The sky is red."),
        ("The sky is red, ", "The sky is red."),
        ("The sky\nis   red.\n\nAnd the sea.\n", "The sky is red. And the sea."),
        ("Der Himmel über İzmir. Alternative: keiner.", "Der Himmel über İzmir."),  # lower case is longer here
    ],
)
def test_each_part_of_the_rule(answer: str, kept: str) -> None:
    assert clean(answer) == kept


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        # the header goes first: what stands before it cuts nothing
        ("</s> [IMG0] alternative. ASSISTANT: The sky is red. More.", "The sky is red. More."),
        # the end before the rest: what stands behind it cuts nothing, even in the middle of a word
        ("The sky is red. An altern</s>ative. Two.", "The sky is red. An altern."),
        # `[IMG0]` after "alternative": the tokens of the image stand behind it and are gone
        ("Red. Alternative [IMG0] blue.", "Red."),
        # sentences are counted in what all cuts leave
        ("One. Two [IMG0]. Three. Four.", "One. Two."),
        # the period comes last
        ("One, alternative. Two. Three.", "One."),
    ],
)
def test_the_order_of_the_rule(answer: str, kept: str) -> None:
    assert clean(answer) == kept


@pytest.mark.parametrize("answer", ["", "  \n", "</s>red", "Alternatively, blue.", "[IMG0]", "...", "ASSISTANT: !"])
def test_nothing_stays_of_an_answer_without_words(answer: str) -> None:
    assert clean(answer) == ""


def test_another_header_or_none() -> None:
    assert clean("<|assistant|> Red. ASSISTANT: Blue.", "<|assistant|>") == "Red. ASSISTANT: Blue."
    assert clean("ASSISTANT: Red.", "") == "ASSISTANT: Red."

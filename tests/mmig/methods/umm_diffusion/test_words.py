"""Which tokens the pictures stand for, counted against the tokenizer's own pieces."""

from typing import Any

import pytest

from mmig.backbones.diffusion import load_tokenizer
from mmig.methods.umm_diffusion.words import NO_SUBJECT, Lost, MultiToken, place_subjects, subject_tokens
from tests.mmig.methods.umm_diffusion.support import as_batch, captioned, folders, picture


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(folders()[0])


def span(text: str, word: str) -> tuple[int, int]:
    start = text.index(word)
    return start, start + len(word)


def pieces(tokenizer: Any, text: str) -> list[str]:
    """Tokens as the text encoder reads them, the start first."""
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_a_word_of_one_token_is_that_token(tokenizer: Any) -> None:
    text = "  A large Circle, on the left of a square"
    tokens, lost = subject_tokens(tokenizer, text, {0: span(text, "Circle"), 2: span(text, "square")})
    found = pieces(tokenizer, text)
    assert {number: [found[place] for place in places] for number, places in tokens.items()} == {
        0: ["circle</w>"],
        2: ["square</w>"],
    }
    assert lost == []


def test_the_papers_example_counts_words_where_each_is_one_token(tokenizer: Any) -> None:
    text = "a circle is in the square"  # p = 2, 6 as for "A dog is under a tower"
    words = {0: span(text, "circle"), 1: span(text, "square")}
    if len(pieces(tokenizer, text)) == 8:
        assert subject_tokens(tokenizer, text, words)[0] == {0: [2], 1: [6]}


@pytest.mark.parametrize(("rule", "expected"), [("last", ["g</w>"]), ("all", ["d", "o", "g</w>"]), ("skip", None)])
def test_a_word_of_several_tokens(tokenizer: Any, rule: MultiToken, expected: list[str] | None) -> None:
    text = "a dog in the centre"
    assert pieces(tokenizer, text)[2:5] == ["d", "o", "g</w>"]
    tokens, lost = subject_tokens(tokenizer, text, {0: span(text, "dog")}, rule)
    if expected is None:
        assert tokens == {} and [each.reason for each in lost] == ["split"]
        assert lost[0].detail == (
            "its word 'dog' is 3 tokens, and those are skipped; name another word, or set multi_token to last or all"
        )
    else:
        assert [pieces(tokenizer, text)[place] for place in tokens[0]] == expected and lost == []


def test_a_name_of_two_words_ends_with_its_last(tokenizer: Any) -> None:
    text = "a red circle"
    tokens, _ = subject_tokens(tokenizer, text, {0: span(text, "red circle")})
    assert [pieces(tokenizer, text)[place] for place in tokens[0]] == ["circle</w>"]


def test_a_word_behind_the_truncation_is_lost(tokenizer: Any) -> None:
    filler = "red " * 74
    inside, outside = f"{filler}circle", f"{filler}red circle"
    assert subject_tokens(tokenizer, inside, {0: span(inside, "circle")})[0] == {0: [75]}
    tokens, lost = subject_tokens(tokenizer, outside, {0: span(outside, "circle")})
    detail = "its word 'circle' is token 76 of the text, of which the text encoder reads 75; say it earlier"
    assert tokens == {} and lost == [Lost(0, "cut", detail)]


def test_two_subjects_of_one_word_and_one_of_none(tokenizer: Any) -> None:
    text = "a red circle"
    words = {0: span(text, "circle"), 1: span(text, "red circle"), 2: None}
    tokens, lost = subject_tokens(tokenizer, text, words)
    assert list(tokens) == [0]
    assert [(each.number, each.reason) for each in lost] == [(1, "taken"), (2, "word")]
    assert lost[0].detail == "its word 'red circle' is that of subject 0 already; give each a word of its own"


def test_a_batch_is_placed_row_by_row(tokenizer: Any) -> None:
    batch = as_batch(
        [
            captioned("a <image:0> circle and a <image:1> square", picture(), picture("blue")),
            captioned("a star"),
            captioned("a ring like <image:0>", picture()),
        ]
    )
    placed = place_subjects(tokenizer, batch, "target_caption", "last")
    assert placed.texts == ["a circle and a square", "a star", "a ring like"]
    ids = tokenizer(placed.texts, padding="max_length", return_tensors="pt")["input_ids"]
    assert placed.ids.equal(ids)
    found = pieces(tokenizer, placed.texts[0])
    circle, square = found.index("circle</w>"), found.index("square</w>")
    assert (placed.owner != NO_SUBJECT).nonzero().tolist() == [[0, circle], [0, square]]
    assert placed.owner[0, [circle, square]].tolist() == [0, 1]
    assert placed.has_subject.tolist() == [True, False, False]
    assert placed.count_lost() == {"word": 1 / 3, "cut": 0, "split": 0, "taken": 0}

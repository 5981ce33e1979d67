"""Placeholders in texts: found, bound to words, and left out."""

from __future__ import annotations

import random
import re

import pytest

from datamodules.placeholders import without_placeholders_but_words
from datamodules.schema import placeholders, without_placeholders

PIECES = (
    *("<image:0>", "<audio:12>", "<image:", "0>", "<audio", ":1>", "<image:0", " ", "  ", "\n", "dog", "a", "É", "-"),
    *(".", ",", "(", ")", '"', "'", "<", ">", "7"),
)


def texts(count: int = 3000) -> list[str]:
    """Texts that are as odd as can be made of these pieces."""
    draw = random.Random(0)
    return ["".join(draw.choices(PIECES, k=draw.randrange(14))) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a <image:0> dog", "a dog"),
        ("<image:0> dog", "dog"),
        ("a <image:0>dog", "a dog"),
        ("make it look like <image:0>", "make it look like"),
        ("make it look like <image:0>.", "make it look like."),
        ("take <image:0>, and play <audio:1> there", "take, and play there"),
        ("a <image:0> <audio:1> dog", "a dog"),
        ("the dog (<image:0> dog)", "the dog (dog)"),
        ("the dog<image:0>cat", "the dog cat"),
        ("one line\n<image:0> dog", "one line\ndog"),
        ("one line <image:0>\nanother", "one line\nanother"),
        ("<image:0>", ""),
        ("  two blanks  ", "  two blanks  "),
        ("<image> <image:a> <video:0> <Image:0>", "<image> <image:a> <video:0> <Image:0>"),
        ("", ""),
    ],
)
def test_a_text_reads_well_without_its_placeholders(text: str, plain: str) -> None:
    assert without_placeholders(text) == plain


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a <image:0> dog is", "dog"),
        ("a <image:0>dog is", "dog"),
        ("a <image:0> fire-hydrant's red", "fire-hydrant's"),
        ("a <image:0> Größe", "Größe"),
        ("like <image:0>", None),
        ("like <image:0>, but", None),
        ("like <image:0>  but", None),
        ("like <image:0>\nbut", None),
        ("like <image:0> <audio:1> dog", None),
    ],
)
def test_a_placeholder_directly_before_a_word_is_bound_to_it(text: str, word: str | None) -> None:
    first = placeholders(text)[0]
    assert (first.kind, first.number, text[first.start : first.end]) == ("image", 0, "<image:0>")
    assert (first.word and text[slice(*first.word)]) == word


def test_any_text_keeps_its_words_in_order_and_loses_every_placeholder() -> None:
    changed = 0
    for text in texts():
        plain, found = without_placeholders(text), placeholders(text)
        assert placeholders(plain) == [] and without_placeholders(plain) == plain
        blanked = re.sub(r"<(?:image|audio):\d+>", " ", text)
        assert re.findall(r"\w+", plain) == re.findall(r"\w+", blanked), text
        if not found:
            assert plain == text
        changed += bool(found)
    assert changed > 1000


def test_words_are_found_again_in_the_text_without_placeholders() -> None:
    checked = 0
    for text in texts():
        words = [match.span() for match in re.finditer(r"[a-zÉ7]+", text)]
        words = [span for span in words if all(span[1] <= p.start or p.end <= span[0] for p in placeholders(text))]
        plain, moved = without_placeholders_but_words(text, [*words, None])
        assert [plain[slice(*span)] for span in moved[:-1]] == [text[slice(*span)] for span in words]
        assert moved[-1] is None
        checked += len(words)
    assert checked > 1000


def test_blanks_around_a_word_that_are_left_out_do_not_count_to_it() -> None:
    assert without_placeholders_but_words("a <image:0> dog <image:1> b", [(11, 16), (2, 11)]) == (
        "a dog b",
        [(2, 5), None],
    )


def test_a_long_text_of_blanks_and_placeholders_takes_no_time() -> None:
    text = " " * 50_000 + "<image:0>" * 5_000 + " " * 50_000 + "dog"
    assert without_placeholders(text) == "dog" and len(placeholders(text)) == 5_000

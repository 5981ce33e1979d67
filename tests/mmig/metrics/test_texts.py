"""BLEU and ROUGE-L of one text against counts made by hand, and which texts are compared."""

import math
from collections import Counter

import pytest
import torch

from mmig.metrics.suite import MetricSuite
from mmig.metrics.texts import bleu, rouge_l, words
from tests.mmig.metrics.support import random_batch, random_images

PAIRS = [
    ("a red ball lies on the green grass", "a red ball lies on green grass"),
    ("A red ball, on grass!", "a red ball on grass"),
    ("the the the the the", "the cat is on the mat"),
    ("a blue square at the left", "a blue square at the right of the ring"),
]


def bleu_by_hand(text: str, reference: str) -> float:
    given, wanted = words(text), words(reference)
    logs = []
    for order in range(1, 5):
        grams = [
            Counter(tuple(side[start : start + order]) for start in range(len(side) - order + 1))
            for side in (given, wanted)
        ]
        matched = sum((grams[0] & grams[1]).values())
        if matched == 0:
            return 0.0
        logs.append(math.log(matched / grams[0].total()))
    return min(1.0, math.exp(1 - len(wanted) / len(given))) * math.exp(sum(logs) / 4)


def longest_by_hand(first: list[str], second: list[str]) -> int:
    """Of all subsequences of the first, the longest that the second holds in this order."""
    best = 0
    for chosen in range(1 << len(first)):
        part = [word for place, word in enumerate(first) if chosen >> place & 1]
        rest = iter(second)
        if len(part) > best and all(word in rest for word in part):
            best = len(part)
    return best


@pytest.mark.parametrize(("text", "reference"), PAIRS)
def test_bleu_is_the_clipped_precisions_times_the_brevity_penalty(text: str, reference: str) -> None:
    assert bleu(text, reference) == pytest.approx(bleu_by_hand(text, reference), abs=1e-6)


@pytest.mark.parametrize(("text", "reference"), PAIRS)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(text: str, reference: str) -> None:
    given, wanted = words(text), words(reference)
    common = longest_by_hand(given, wanted)
    assert rouge_l(text, reference) == pytest.approx(2 * common / (len(given) + len(wanted)), abs=1e-6)


def test_equal_texts_have_one_and_strangers_zero_whatever_case_and_points() -> None:
    same = ("A red ball on grass.", "a red ball, on grass")
    assert (bleu(*same), rouge_l(*same)) == (1.0, 1.0)
    other = ("a red ball on grass", "two blue rings under water")
    assert (bleu(*other), rouge_l(*other)) == (0.0, 0.0)


def test_words_of_other_alphabets_are_words() -> None:
    assert rouge_l("красный шар на траве", "красный шар на снегу") == pytest.approx(0.75)


def test_what_was_written_is_held_against_the_datas_text_of_its_kind() -> None:
    suite = MetricSuite(["response_bleu", "response_rouge_l", "caption_bleu", "caption_rouge_l"])
    batch = random_batch(4)
    batch["response"] = ["a red ball on grass", "a red ball", "", "a red ball on grass"]
    batch["target_caption"] = ["two rings"] * 4
    written = {"response": ["a red ball on grass", "a red ball", "a red ball", ""], "caption": ["two balls"] * 4}
    values = suite.update(suite.bank(batch, random_images(4), written))
    assert values["response_bleu"].values[0] == 1.0
    assert values["response_bleu"].reasons == [None, "response_below_4_words", "no_response", "no_text"]
    assert values["response_rouge_l"].reasons == [None, None, "no_response", "no_text"]
    assert values["caption_bleu"].reasons == ["target_caption_below_4_words"] * 4
    torch.testing.assert_close(values["caption_rouge_l"].values, torch.full((4,), 0.5, dtype=torch.float64))


def test_a_text_without_words_is_worth_nothing_and_breaks_nothing() -> None:
    assert (bleu("?!", "a red ball on grass"), rouge_l("?!", "a red ball on grass")) == (0.0, 0.0)

"""Where a caption says a label: whole words, the longest name, synonyms."""

import re

import pytest

from mmig.methods.umm_diffusion.vocabulary import SYNONYMS, Vocabulary, VocabularyError, coco_names


@pytest.mark.parametrize(
    ("caption", "label", "said"),
    [
        ("A dog is under a tower", "dog", ["dog"]),
        ("A DOG, seated", "dog", ["DOG"]),
        ("hotdogs and dogs", "dog", []),
        ("a dog-friendly park", "dog", []),
        ("the dog's bowl", "dog", ["dog"]),
        ("a hot dog", "dog", []),
        ("a hot dog", "hot dog", ["hot dog"]),
        ("a Fire\n Hydrant", "fire hydrant", ["Fire\n Hydrant"]),
        ("a bear and a teddy bear", "bear", ["bear"]),
        ("a dog and a dog", "dog", ["dog", "dog"]),
        ("a tv", "tv", ["tv"]),
        ("a (dog)", "dog", ["dog"]),
        ("a C++ book", "c++", ["C++"]),  # marks are no patterns
    ],
)
def test_a_label_is_said_by_whole_words(caption: str, label: str, said: list[str]) -> None:
    spans = Vocabulary().words(caption, [label])[label]
    assert [caption[start:end] for start, end in spans] == said


def test_positions_are_those_of_the_papers_example() -> None:
    caption = "A dog is under a tower"
    found = Vocabulary().words(caption, ["dog", "tower"])
    counted = [match.span() for match in re.finditer(r"\S+", caption)]  # p = 2 and 6, words counted from 1
    assert found == {"dog": [counted[1]], "tower": [counted[5]]}


def test_synonyms_say_a_label_and_the_longest_counts_once() -> None:
    vocabulary = Vocabulary(SYNONYMS)
    assert vocabulary.label("TV_monitor") == "tv" and vocabulary.label("Sofa ") == "couch"
    caption = "a cell phone on a sofa before a television"
    found = vocabulary.words(caption, ["cell phone", "couch", "tv"])
    said = {label: [caption[slice(*span)] for span in spans] for label, spans in found.items()}
    assert said == {"cell phone": ["cell phone"], "couch": ["sofa"], "tv": ["television"]}
    assert len(vocabulary.words("a couch that is a sofa", ["couch"])["couch"]) == 2


def test_the_table_is_about_cocos_names() -> None:
    names = coco_names()
    assert len(names) == len(set(names)) == 80 and names[0] == "person" and names[-1] == "toothbrush"
    assert {group[0] for group in SYNONYMS} <= set(names)
    assert not {word for group in SYNONYMS for word in group[1:]} & set(names)


def test_bad_synonyms_are_one_clear_line() -> None:
    with pytest.raises(VocabularyError, match=r"groups of two or more words, found \['sofa'\]"):
        Vocabulary([["sofa"]])
    with pytest.raises(VocabularyError, match="'sofa' is in two groups"):
        Vocabulary([["couch", "sofa"], ["divan", "sofa"]])

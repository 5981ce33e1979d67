"""Purity of neighbourhoods of pseudo words in the space itself, and their picture; the map is scikit-learn's."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.subject_results.pseudo_words import (
    CLASSES,
    SPACES,
    Subjects,
    chance,
    draw_words,
    purity,
    read_subjects,
    table,
)
from tests.mmig.methods.umm_diffusion.support import batch, module


def test_purity_counts_neighbours_by_the_angle() -> None:
    vectors = np.array([[1.0, 0.0], [9.0, 0.1], [0.0, 1.0], [0.1, 9.0]])  # pairs of one direction, lengths apart
    assert purity(vectors, [*"aabb"], 1).tolist() == [1, 1, 1, 1]
    assert purity(vectors, [*"abab"], 1).tolist() == [0, 0, 0, 0]
    assert purity(vectors, [*"aabb"], 3) == pytest.approx([1 / 3] * 4)


def test_chance_is_the_purity_of_all_neighbours() -> None:
    labels = [*"aaabbc"]
    vectors = np.random.default_rng(0).normal(size=(6, 4))
    assert purity(vectors, labels, 5).mean() == pytest.approx(chance(labels))


def test_subjects_are_read_with_their_classes_and_drawn(tmp_path: Path) -> None:
    editor, batches = module(1).make_pipeline(), [batch(0, 1, 2), batch(3, 4, 5)]
    subjects = read_subjects(editor, batches)
    facts = [subject for each in batches for sample in each["metadata"] for subject in sample["subjects"]]
    assert subjects.labels["shape"] == tuple(each["thing"]["shape"] for each in facts)
    assert subjects.labels["colour"] == tuple(each["texture"]["first"] for each in facts)
    second = batches[1]["attachment_images"][:1, :1]
    place = sum(len(sample["subjects"]) for sample in batches[0]["metadata"])
    found = editor.pseudo_words(second)[0, 0].detach().numpy()
    np.testing.assert_allclose(subjects.vectors[SPACES[0]][place], found, rtol=1e-4, atol=1e-5)
    told = table(subjects, 2).splitlines()
    assert [line.split("|")[1].strip() for line in told[2:]] == [*CLASSES]
    points = np.random.default_rng(0).normal(size=(len(facts), 2))
    draw_words(points, subjects, tmp_path / "words.png")
    assert Image.open(tmp_path / "words.png").size == (2400, 600)


def test_a_subject_counts_in_every_class() -> None:
    labels = {name: ["a", "a", "b"] for name in CLASSES}
    vectors = {space: np.eye(3) + 0.1 for space in SPACES}
    told = table(Subjects(vectors, labels, np.zeros((3, 2, 2, 3), np.uint8)), 1)
    assert told.count("| 3 | 0.333 |") == 3

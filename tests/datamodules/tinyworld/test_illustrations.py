"""The illustration world: figures, their tags, their pictures, and what the reader finds in pictures."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from datamodules.schema import validate
from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.illustration_reader import read_figure
from datamodules.tinyworld.illustration_samples import draw_illustration
from datamodules.tinyworld.illustrations import ATTRIBUTES, SPLITS, draw_figure, figure_of, split_of, tags
from datamodules.tinyworld.line_art import render_figure
from datamodules.tinyworld.oracle_errors import as_image
from datamodules.tinyworld.png import png
from datamodules.tinyworld.sample import with_images

FIGURES = [draw_figure(Draws(0, "figures", index)) for index in range(40)]


def test_every_tag_belongs_to_one_value_of_one_attribute():
    values = [value for values in ATTRIBUTES.values() for value in values if value]
    assert len(values) == len(set(values))
    assert len(ATTRIBUTES) >= 8


def test_tags_say_every_attribute():
    for number, figure in enumerate(FIGURES):
        said = figure_of(tags(Draws(0, "tags", number), figure))
        assert {name: said.get(name, "") for name in ATTRIBUTES} == {name: getattr(figure, name) for name in ATTRIBUTES}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_attribute_changes_the_picture_whatever_the_others_are(name: str):
    for figure in FIGURES[:10]:
        pictures = {render_figure(replace(figure, **{name: value})).tobytes() for value in ATTRIBUTES[name]}
        assert len(pictures) == len(ATTRIBUTES[name])


def test_a_figure_is_read_from_its_picture_alone():
    for figure in FIGURES[:3]:
        assert read_figure(as_image(render_figure(figure))).figure == figure


def test_a_wrong_start_does_not_mislead_the_reader():
    for figure, other in pairwise(FIGURES[:13]):
        start = replace(other, tilt=figure.tilt, hair=figure.hair)
        assert read_figure(as_image(render_figure(figure)), start).figure == figure


@pytest.mark.parametrize("picture", [np.full((64, 64, 3), 128), np.random.default_rng(0).integers(0, 256, (64, 64, 3))])
def test_there_is_no_figure_in_nothing_and_in_noise(picture):
    assert not read_figure(as_image(picture.astype(np.uint8)), FIGURES[0]).present


@pytest.mark.parametrize("split", SPLITS)
def test_samples_fit_the_schema_and_their_split(split: str):
    for index in range(5):
        sample = draw_illustration(0, split, index)
        validate(with_images(sample, png))
        assert sample["metadata"]["split"] == split
    again = draw_illustration(0, split, 4)
    assert np.array_equal(again["target"], sample["target"]) and again["instruction"] == sample["instruction"]


def test_size_and_place_do_not_decide_the_split_of_a_figure():
    moved = [replace(figure, scale=92, x=2, y=-1) for figure in FIGURES]
    assert [split_of(figure) for figure in moved] == [split_of(figure) for figure in FIGURES]
    assert {split_of(figure) for figure in FIGURES} == set(SPLITS)


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="split 'night': expected one of train, val, test"):
        draw_illustration(0, "night", 0)

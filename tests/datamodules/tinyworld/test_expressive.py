"""Expressive texts are exact: read back and done to the source scene they make the target scene."""

from dataclasses import replace

import pytest

from datamodules.tinyworld.edit_grammar import ReadEdit, apply_edit, leads_to, names, read_edit
from datamodules.tinyworld.edits import TRAINED_TYPES
from datamodules.tinyworld.grammar import ParsedThing
from datamodules.tinyworld.sample import draw_from
from datamodules.tinyworld.scene import Background, Scene, Thing
from datamodules.tinyworld.splits import SPLITS
from datamodules.tinyworld.visual import OPERATIONS
from datamodules.tinyworld.world import LEVELS, World

RED = Thing("circle", "red", "plain", "small", "left", 11, 32)
PINK = Thing("circle", "pink", "plain", "small", "top", 32, 11)
BLUE = Thing("square", "blue", "striped", "large", "right", 53, 32)
SCENE = Scene(Background("plain", first="white"), (PINK, RED, BLUE))


@pytest.fixture(scope="module")
def samples():
    names = [
        (level, split) for level in LEVELS for split in SPLITS if (level, split) != ("plain", "unseen_photographs")
    ]
    return [draw_from(World(level=level), split, index) for level, split in names for index in range(60)]


def scenes(sample):
    return sample["metadata"]["source_scene"], sample["metadata"]["target_scene"]


def test_every_expressive_text_makes_the_target_of_the_source(samples):
    assert {sample["edit_type"] for sample in samples} == {*TRAINED_TYPES, "outline"}
    assert [sample["expressive"] for sample in samples if not leads_to(sample["expressive"], *scenes(sample))] == []


def test_so_does_every_literal_and_visual_instruction(samples):
    assert [sample["instruction"] for sample in samples if not leads_to(sample["instruction"], *scenes(sample))] == []


def test_the_blind_leave_the_object_to_whoever_sees(samples):
    visual = [sample for sample in samples if sample["edit_type"] == "visual"]
    for sample in visual:
        blind, edit = sample["metadata"]["expressive_blind"], sample["metadata"]["edit"]
        assert leads_to(blind, *scenes(sample)) and edit["referent"] in blind
        assert read_edit(blind).it is None and read_edit(blind).referent == edit["referent"]
        assert edit["referent"] not in sample["expressive"]
    assert {sample["metadata"]["edit"]["operation"] for sample in visual} == {*OPERATIONS, "match"}


def test_an_object_is_named_by_all_that_is_seen_of_it(samples):
    for sample in samples:
        before, read = sample["metadata"]["edit"]["before"], read_edit(sample["expressive"])
        if before is not None:
            assert (read.it.size, read.it.colour, read.it.shape) == (before["size"], before["colour"], before["shape"])
            assert read.it.place == before["place"] and (read.it.texture or "plain") == before["texture"]


def test_expressive_texts_are_short(samples):
    assert max(len(sample["expressive"].split()) for sample in samples) <= 18


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("remove the blue square", (PINK, RED)),
        ("Make the small red circle on the left  green .", (PINK, replace(RED, colour="green"), BLUE)),
        ("move the largest shape to the centre", (PINK, RED, replace(BLUE, place="centre", x=32, y=32))),
        ("make the blue shape small", (PINK, RED, replace(BLUE, size="small"))),
        (
            "replace the shape on the left with an orange ring",
            (PINK, replace(RED, shape="ring", colour="orange"), BLUE),
        ),
        (
            "add a large cyan cross in the centre",
            (PINK, RED, Thing("cross", "cyan", "plain", "large", "centre", 0, 0), BLUE),
        ),
        ("outline the square in black", (PINK, RED, replace(BLUE, outlined=True))),
    ],
)
def test_texts_are_judged_by_what_they_do(text, things):
    assert leads_to(text, SCENE, SCENE.with_things(things))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "make it nicer",
        "remove the circle",  # which of the two?
        "remove the green circle",
        "remove the odd one out",
        "move the blue square to the left",  # where the red circle is
        "add a large cyan cross on the left",
        "add a cross in the centre",  # of which size and colour?
        "make the blue square green and remove the red circle",
        "make the blue square match the others",
        "replace the blue square with a shape",
    ],
)
def test_what_cannot_be_done_leads_nowhere(text):
    read = read_edit(text)
    assert read is None or apply_edit(read, SCENE) is None


@pytest.mark.parametrize("text", ["make the large blue striped square on the right green", "remove the blue square"])
def test_another_edit_does_not_lead_there(text):
    assert not leads_to(text, SCENE, SCENE.with_things((PINK, RED, replace(BLUE, colour="red"))))


def test_what_was_read_is_said_part_by_part():
    blue = ParsedThing("square", "blue", "striped", "large", "right", False)
    assert read_edit("make the large blue striped square on the right green") == ReadEdit("recolour", blue, new="green")
    assert read_edit("make the background fade from white to navy") == ReadEdit("gradient", new="white", end="navy")
    assert read_edit("replace the background with moon rock") == ReadEdit("texture", new="moon rock")
    assert read_edit("cover the scene in fog") == ReadEdit("fog")


def test_every_expressive_text_names_its_object_and_no_blind_one_does(samples):
    for sample in samples:
        data = sample["metadata"]
        if data["edit"]["before"] is not None:
            meant = data["edit"]["before"], data["source_scene"]
            assert names(sample["expressive"], *meant)
            assert not names(data.get("expressive_blind", ""), *meant)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("remove the red circle", True),
        ("make the shape on the left pink", True),  # another edit of the same object
        ("remove the pink circle", False),
        ("remove the small circle", False),  # which of both?
        ("remove the leftmost shape", False),
        ("the red circle", False),
    ],
)
def test_an_object_is_named_by_what_is_true_of_it_alone(text, named):
    assert names(text, RED, SCENE) is named

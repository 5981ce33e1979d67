"""Where vectors stand in an instruction, and which of them is the picture to edit."""

from typing import Any

import pytest

from mmig.methods.instruct_any2pix.slots import (
    CONVERTED,
    SOURCE,
    InstructionError,
    Slot,
    base_number,
    bracketed,
    pieces_of,
    without_brackets,
)

MARKED = {"instruction": "Remove [sound of a car] from [a road]", "base": "a road"}


def sample(instruction: str, kinds: str = "", roles: str = "", source: bool = False, **metadata: Any) -> dict[str, Any]:
    return {
        "key": ["one"],
        "instruction": [instruction],
        "attachment_kinds": [kinds.split()],
        "attachment_roles": [roles.split() or ["reference"] * len(kinds.split())],
        "has_source": [source],
        "metadata": [metadata],
    }


def test_slots_stand_where_the_placeholders_do():
    found = pieces_of(sample("add <audio:0> to <image:1>!", "audio image"), 0)
    assert found == ["add ", Slot(0), " to ", Slot(1), "!"]


def test_an_attachment_may_be_mentioned_twice():
    assert pieces_of(sample("<image:0> like <image:0>", "image"), 0) == [Slot(0), " like ", Slot(0)]


def test_a_source_and_what_is_not_mentioned_stand_before_the_text():
    assert pieces_of(sample("make it night", source=True), 0) == [Slot(SOURCE), "\n", "make it night"]
    found = pieces_of(sample("add it", "audio image", source=True), 0)
    assert found == [Slot(SOURCE), Slot(0), Slot(1), "\n", "add it"]


def test_a_source_that_is_an_attachment_stands_once():
    found = pieces_of(sample("make <image:0> night", "image", "base", source=True), 0)
    assert found == ["make ", Slot(0), " night"]


@pytest.mark.parametrize("text", ["add <image:1>", "add <audio:0>"])
def test_a_placeholder_of_no_attachment_is_refused_in_one_line(text: str):
    with pytest.raises(InstructionError, match=r"^sample 'one': <(image:1|audio:0)> stands for no attached"):
        pieces_of(sample(text, "image"), 0)


def test_brackets_become_slots_by_chance_and_the_base_the_source():
    marked = sample("Remove sound of a car from a road", source=True, marked=MARKED)
    assert pieces_of(marked, 0) == ["Remove ", Slot(CONVERTED, "sound of a car"), " from ", Slot(SOURCE)]
    assert pieces_of(marked, 0, lambda _: False) == ["Remove ", "sound of a car", " from ", Slot(SOURCE)]
    without = sample("Remove sound of a car from a road", marked=MARKED)
    assert pieces_of(without, 0)[-1] == Slot(CONVERTED, "a road")


def test_a_marked_instruction_as_text_and_its_brackets():
    assert without_brackets(MARKED["instruction"]) == "Remove sound of a car from a road"
    assert bracketed(MARKED["instruction"]) == ["sound of a car", "a road"]


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (sample("x", "audio image", "reference base", source=True), 1),
        (sample("x", "image image", source=True), SOURCE),
        (sample("x", "audio image"), 1),
        (sample("x", "image image"), None),
        (sample("x", "audio"), None),
    ],
)
def test_the_picture_to_edit_is_the_base_the_source_or_the_only_one(given: dict[str, Any], number: int | None):
    assert base_number(given, 0) == number

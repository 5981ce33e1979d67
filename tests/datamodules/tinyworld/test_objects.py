"""Worlds whose goal scenes all have one number of objects."""

import pytest

from datamodules.tinyworld.sample import draw_from
from datamodules.tinyworld.splits import edit_types
from datamodules.tinyworld.world import World
from datamodules.tinyworld.write import folder_name

TWO = World(level="plain", kinds=("literal",), objects=2)


def test_every_goal_has_as_many_objects_and_its_response_names_each() -> None:
    found = [draw_from(TWO, "test", index) for index in range(60)]
    assert {len(sample["metadata"]["target_scene"]["things"]) for sample in found} == {2}
    assert {len(sample["metadata"]["source_scene"]["things"]) for sample in found} == {1, 2}
    for sample in found:
        phrases = [concept["phrase"] for concept in sample["concepts"]]
        assert len(phrases) == 3 and all(phrase in sample["response"] for phrase in phrases)
    assert {sample["edit_type"] for sample in found} == set(edit_types("test", TWO))


@pytest.mark.parametrize(
    ("world", "split", "without"),
    [
        (TWO, "test", {"remove"}),
        (World(level="plain", kinds=("literal",), objects=1), "test", {"add"}),
        (World(level="plain", objects=3), "test", {*edit_types("test", World(level="plain"))} - {"visual"}),
        (World(photographs=False, objects=2), "val", set()),
    ],
)
def test_only_edit_types_that_cannot_lead_there_are_left_out(world: World, split: str, without: set[str]) -> None:
    level = World(level=world.level, photographs=world.photographs, kinds=world.kinds)
    assert set(edit_types(split, level)) - set(edit_types(split, world)) == without
    for index in range(12):
        assert len(draw_from(world, split, index)["metadata"]["target_scene"]["things"]) == world.objects


def test_they_have_a_folder_of_their_own_and_other_worlds_stay_as_they_are() -> None:
    literal = World(level="plain", kinds=("literal",))
    assert folder_name("test", 5, TWO) == "plain-objects2-test-5-seed0-literal-v2"
    assert folder_name("test", 5, literal) == "plain-test-5-seed0-literal-v2"


def test_a_number_that_no_scene_has_is_refused_in_a_line() -> None:
    for settings, said in (({"objects": 4}, "0 to 3, found 4"), ({"centred": True, "objects": 2}, "0 to 1, found 2")):
        with pytest.raises(ValueError, match=f"objects: expected {said}"):
            World(level="plain", **settings)
    with pytest.raises(ValueError, match="objects: split 'removals' has no goal scene of 2 for literal"):
        draw_from(TWO, "removals", 0)

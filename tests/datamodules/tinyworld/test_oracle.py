"""The oracle's errors, as published: right on true targets, never fooled by sources, strangers or uniform pictures."""

from dataclasses import replace

import numpy as np
import pytest

from datamodules.tinyworld.judge import TinyWorldJudge
from datamodules.tinyworld.oracle import judge, judge_scene
from datamodules.tinyworld.oracle_errors import CASES, as_image, as_table, oracle_errors, softened
from datamodules.tinyworld.reading import grown
from datamodules.tinyworld.render import render
from datamodules.tinyworld.sample import draw_sample
from datamodules.tinyworld.scene import Background, Scene, Thing, cell_centre
from datamodules.tinyworld.world import LEVELS, World

COUNT = 50
RED = Thing("circle", "red", "plain", "medium", "left", 11, 32)
BLUE = Thing("square", "blue", "striped", "large", "right", 53, 32)
SCENE = Scene(Background("gradient", "white", "grey"), (RED, BLUE))


@pytest.fixture(scope="module", params=LEVELS)
def errors(request):
    return oracle_errors("test", COUNT, World(level=request.param))


def test_true_targets_are_all_right(errors):
    assert errors["true target"]["all"] == (1.0, 1.0, COUNT)


def test_unedited_sources_never_succeed_and_are_always_preserved(errors):
    assert errors["unedited source"]["all"] == (0.0, 1.0, COUNT)


def test_another_samples_target_succeeds_at_most_once_in_fifty(errors):
    assert errors["another's target"]["all"][0] <= 0.02


def test_another_legal_edit_succeeds_at_most_once_in_fifty(errors):
    assert errors["another edit"]["all"][0] <= 0.02


@pytest.mark.slow
def test_on_plain_no_type_of_edit_is_judged_wrongly_in_more_than_two_of_a_hundred():
    errors = oracle_errors("test", 2400, World(level="plain"))
    for kind, (success, preservation, count) in errors["true target"].items():
        assert count >= 200 and success == preservation == 1.0, kind
        assert errors["unedited source"][kind][0] == 0.0, kind
        assert errors["another's target"][kind][0] <= 0.02, kind
        assert errors["another edit"][kind][0] <= 0.02, kind


def test_a_uniform_picture_never_succeeds(errors):
    assert errors["uniform"]["all"][0] == 0.0


def test_blurred_and_noisy_targets_succeed_nearly_always(errors):
    success, preservation, _ = errors["softened target"]["all"]
    assert success >= 0.95 and preservation >= 0.95


def test_the_table_has_a_row_for_each_type(errors):
    lines = as_table(errors).splitlines()
    assert len(lines) == 2 + len(errors["true target"])
    assert all(case in lines[1] for case in CASES)


@pytest.mark.parametrize("colour", ["white", "black", "grey", "beige"])
def test_uniform_pictures_of_any_brightness_never_succeed(colour):
    level = {"white": 250, "black": 14, "grey": 145, "beige": 200}[colour]
    picture = as_image(np.full((64, 64, 3), level, dtype=np.uint8))
    assert not any(judge(picture, draw_sample(0, "val", index)["metadata"]).success for index in range(11))


HELD_OUT = ("unseen_pairs", "unseen_counts", "outline")


@pytest.mark.parametrize(
    ("level", "split"), [*((level, split) for level in LEVELS for split in HELD_OUT), ("full", "unseen_photographs")]
)
def test_held_out_splits_are_judged_right(level, split):
    for index in range(5):
        sample = draw_sample(0, split, index, level=level)
        verdict = judge(as_image(sample["target"]), sample["metadata"])
        assert verdict.success and verdict.preservation
        assert not judge(as_image(sample["source"]), sample["metadata"]).success


def first_of(edit_type, level="full"):
    samples = (draw_sample(0, "val", index, level=level) for index in range(200))
    return next(sample for sample in samples if sample["edit_type"] == edit_type)


def with_more(sample, *things):
    """The sample's target, more objects drawn in it."""
    scene = Scene.from_dict(sample["metadata"]["target_scene"])
    return as_image(render(scene.with_things((*scene.things, *things))))


@pytest.mark.parametrize("level", LEVELS)
def test_a_removed_object_that_stands_elsewhere_was_moved(level):
    sample = first_of("remove", level)
    scene = Scene.from_dict(sample["metadata"]["target_scene"])
    before = Thing(**sample["metadata"]["edit"]["before"])
    place = next(place for place in scene.free_places() if place != before.place)
    x, y = cell_centre(place)
    verdict = judge(with_more(sample, replace(before, place=place, x=x, y=y)), sample["metadata"])
    assert not verdict.success and not verdict.preservation


@pytest.mark.parametrize(
    ("level", "edit_type"), [*((level, "recolour") for level in LEVELS), ("plain", "background"), ("plain", "style")]
)
def test_a_new_object_beside_a_right_edit_is_seen(level, edit_type):
    sample = first_of(edit_type, level)
    scene = Scene.from_dict(sample["metadata"]["target_scene"])
    place = scene.free_places()[0]
    colour = "yellow" if scene.background.first in ("navy", "black", "brown") else "blue"
    added = Thing("square", colour, "plain", "medium", place, *cell_centre(place))
    assert not judge(with_more(sample, added), sample["metadata"]).preservation


def test_a_picture_that_is_a_little_darker_throughout_is_preserved():
    for edit_type in ("recolour", "remove", "background", "atmosphere"):
        sample = first_of(edit_type, "plain")
        verdict = judge(as_image(sample["target"]) - 0.06, sample["metadata"])
        assert verdict.success and verdict.preservation


def test_samples_of_before_there_were_levels_are_judged_as_full():
    sample = draw_sample(0, "val", 0)
    old = {name: value for name, value in sample["metadata"].items() if name not in ("level", "kind")}
    assert judge(as_image(sample["target"]), old) == judge(as_image(sample["target"]), sample["metadata"])


def test_an_edit_that_spoils_the_rest_succeeds_without_preserving():
    sample = first_of("recolour")
    rest = ~grown(sample["target_mask"], 3)
    spoilt = sample["target"].copy()
    spoilt[rest] = 255 - spoilt[rest]
    verdict = judge(as_image(spoilt), sample["metadata"])
    assert verdict.success and not verdict.preservation


def test_a_wrong_colour_fails():
    sample = first_of("recolour")
    metadata = sample["metadata"]
    edit = metadata["edit"]
    wrong = next(c for c in ("green", "blue", "pink") if c not in (edit["before"]["colour"], edit["after"]["colour"]))
    scene = Scene.from_dict(metadata["target_scene"])
    after = Thing(**edit["after"])
    things = tuple(replace(thing, colour=wrong) if thing == after else thing for thing in scene.things)
    assert not judge(as_image(render(replace(scene, things=things))), metadata).success


def test_a_place_a_little_off_still_counts():
    sample = first_of("add")
    scene = Scene.from_dict(sample["metadata"]["target_scene"])
    after = Thing(**sample["metadata"]["edit"]["after"])
    things = tuple(replace(thing, x=thing.x + 2, y=thing.y - 1) if thing == after else thing for thing in scene.things)
    assert judge(as_image(render(replace(scene, things=things))), sample["metadata"]).success


def test_a_drawn_scene_is_right():
    verdict = judge_scene(as_image(render(SCENE)), SCENE.to_dict())
    assert verdict.correct and verdict.background and verdict.objects_right == verdict.objects == 2


@pytest.mark.parametrize(
    "drawn",
    [
        (replace(RED, colour="green"), BLUE),
        (replace(RED, shape="diamond"), BLUE),
        (replace(RED, place="centre", x=32), BLUE),
        (RED,),
        (RED, BLUE, Thing("cross", "yellow", "plain", "small", "top", 32, 11)),
    ],
    ids=["colour", "shape", "place", "missing", "extra"],
)
def test_a_scene_with_one_fault_is_wrong(drawn):
    assert not judge_scene(as_image(render(replace(SCENE, things=drawn))), SCENE).correct


def test_scenes_before_photographs_are_read_too():
    samples = (draw_sample(0, "unseen_photographs", index) for index in range(30))
    local = [sample for sample in samples if sample["edit_type"] in ("add", "move", "recolour")]
    assert len(local) > 3
    for sample in local:
        assert judge_scene(as_image(softened(sample, sample, World())), sample["metadata"]["target_scene"]).correct


def test_the_judge_of_metrics_gives_numbers():
    sample = draw_sample(0, "val", 0)
    scores = TinyWorldJudge()(as_image(sample["target"]), sample["metadata"])
    assert scores["success"] == scores["preservation"] == 1.0


@pytest.mark.parametrize("metadata", [None, {}, {"world": "ours"}])
def test_foreign_metadata_is_refused(metadata):
    with pytest.raises(ValueError, match="metadata: expected that of a small world's sample"):
        TinyWorldJudge()(np.zeros((3, 64, 64)), metadata)


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"expected shape \(3, 64, 64\), found \(3, 32, 32\)"):
        judge(np.zeros((3, 32, 32)), draw_sample(0, "val", 0)["metadata"])


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        judge(np.full((3, 64, 64), np.nan), draw_sample(0, "val", 0)["metadata"])


def test_the_judge_reads_texts() -> None:
    judge, sample = TinyWorldJudge(), draw_sample(0, "val", 3, photographs=False)
    assert judge.text(sample["response"], sample["metadata"])
    assert judge.text(sample["target_caption"], sample["metadata"])
    assert not judge.text(sample["source_caption"], sample["metadata"])

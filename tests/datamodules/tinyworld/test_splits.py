"""Training, validation and test never share a pair of scenes, in any process, with any seed."""

import subprocess
import sys
from dataclasses import replace

import pytest

from datamodules.tinyworld.sample import draw_pair
from datamodules.tinyworld.scene import Background, Scene, Thing
from datamodules.tinyworld.splits import TENTHS, belongs, pair_name, tenth
from datamodules.tinyworld.world import LEVELS, World

RED = Thing("circle", "red", "plain", "small", "left", 11, 32)
BLUE = Thing("square", "blue", "plain", "large", "right", 53, 32)
SOURCE = Scene(Background("plain", first="white"), (RED, BLUE))
TARGET = replace(SOURCE, things=(RED,))
PHOTOGRAPH = Background("photograph", photograph="astronaut.png", left=10, top=20, zoom=5)


def name(source=SOURCE, target=TARGET):
    return pair_name(source, target)


def drawn(split, count, seed=0, level="plain"):
    world = World(seed, level)
    return {pair_name(*draw_pair(world, split, index)[2][:2]) for index in range(count)}


def test_the_hash_is_what_it_was():
    """Another value would put test scenes into the training of whatever was trained before."""
    assert name() == (
        "plain,white,; left,circle,red,plain,small,; right,square,blue,plain,large,;  > "
        "plain,white,; left,circle,red,plain,small,; "
    )
    assert tenth(SOURCE, TARGET) == HASHED


def test_samples_are_the_same_in_another_process():
    code = (
        "from datamodules.tinyworld.sample import draw_pair; from datamodules.tinyworld.splits import pair_name;"
        "from datamodules.tinyworld.world import World;"
        "print(*(pair_name(*draw_pair(World(level='plain'), 'test', i)[2][:2]) for i in range(5)), sep='|', end='')"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    own = "|".join(pair_name(*draw_pair(World(level="plain"), "test", index)[2][:2]) for index in range(5))
    assert outputs == [own, own]


def test_pixels_of_place_and_order_of_objects_make_no_difference():
    assert name(replace(SOURCE, things=(BLUE, replace(RED, x=14, y=30)))) == name()


def test_a_little_of_a_photographs_cut_makes_no_difference_and_much_does():
    scenes = [Scene(replace(PHOTOGRAPH, left=left)) for left in (10, 30, 200)]
    names = [pair_name(scene, replace(scene, effect="contrast up")) for scene in scenes]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    "other",
    [
        replace(TARGET, effect="fog"),
        replace(TARGET, background=Background("plain", first="grey")),
        replace(TARGET, things=(replace(RED, colour="green"),)),
        replace(TARGET, things=(replace(RED, shape="ring"),)),
        replace(TARGET, things=(replace(RED, size="large"),)),
        replace(TARGET, things=(replace(RED, place="top"),)),
        replace(TARGET, things=(replace(RED, texture="dotted"),)),
        replace(TARGET, things=(replace(RED, outlined=True),)),
    ],
)
def test_all_that_is_said_of_a_scene_makes_a_difference(other):
    assert name(target=other) != name()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", TENTHS)
def test_splits_hold_the_pairs_of_their_tenths(split, level):
    for index in range(40):
        source, target, _ = draw_pair(World(level=level), split, index)[2]
        assert tenth(source, target) in TENTHS[split] and belongs(split, source, target)


def test_tenths_share_out_all_pairs():
    shares = {split: len(TENTHS[split]) for split in ("train", "val", "test")}
    assert shares == {"train": 8, "val": 1, "test": 1}
    assert sorted(number for split in shares for number in TENTHS[split]) == list(range(10))


def test_pairs_are_spread_evenly_over_the_tenths():
    backgrounds = [Background("plain", first=colour) for colour in ("white", "grey", "black", "beige")]
    counts = [0] * 10
    for background in backgrounds:
        for x in ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"):
            for place in ("top", "left", "right", "bottom", "centre"):
                for size in ("small", "medium", "large"):
                    scene = Scene(background, (replace(RED, colour=x, place=place, size=size),))
                    counts[tenth(scene, replace(scene, effect="night"))] += 1
    assert sum(counts) == 480 and min(counts) > 25 and max(counts) < 75


@pytest.mark.parametrize("level", LEVELS)
def test_training_holds_no_pair_of_test_or_validation(level):
    train = drawn("train", 2000, level=level) | drawn("train", 1000, seed=1, level=level)
    assert not train & (drawn("test", 200, level=level) | drawn("val", 200, seed=2, level=level))


@pytest.mark.slow
def test_no_pair_of_the_test_split_is_among_200000_training_samples():
    test = drawn("test", 5000) | drawn("test", 5000, seed=7)
    train = drawn("train", 200_000)
    assert len(train) > 10_000 and not train & test


HASHED = 6

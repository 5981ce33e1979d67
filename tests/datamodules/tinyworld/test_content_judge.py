"""The judge of metrics knows the worlds beside the scenes: true targets, sources, others' targets, and texts."""

from functools import partial

import numpy as np
import pytest

from datamodules.tinyworld.contents import CONTENTS
from datamodules.tinyworld.judge import TinyWorldJudge
from datamodules.tinyworld.oracle_errors import as_image, softened
from datamodules.tinyworld.world import World

COUNTS = dict.fromkeys(CONTENTS, 25) | {"illustrations": 8, "multimodal_several": 8, "multimodal_long": 2}
JUDGE = TinyWorldJudge()
SAMPLES = {
    name: [content.draw(0, "test", index) for index in range(COUNTS[name])] for name, content in CONTENTS.items()
}


def scores(name, picture):
    numbered = list(enumerate(SAMPLES[name]))
    return [
        JUDGE(as_image(picture(sample, SAMPLES[name][number - 1])), sample["metadata"]) for number, sample in numbered
    ]


def passed(found):
    return [each["success"] and each["preservation"] and each["kept"] == 1 for each in found]


@pytest.mark.parametrize("name", CONTENTS)
def test_true_targets_succeed_and_keep_the_rest(name):
    assert all(passed(scores(name, lambda sample, other: sample["target"])))


@pytest.mark.parametrize("name", CONTENTS)
def test_softened_targets_do_so_in_95_of_100_cases(name):
    assert np.mean(passed(scores(name, partial(softened, world=World())))) >= 0.95


@pytest.mark.parametrize("name", CONTENTS)
def test_sources_do_not_succeed_and_keep_the_rest(name):
    found = scores(name, lambda sample, other: sample["source"])
    assert not any(each["success"] for each in found)
    assert np.mean([each["preservation"] for each in found]) == 1


@pytest.mark.parametrize("name", CONTENTS)
def test_targets_of_others_and_uniform_pictures_do_not_pass(name):
    uniform = np.full((64, 64, 3), 128, dtype=np.uint8)
    for picture in (lambda sample, other: other["target"], lambda sample, other: uniform):
        assert not any(passed(scores(name, picture)))


@pytest.mark.parametrize("name", CONTENTS)
def test_responses_are_right_and_those_of_others_wrong(name):
    for number, sample in enumerate(SAMPLES[name]):
        assert JUDGE.text(sample["response"], sample["metadata"])
        assert not JUDGE.text(SAMPLES[name][number - 1]["response"], sample["metadata"])

"""The oracle judges an edit that another text than the sample's asks for."""

import numpy as np
import pytest

from datamodules.tinyworld.asked import asked
from datamodules.tinyworld.judge import TinyWorldJudge
from datamodules.tinyworld.render import render
from datamodules.tinyworld.sample import draw_sample
from datamodules.tinyworld.scene import Scene


def as_tensor(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1


def test_the_samples_own_instruction_asks_for_the_samples_own_edit() -> None:
    understood, types = 0, set()
    for index in range(150):
        sample = draw_sample(0, "train", index, level="plain")
        found = asked(sample["instruction"], sample["metadata"])
        if found is None:
            continue
        own, understood = sample["metadata"]["edit"], understood + 1
        types.add(own["type"])
        assert (found["edit"]["type"], found["edit"]["operation"]) == (own["type"], own["operation"])
        verdict = TinyWorldJudge()(as_tensor(sample["target"]), found)
        assert verdict["success"] == verdict["preservation"] == 1, sample["instruction"]
        assert TinyWorldJudge()(as_tensor(sample["source"]), found)["success"] == 0
    assert understood > 140
    assert len(types) >= 9


def test_another_instruction_is_judged_by_what_it_asks_for() -> None:
    sample = next(
        sample
        for index in range(99)
        if (sample := draw_sample(0, "test", index, level="plain"))["edit_type"] == "recolour"
    )
    judge = TinyWorldJudge()
    found = judge.asked("make it night", sample["metadata"])
    assert found is not None
    goal = as_tensor(render(Scene.from_dict(found["target_scene"])))
    assert judge(goal, found)["success"] == 1
    assert judge(goal, sample["metadata"])["success"] == 0
    assert judge(as_tensor(sample["target"]), found)["success"] == 0


@pytest.mark.parametrize("text", ["", "paint a cathedral", "remove the odd one out and make it night"])
def test_nobody_says_what_a_text_asks_for_that_is_not_understood(text: str) -> None:
    assert asked(text, draw_sample(0, "test", 0, level="plain")["metadata"]) is None


def test_nor_of_another_data_set() -> None:
    assert asked("make it night", {"world": "subjects"}) is None
    assert asked("make it night", {}) is None

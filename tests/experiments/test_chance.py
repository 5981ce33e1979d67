"""The editor that guesses which object is meant is right where it guesses right, and there alone."""

from itertools import count

import numpy as np
import pytest
import torch

from datamodules.schema import collate
from datamodules.tinyworld.edits import Edit
from datamodules.tinyworld.judge import TinyWorldJudge
from datamodules.tinyworld.oracle_errors import as_image
from datamodules.tinyworld.render import render
from datamodules.tinyworld.sample import make_sample
from datamodules.tinyworld.scene import Scene
from experiments.chance import Chance, done_to
from mmig.evaluation.opening import open_named


def visual(number: int) -> list[dict]:
    return [make_sample(0, "test", index, level="plain", kinds=("visual",)) for index in range(number)]


def test_done_to_the_object_that_is_meant_it_is_the_edit_and_done_to_another_it_is_not() -> None:
    judge = TinyWorldJudge()
    for sample in visual(40):
        facts = sample["metadata"]
        source, edit = Scene.from_dict(facts["source_scene"]), Edit.from_dict(facts["edit"])
        for number, thing in enumerate(source.things):
            scene = done_to(number, edit, source)
            assert (scene == Scene.from_dict(facts["target_scene"])) == (thing == edit.before)
            found = judge(as_image(render(scene)), facts)
            assert found["success"] * found["preservation"] == (thing == edit.before)


def test_every_object_is_drawn_as_often() -> None:
    samples = visual(60)
    batch = collate(samples)
    editor = open_named(None, "configs/editors/chance.yaml").editor
    assert isinstance(editor, Chance)
    targets = torch.stack([torch.from_numpy(as_image(np.asarray(sample["target"]))) for sample in samples])
    right = [
        (editor(batch, torch.Generator().manual_seed(seed)).images == targets).flatten(1).all(1) for seed in range(30)
    ]
    expected = np.mean([1 / len(sample["metadata"]["source_scene"]["things"]) for sample in samples])
    assert torch.stack(right).float().mean().item() == pytest.approx(expected, abs=0.04)


def test_what_is_no_edit_of_an_object_is_refused_in_a_line() -> None:
    literal = (make_sample(0, "test", index, level="plain", kinds=("literal",)) for index in count())
    sample = next(found for found in literal if found["edit_type"] == "style")
    with pytest.raises(ValueError, match=r"chance: expected an edit of an object, .* found 'style'"):
        Chance()(collate([sample]), torch.Generator())
    with pytest.raises(ValueError, match="chance: expected samples of the small world"):
        Chance()(collate([{**sample, "metadata": {}}]), torch.Generator())

"""A language model from which the source is hidden while the denoiser is shown it."""

from dataclasses import replace
from pathlib import Path

import torch

from mmig.methods.mmig.inference import respond
from mmig.methods.mmig.pipeline import MMIGEditor
from tests.mmig.methods.mmig.pipeline_support import FAST, TEXT, build, seeded, source
from tests.tiny_fixtures import build_all


def test_a_language_model_that_is_not_to_see_reads_the_instruction_alone(tmp_path: Path) -> None:
    folders = build_all(tmp_path)
    whole = build(folders, concat=True, whole=True, trained=True)
    plain = build(folders, concat=False, whole=False, trained=False)
    pictures = source(2).flip(0)[:1], source(2)[:1]
    states = {
        sees: [respond(whole.model, picture, ["x"], [TEXT], sees)[1].states for picture in pictures]
        for sees in (True, False)
    }
    assert torch.equal(*states[False]) and not torch.equal(*states[True])
    alone = whole.model.mllm(["x"], [TEXT], None).states.states
    torch.testing.assert_close(states[False][0], alone)
    hidden = replace(FAST, sees=False)
    seen, unseen = (whole.edit(pictures[0], ["x"], [TEXT], each, seeded()).images for each in (FAST, hidden))
    assert not torch.equal(seen, unseen)
    assert "sees" in MMIGEditor(plain, FAST).idle_settings and "sees" not in MMIGEditor(whole, FAST).idle_settings

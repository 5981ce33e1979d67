"""Which losses the profiles of the stages count, in words; and in which precision their weights are."""

import pytest
import torch

from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage1, Stage2, Stage3, Stage4, Stage5
from tests.mmig.methods.mmig.stages.support import build_stage
from tests.tiny_fixtures import TinyBackbones, build_all

ALL = {"sdm", "as", "ar", "fg", "bg", "mmt", "blip2", "mmsm"}
STRICT = {
    Stage1: {"mmsm"},
    Stage2: {"mmt", "mmsm"},
    Stage3: {"sdm", "as", "ar", "fg", "bg", "mmsm"},
    Stage4: {"mmt", "sdm", "as", "ar", "fg", "bg", "mmsm"},
    Stage5: ALL,
}
PAPER = STRICT | {Stage1: {"mmsm", "sdm"}, Stage2: {"mmt", "mmsm", "sdm"}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("kind", STRICT)
def test_profiles_count_what_they_name(kind: type[MMIGStage]) -> None:
    assert kind.profile_weights("strict") == dict.fromkeys(STRICT[kind], 1.0)
    assert kind.profile_weights("paper") == dict.fromkeys(PAPER[kind], 1.0)
    down = {"as": 1e-3, "ar": 1e-3}
    assert kind.profile_weights("practical") == {name: down.get(name, 1.0) for name in PAPER[kind]}


@pytest.mark.parametrize("kind", STRICT)
def test_trained_weights_are_float32_and_frozen_backbones_bfloat16(
    folders: TinyBackbones, kind: type[MMIGStage]
) -> None:
    stage = build_stage(folders, kind, dtype="bfloat16")
    trained = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    assert trained and {parameter.dtype for parameter in trained} == {torch.float32}
    loaded = {name: part for name, part in stage.named_backbones().items() if name != "adapters"}
    assert len(loaded) == {Stage1: 4, Stage5: 6}.get(kind, 5)
    for name, part in loaded.items():
        frozen = {parameter.dtype for parameter in part.parameters() if not parameter.requires_grad}
        assert frozen <= {torch.bfloat16}, name
        assert frozen or name == "unet", name  # of a trained denoiser nothing is frozen

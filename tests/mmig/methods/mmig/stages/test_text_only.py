"""The share of samples whose source the multimodal LLM does not see."""

import pytest
import torch

from mmig.base.batches import micro_batches
from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.objective import ObjectiveConfig
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage2
from mmig.training.rng import Draws
from tests.mmig.methods.mmig.stages.support import build_stage, recorded, world_batch
from tests.terms import counts_of, values_of
from tests.tiny_fixtures import build_all

SHARE = 0.5
BATCH = world_batch()
DRAWS = Draws(5, BATCH["position"])
ROWS = DRAWS.bernoulli("text_only", SHARE)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> MMIGStage:
    folders, settings = build_all(tmp_path_factory.mktemp("tiny")), MultimodalConfig(dropout=0.0)
    return build_stage(folders, Stage2, objective=ObjectiveConfig(text_only=SHARE), multimodal=settings)


def test_both_rows_of_the_modality_embedding_learn(stage: MMIGStage) -> None:
    assert ROWS.tolist() == [False, False, True, True]
    embedding = stage.mmig.mllm.adapters["modality"].weight
    with torch.no_grad():  # the adapters' branches differ, or the mixture would not matter
        for adapter in stage.mmig.mllm.adapters["llm"]:
            for number, up in enumerate(adapter.ups):
                torch.nn.init.normal_(up.weight, std=0.1, generator=torch.Generator().manual_seed(number))
    for share, reached in ((SHARE, [True, True]), (0.0, [False, True])):
        stage.mmig.objective.text_only = share
        (gradient,) = torch.autograd.grad(values_of(stage, BATCH, DRAWS)["mmt"].sum(), embedding)
        assert gradient.any(dim=1).tolist() == reached
    stage.mmig.objective.text_only = SHARE


def test_the_llm_reads_the_template_without_image_and_the_denoiser_sees_the_source(stage: MMIGStage) -> None:
    model = stage.mmig
    with recorded(model.unet) as unet, torch.no_grad():
        values = values_of(stage, BATCH, DRAWS)
    blind, seeing = (
        model.mllm(BATCH["instruction"], BATCH["response"], BATCH["source"], torch.full((4,), seen)).losses
        for seen in (False, True)
    )
    torch.testing.assert_close(values["mmt"], torch.where(ROWS, blind, seeing))
    assert not torch.isclose(blind, seeing).any()
    with torch.no_grad():
        source = model.vae.encode(BATCH["source"]).latent_dist.mode()
    torch.testing.assert_close(unet[0].inputs[0][:, 4:], source)


def test_nothing_else_counts_otherwise_and_micro_batches_draw_the_same(stage: MMIGStage) -> None:
    values, counts = values_of(stage, BATCH, DRAWS), counts_of(stage, BATCH, DRAWS)
    assert all((count > 0).all() for count in counts.values())
    parts = [values_of(stage, part, Draws(5, part["position"])) for part in micro_batches(BATCH, 1)]
    for name, value in values.items():
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_out_of_range_is_named(share: float) -> None:
    with pytest.raises(ValueError, match=r"objective\.text_only must be in \[0, 1\], found"):
        ObjectiveConfig(text_only=share)

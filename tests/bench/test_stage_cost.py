"""bench/stage_cost.py: counts against published numbers, and against a step on the CPU at small sizes."""

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from bench.stage_cost import count
from bench.stages.build import STAGES, build_stage, random_batch
from bench.stages.count import Pieces, forward_operations, memory, operations, step_operations
from bench.stages.sizes import PUBLISHED, SMALL
from bench.tools.loops import BareLoop
from mmig.methods.mmig.stages.mmig_stage import MMIGStage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole() -> MMIGStage:
    """Stage 5 at the published sizes, without memory."""
    return build_stage(STAGES[5], PUBLISHED, "meta")


@pytest.fixture(scope="module")
def forwards(whole: MMIGStage) -> dict[str, int]:
    """Operations of one forward of each part."""
    return forward_operations(Pieces(whole.mmig, PUBLISHED))


def test_trained_parameters_are_the_published_ones(whole: MMIGStage) -> None:
    parts = {name: whole.mmig.get_submodule(name).parameters() for name in whole.trained_parts}
    assert {name: sum(p.numel() for p in part if p.requires_grad) for name, part in parts.items()} == {
        "mmsm": 18_699_776,
        "mllm.adapters": 3_781_296,
        "unet": 859_520_964,
        "captioner": 107_130_880,
    }


def test_memory_of_stage_5_is_that_of_the_dossier(whole: MMIGStage) -> None:
    """14.7 GiB at 16 bytes a trained parameter, and 20.3 GiB of frozen bfloat16; the hub's OPT has 32 rows more."""
    found = memory(whole)
    assert found.trained == 989_132_916
    assert found.total == 16 * found.trained + 2 * found.frozen
    assert 16 * found.trained / 2**30 == pytest.approx(14.7, abs=0.05)
    assert 2 * found.frozen / 2**30 == pytest.approx(20.3, abs=0.05)
    assert found.average == 4 * found.trained


def test_forward_operations_are_those_of_the_dossier(forwards: dict[str, int]) -> None:
    found = {name: value / 1e12 for name, value in forwards.items()}
    expected = {
        "LLM, 512 tokens": 6.77,
        "CLIP image tower": 0.16,
        "UNet with MMSM": 0.80,
        "VAE encoder": 1.12,
        "VAE decoder": 2.52,
        "BLIP-2 image tower": 0.52,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.01)


def test_features_and_visual_tokens_have_the_published_shapes(whole: MMIGStage) -> None:
    """MMSM stands at 1280 x 8 x 8; CLIP gives the LLM six tokens of its own width."""
    shapes: list[torch.Size] = []
    with whole.mmig.mmsm["mid_block"].register_forward_hook(lambda _m, inputs, _o: shapes.append(inputs[0].shape)):
        Pieces(whole.mmig, PUBLISHED).unet()
    assert shapes == [(1, 1280, 8, 8)]
    with torch.device("meta"):
        visual = whole.mmig.mllm.visual_tokens(torch.zeros(2, 3, 512, 512), torch.ones(2, dtype=torch.bool))
    assert visual.shape == (2, 6, 4096)


def test_the_measured_stage_trains_as_the_real_one(whole: MMIGStage) -> None:
    """Dropout stays where weights train, and logging before the first forward says nothing."""
    qformer = whole.mmig.captioner.model.qformer
    assert qformer.dropout.p == 0.1 and qformer.training
    language_model = whole.mmig.captioner.model.language_model
    assert language_model.config.dropout == 0.0 and not language_model.lm_head.weight.requires_grad
    assert qformer.layernorm.weight.dtype == torch.float32 and language_model.lm_head.weight.dtype == torch.bfloat16
    assert whole.logged() == {}


def test_the_llm_costs_two_operations_a_weight_and_token(whole: MMIGStage, forwards: dict[str, int]) -> None:
    layers, tokens, width = whole.mmig.mllm.llm.get_decoder().layers, 512, 4096
    weights = sum(p.numel() for p in layers.parameters() if p.ndim == 2)
    attention = len(layers) * 4 * tokens**2 * width
    assert forwards["LLM, 512 tokens"] == pytest.approx(
        2 * tokens * weights + attention, rel=1e-3
    )  # the adapters are the rest


def test_a_trained_denoiser_costs_three_forwards_and_a_frozen_one_less() -> None:
    trained, frozen = (Pieces(build_stage(STAGES[number], SMALL, "meta").mmig, SMALL) for number in (3, 1))
    with torch.no_grad():
        forward = operations(trained.unet)
    assert operations(lambda: trained.unet().sum().backward()) == pytest.approx(3 * forward, rel=0.05)
    assert forward < operations(lambda: frozen.unet().sum().backward()) < 2 * forward  # the way back ends at MMSM


def test_stages_cost_more_from_one_to_the_next_of_their_kind() -> None:
    stages = [build_stage(kind, SMALL, "meta") for kind in STAGES.values()]
    known: dict[tuple, int] = {}
    costs = [step_operations(stage, Pieces(stage.mmig, SMALL), known) for stage in stages]
    assert costs[0] < costs[1] < costs[3] < costs[4] and costs[0] < costs[2] < costs[3]
    assert step_operations(stages[2], Pieces(stages[2].mmig, SMALL)) == costs[2]  # of stage 1's none was taken wrongly


def test_the_table_has_a_line_a_stage() -> None:
    lines = count([1], SMALL)
    assert [line.split()[0] for line in lines[2:]] == ["stage", "1"]


@pytest.mark.parametrize("number", STAGES)
def test_a_step_of_each_stage_runs_and_has_the_states_that_were_counted(number: int) -> None:
    torch.manual_seed(0)
    stage = build_stage(STAGES[number], SMALL, CPU, checkpointing=True)  # in bfloat16, as on a GPU
    before = [p.detach().clone() for p in stage.parameters() if p.requires_grad]
    seen: list[int] = []

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        states = optimizer.state.values()
        seen.append(sum(state[name].nbytes for state in states for name in ("exp_avg", "exp_avg_sq")))

    loop = BareLoop(stage, 10, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    hook = register_optimizer_step_post_hook(keep)
    try:
        loop.step(random_batch(2, SMALL))
    finally:
        hook.remove()
    assert seen == [memory(stage).moments]
    after = [p for p in stage.parameters() if p.requires_grad]
    assert all(torch.isfinite(weight).all() for weight in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))

"""bench/finetune_memory.py: its counts against numbers known otherwise, at the published sizes and at small ones."""

import pytest
import torch

from bench.finetune_memory import GOAL, counted
from bench.stages.finetune import VARIANTS, Variant, build_finetune, fixed_bytes
from bench.stages.saved import Kept
from bench.stages.sizes import PUBLISHED
from mmig.methods.mmig.stages.finetune import FineTune, Updates
from mmig.training.lora import LoRAConfig
from tests.bench.test_stage_cost import SMALL


def test_fixed_memory_at_the_published_sizes_is_that_of_the_parts() -> None:
    """LLaMA-7B: 32 layers of 202,375,168 weights in matrices, of which 4 bits leave little more than a quarter."""
    whole, bits = VARIANTS[3], VARIANTS[1]
    stage = build_finetune(bits, PUBLISHED, checkpointing=True)
    saved = fixed_bytes(stage, whole) - fixed_bytes(stage, bits)
    assert saved == pytest.approx(32 * 202_375_168 * (2 - 0.5159), rel=1e-3)
    trained = sum(parameter.numel() for parameter in stage.parameters() if parameter.requires_grad)
    assert trained - 18_699_776 - 3_781_296 == pytest.approx(32 * 4 * 2 * 4096 * 16 + 3_188_736, rel=1e-3)


def test_rows_grow_with_the_batch_and_checkpointing_keeps_less() -> None:
    variant = Variant("small", FineTune, Updates(LoRAConfig(2), LoRAConfig(2)), "4bit", "adamw_8bit")
    on, off = counted(SMALL, [variant])
    assert 0 < on.kept < off.kept and on.fixed == off.fixed
    assert on.total(3) == pytest.approx((on.fixed + 3 * on.kept) / 2**30) and GOAL == 22


def test_what_autograd_keeps_is_counted_once_and_without_weights() -> None:
    layer = torch.nn.Linear(8, 8, device="meta")
    with Kept(layer) as kept:
        hidden = torch.zeros(4, 8, device="meta", requires_grad=True).exp()  # keeps its result
        _ = layer(hidden) * hidden  # linear and product keep `hidden` again; the product its other factor
    assert kept.total == 2 * 4 * 8 * 4

"""The condition mix (section 3.3) and fused guidance (eq 7, 8)."""

import pytest
import torch

from mmig.diffusion.guidance import combine
from mmig.methods.umm_diffusion.conditions import condition_mix, fused_guidance
from mmig.training.rng import Draws


def test_conditions_come_as_often_as_the_paper_says() -> None:
    uniform = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0))
    nothing, unified = condition_mix(uniform, 0.1, 0.6)
    shares = [float(chosen.float().mean()) for chosen in (nothing, unified, ~nothing & ~unified)]
    assert shares == pytest.approx([0.1, 0.54, 0.36], abs=0.002)
    assert not (nothing & unified).any()


def test_a_samples_condition_depends_on_its_position_alone() -> None:
    together = condition_mix(Draws(3, [5, 6, 7]).uniform("condition"), 0.1, 0.6)
    alone = condition_mix(Draws(3, [7]).uniform("condition"), 0.1, 0.6)
    assert [bool(chosen[2]) for chosen in together] == [bool(chosen[0]) for chosen in alone]


def test_the_papers_weights() -> None:
    assert fused_guidance(7.5, 0.5) == {"unified": 3.75, "text": 3.75, "null": -6.5}


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("w", [1.0, 7.5])
def test_it_is_classifier_free_guidance_towards_the_fused_prediction(alpha: float, w: float) -> None:
    unified, text, null = torch.randn(3, 2, 4, 8, 8).unbind()
    found = combine({"unified": unified, "text": text, "null": null}, fused_guidance(w, alpha))
    fused = alpha * unified + (1 - alpha) * text  # (7)
    torch.testing.assert_close(found, null + w * (fused - null), rtol=1e-5, atol=1e-5)


def test_limits_leave_branches_out() -> None:
    assert fused_guidance(4.0, 0.0) == {"unified": 0.0, "text": 4.0, "null": -3.0}
    assert fused_guidance(4.0, 1.0) == {"unified": 4.0, "text": 0.0, "null": -3.0}
    assert fused_guidance(1.0, 0.5) == {"unified": 0.5, "text": 0.5, "null": 0.0}

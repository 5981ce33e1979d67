"""Guidance is a weighted sum of branches whose weights sum to 1."""

import pytest
import torch

from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.guidance import combine, guided, instruct_pix2pix_guidance, text_guidance

FULL, IMAGE, NULL = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_classifier_free_guidance_extrapolates_from_null_to_full() -> None:
    torch.testing.assert_close(combine({"full": FULL, "null": NULL}, text_guidance(7.5)), NULL + 7.5 * (FULL - NULL))


def test_two_scales_are_those_of_instruct_pix2pix() -> None:
    expected = NULL + 1.5 * (IMAGE - NULL) + 7.5 * (FULL - IMAGE)
    branches = {"full": FULL, "image": IMAGE, "null": NULL}
    torch.testing.assert_close(combine(branches, instruct_pix2pix_guidance(7.5, 1.5)), expected)


@pytest.mark.parametrize(("scales", "branch"), [((1.0, 1.0), FULL), ((0.0, 0.0), NULL), ((0.0, 1.0), IMAGE)])
def test_scales_of_one_and_zero_pick_a_branch(scales: tuple[float, float], branch: torch.Tensor) -> None:
    branches = {"full": FULL, "image": IMAGE, "null": NULL}
    assert torch.equal(combine(branches, instruct_pix2pix_guidance(*scales)), branch)


def test_what_the_scales_magnify_is_not_rounded_to_bfloat16() -> None:
    branches = {"full": FULL.bfloat16(), "null": NULL.bfloat16()}
    exact = branches["null"].double() + 7.5 * (branches["full"].double() - branches["null"].double())
    torch.testing.assert_close(combine(branches, text_guidance(7.5)), exact.float())


def test_weights_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="must sum to 1"):
        combine({"full": FULL}, {"full": 2.0})


def test_a_weighted_branch_without_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="'null'"):
        combine({"full": FULL}, {"full": 2.0, "null": -1.0})


def test_branches_run_in_one_forward_and_unweighted_ones_not_at_all() -> None:
    batches = []

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor, condition: Conditioning) -> torch.Tensor:
        batches.append(len(noisy))
        return noisy * condition.tokens.mean(dim=(1, 2)).view(-1, 1, 1, 1)

    branches = {name: Conditioning(torch.full((2, 3, 5), value)) for name, value in [("full", 2.0), ("null", 1.0)]}
    output = guided(predict, branches, text_guidance(3.0))(FULL, torch.tensor([5, 5]))
    torch.testing.assert_close(output, FULL * (1 + 3 * (2 - 1)))
    assert batches == [4]
    guided(predict, branches, text_guidance(1.0))(FULL, torch.tensor([5, 5]))
    assert batches == [4, 2]

"""FLUX transformers (tiny, random) as denoisers: how they are called, and their flow matching."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from mmig.diffusion.conditioning import Conditioning, ConditioningError, concatenate, denoise
from mmig.diffusion.flux import dynamic_shift, pack, position_ids, unpack
from mmig.diffusion.fresh import FluxSize, flow_scheduler, fresh_flux
from mmig.diffusion.kinds import kind_of
from mmig.diffusion.losses import noise_loss
from mmig.diffusion.problem import denoising_problem
from mmig.diffusion.process import NoiseProcess
from tests.mmig.diffusion.flux_support import GRID, SIZE, TEXT, TIMES, TOKENS, build, condition, latents
from tests.tiny_diffusion import build_unet


@pytest.fixture(scope="module")
def model() -> FluxTransformer2DModel:
    return build()


def by_hand(model: nn.Module, given: Conditioning, guidance: Tensor | None = None) -> Tensor:
    """diffusers' transformer called as its Kontext pipeline does, with that pipeline's own packing and positions."""
    of = FluxKontextPipeline
    height, width = SIZE
    tokens = of._pack_latents(latents(), 2, 4, height, width)
    ids = of._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32)
    inputs, places = tokens, ids
    if given.image_latents is not None:
        inputs = torch.cat([tokens, of._pack_latents(given.image_latents, 2, 4, height, width)], dim=1)
        others = ids.clone()
        others[:, 0] = 1
        places = torch.cat([ids, others])
    found = model(
        hidden_states=inputs,
        timestep=TIMES / 1000,
        guidance=guidance,
        pooled_projections=given.pooled,
        encoder_hidden_states=given.tokens,
        txt_ids=torch.zeros(TEXT, 3),
        img_ids=places,
    ).sample[:, : tokens.shape[1]]
    return of._unpack_latents(found, height * 8, width * 8, 8)


# How it is called ---------------------------------------------------------------------------------------------------


def test_packed_latents_are_rows_of_patches_and_unpack_again() -> None:
    value = torch.arange(2 * 4 * 8 * 12.0).view(2, 4, 8, 12)
    packed = pack(value)
    assert packed.shape == (2, TOKENS, 16)
    assert packed[1, 7].tolist() == value[1, :, 2:4, 2:4].flatten().tolist()  # the second row's second patch
    assert torch.equal(unpack(packed, GRID), value)
    assert position_ids(GRID, 1, value)[7].tolist() == [1, 1, 1]


@pytest.mark.parametrize("source", [True, False])
def test_it_answers_as_diffusers_calls_it(model: nn.Module, source: bool) -> None:
    found = denoise(model, latents(), TIMES, condition(source))
    assert torch.equal(found, by_hand(model, condition(source)))
    assert found.shape == latents().shape and found.std() > 0.1


def test_every_part_of_the_condition_counts(model: nn.Module) -> None:
    given, expected = condition(), denoise(model, latents(), TIMES, condition())
    others = (
        Conditioning(given.tokens + 1, None, given.pooled, given.image_latents),
        Conditioning(given.tokens, None, given.pooled + 1, given.image_latents),
        Conditioning(given.tokens, None, given.pooled, given.image_latents + 1),
    )
    for other in others:
        assert (denoise(model, latents(), TIMES, other) - expected).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_a_distilled_one_is_told_its_guidance_or_1() -> None:
    model, given = build(guidance=True), condition()
    assert torch.equal(denoise(model, latents(), TIMES, given), by_hand(model, given, torch.ones(2)))
    told = Conditioning(given.tokens, None, given.pooled, given.image_latents, kind_of(model).guidance(model, 2.5, 2))
    assert torch.equal(denoise(model, latents(), TIMES, told), by_hand(model, told, torch.full((2,), 2.5)))
    assert kind_of(build()).guidance(build(), 2.5, 2) == {}


def test_joined_conditions_are_those_of_their_rows(model: nn.Module) -> None:
    twice = denoise(model, latents().repeat(2, 1, 1, 1), TIMES.repeat(2), concatenate([condition(), condition()]))
    torch.testing.assert_close(twice[2:], denoise(model, latents(), TIMES, condition()), atol=1e-4, rtol=1e-3)


def test_what_it_has_no_place_for_is_refused_in_a_line(model: nn.Module) -> None:
    given = condition()
    mask = torch.ones(2, TEXT, dtype=torch.bool)
    cases = (
        (Conditioning(given.tokens, mask, given.pooled), "takes no mask of the tokens (encoder_attention_mask)"),
        (Conditioning(given.tokens), "needs one vector of the text (pooled_projections)"),
        (Conditioning(given.tokens, None, given.pooled, extra={"time_ids": mask}), "takes no condition time_ids"),
    )
    for other, message in cases:
        with pytest.raises(ConditioningError) as caught:
            denoise(model, latents(), TIMES, other)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ConditioningError, match="latents of 7x12: FLUX packs them 2x2, both sides must be even"):
        denoise(model, latents()[:, :, :7], TIMES, given)


def test_sources_fit_the_kind_of_the_denoiser(model: nn.Module, tmp_path: object) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(build_unet(tmp_path))  # type: ignore[arg-type]
    kind_of(model).check(model, 4, "sequence")
    kind_of(model).check(model, 4, "img2img")
    with pytest.raises(ValueError, match="'concat' appends channels, and a FluxTransformer2DModel takes the source"):
        kind_of(model).check(model, 4, "concat")
    with pytest.raises(ValueError, match="in_channels: expected 64, the 2x2 patches of 16 latent channels, found 16"):
        kind_of(model).check(model, 16, "sequence")
    with pytest.raises(ValueError, match="'sequence' makes the source tokens of a FLUX transformer, and the denoiser"):
        kind_of(unet).check(unet, 4, "sequence")


# Flow matching ------------------------------------------------------------------------------------------------------


def test_its_loss_is_flow_matchings_by_hand(model: nn.Module) -> None:
    """Esser et al. 2024, eq 12-14: x_t = (1 - s) x0 + s eps with s = t / 1000, and the answer is eps - x0."""
    clean, noise, given = latents(8), latents(9), condition()
    process = NoiseProcess.from_scheduler(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    problem = denoising_problem(process, clean, noise, TIMES, given)
    found = noise_loss(denoise(model, problem.noisy, problem.timesteps, given), problem.target)
    for row, level in enumerate((0.25, 0.9)):
        noisy = (1 - level) * clean + level * noise
        answer = denoise(model, noisy, TIMES, given)[row]
        expected = sum(((answer - (noise - clean)[row]) ** 2).flatten().tolist()) / answer.numel()
        assert found[row].item() == pytest.approx(expected, rel=1e-5)


def test_the_shift_follows_the_number_of_tokens() -> None:
    """mu is 0.5 at 256 tokens and 1.15 at 4096, linear between; the levels are diffusers' own for that mu."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert dynamic_shift(scheduler.config, 256) == pytest.approx(0.5)
    assert dynamic_shift(scheduler.config, 4096) == pytest.approx(1.15)
    assert dynamic_shift(scheduler.config, 2176) == pytest.approx(0.825)
    named = kind_of(build()).schedule(scheduler, 4, (128, 128))
    scheduler.set_timesteps(4, **named)
    shift = math.exp(1.15)
    expected = [1000 * shift * s / (1 + (shift - 1) * s) for s in (1.0, 0.75, 0.5, 0.25)]
    assert scheduler.timesteps.tolist() == pytest.approx(expected, rel=1e-5)
    assert "mu" not in kind_of(build()).schedule(flow_scheduler(0.5), 4, (16, 16))


def test_a_fresh_one_answers_zero_and_every_weight_can_learn() -> None:
    torch.manual_seed(0)
    fresh = fresh_flux(FluxSize(1, 1, 2, 32, 0.5), 4, 12, 18)
    assert list(fresh.config.axes_dims_rope) == [4, 14, 14]
    assert not denoise(fresh, latents(), TIMES, condition()).any()
    optimizer = torch.optim.SGD(fresh.parameters(), lr=0.1)
    for _ in range(3):  # the answer opens, then the last norm, then the blocks' gates
        optimizer.zero_grad()
        (denoise(fresh, latents(), TIMES, condition()) - latents(9)).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    (denoise(fresh, latents(), TIMES, condition()) - latents(9)).square().mean().backward()
    still = [name for name, value in fresh.named_parameters() if value.grad is None or not value.grad.any()]
    # the text leaves the last block: what only it is made of there teaches nothing
    assert [name for name in still if "context" not in name and "add" not in name] == []
    with pytest.raises(ValueError, match=r"unet\.head_dim: expected a multiple of 32, found 24"):
        fresh_flux(FluxSize(1, 1, 2, 24), 4, 12, 18)

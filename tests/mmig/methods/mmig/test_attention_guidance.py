"""A-STAR at sampling time, on a tiny random UNet, and the place in the sampling loop where it enters."""

from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor

from mmig.diffusion.attention import AttentionError, capture_attention
from mmig.diffusion.concepts import ConceptTokens
from mmig.diffusion.sampling import Step, sample
from mmig.methods.mmig.attention_guidance import AttentionGuidance, guidance_step_size
from mmig.methods.mmig.attention_losses import binarize, concept_maps, retention_loss, segregation_loss

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LENGTH, WIDTH = 7, 32
Predict = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )
    return model.requires_grad_(False).eval()


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LATENTS, TEXT = draw(3, 4, 8, 8, seed=1), 3 * draw(3, LENGTH, WIDTH, seed=2)


def concepts(*valid: tuple[bool, bool]) -> ConceptTokens:
    positions = torch.tensor([[1, 2], [4, -1]]).expand(len(valid), -1, -1).clone()
    mask = torch.tensor(valid)
    positions[~mask] = -1
    none = torch.zeros(len(valid), dtype=torch.int64)
    return ConceptTokens(positions, mask, torch.ones(len(valid), LENGTH, dtype=torch.bool), none, none)


THREE = concepts((True, True), (True, True), (False, False))


def conditional(unet: UNet2DConditionModel, rows: slice = slice(None)) -> Predict:
    return lambda noisy, timesteps: unet(noisy, timesteps, TEXT[rows]).sample


def guide(unet: UNet2DConditionModel, tokens: ConceptTokens = THREE, rows: slice = slice(None), **options: float):
    return AttentionGuidance(unet, conditional(unet, rows), tokens, (8, 8), **options)


def step(index: int = 0, count: int = 50, timestep: int = 500, factor: float = 1.0) -> Step:
    return Step(index, count, torch.tensor(timestep), lambda latents: latents * factor)


def by_hand(unet: UNet2DConditionModel, latents: Tensor, regions: Tensor | None, timestep: int = 500):
    """(gradient of L_AS + L_AR, maps), one sample at a time, summed in another order than the guidance does."""
    gradients, maps = [], []
    for row in range(len(latents)):
        point = latents[row : row + 1].clone().requires_grad_()
        with capture_attention(unet, (8, 8)) as capture:
            unet(point, timestep, TEXT[row : row + 1])
        tokens = ConceptTokens(*(value[row : row + 1] for value in THREE))
        found, valid = concept_maps(capture.average(), tokens)
        loss = segregation_loss(found, valid)
        if regions is not None:
            loss = loss + retention_loss(found, regions[row : row + 1], valid)
        gradients.append(torch.autograd.grad(loss.sum(), point)[0])
        maps.append(found.detach())
    return torch.cat(gradients), torch.cat(maps)


@pytest.mark.parametrize(("index", "expected"), [(0, 20.0), (12, 18.74), (24, 17.38), (49, 14.14)])
def test_the_published_step_sizes(index: int, expected: float) -> None:
    assert guidance_step_size(index, 50) == pytest.approx(expected, abs=5e-3)
    assert guidance_step_size(index, 50) == pytest.approx(20 * torch.linspace(1, 0.5, 50)[index].sqrt().item())


def test_a_single_step_has_the_first_size() -> None:
    assert guidance_step_size(0, 1, scale=3.0) == 3.0


def test_latents_descend_segregation_first_and_then_retention_too(unet: UNet2DConditionModel) -> None:
    guidance = guide(unet)
    gradient, maps = by_hand(unet, LATENTS, None)
    moved = guidance(LATENTS, step(0))
    assert gradient[:2].abs().amax(dim=(1, 2, 3)).min() > 1e-4
    torch.testing.assert_close(moved, LATENTS - 20.0 * gradient, atol=2e-5, rtol=1e-4)

    later = LATENTS + 0.3 * draw(3, 4, 8, 8, seed=4)
    alone, _ = by_hand(unet, later, None, timestep=480)
    gradient, _ = by_hand(unet, later, binarize(maps), timestep=480)
    assert (gradient - alone)[:2].abs().amax(dim=(1, 2, 3)).min() > 1e-4
    moved = guidance(later, step(1, timestep=480))
    torch.testing.assert_close(moved, later - guidance_step_size(1, 50) * gradient, atol=2e-5, rtol=1e-4)


def test_a_small_step_lowers_the_loss(unet: UNet2DConditionModel) -> None:
    moved = guide(unet, scale=0.5)(LATENTS, step(0))
    before, after = (segregation_loss(by_hand(unet, at, None)[1], THREE.valid) for at in (LATENTS, moved))
    assert (after[:2] < before[:2]).all()


def test_samples_do_not_depend_on_each_other(unet: UNet2DConditionModel) -> None:
    together = guide(unet)(LATENTS, step(0))
    row = slice(1, 2)
    alone = guide(unet, ConceptTokens(*(value[row] for value in THREE)), row)(LATENTS[row], step(0))
    torch.testing.assert_close(together[row], alone, atol=2e-5, rtol=1e-4)


def test_a_sample_without_concepts_stays_as_it_is(unet: UNet2DConditionModel) -> None:
    guidance = guide(unet)
    assert torch.equal(guidance(LATENTS, step(0))[2], LATENTS[2])
    assert torch.equal(guidance(LATENTS, step(1))[2], LATENTS[2])


def test_scale_zero_changes_nothing(unet: UNet2DConditionModel) -> None:
    assert torch.equal(guide(unet, scale=0.0)(LATENTS, step(0)), LATENTS)


def test_the_first_step_forgets_the_trajectory_before(unet: UNet2DConditionModel) -> None:
    guidance = guide(unet)
    first = guidance(LATENTS, step(0))
    guidance(LATENTS, step(1))
    assert torch.equal(guidance(LATENTS, step(0)), first)


def test_the_move_is_the_same_at_another_scale_of_the_latents(unet: UNet2DConditionModel) -> None:
    """What the denoiser sees moves alike, whether the scheduler keeps latents as they are or 5 times as large."""
    moved = guide(unet)(LATENTS, step(0))
    scaled = guide(unet)(5 * LATENTS, step(0, factor=0.2))
    torch.testing.assert_close(scaled / 5, moved, atol=2e-5, rtol=1e-4)


def test_it_leaves_no_gradients_and_no_graph(unet: UNet2DConditionModel) -> None:
    guidance = guide(unet)
    with torch.no_grad():
        moved = guidance(LATENTS, step(0))
    assert not moved.requires_grad
    assert not guidance._regions.requires_grad
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_it_works_in_inference_mode(unet: UNet2DConditionModel) -> None:
    """Lightning validates and predicts in that mode: latents, text states and tokens are all made in it."""
    guidance = guide(unet)
    expected = [guidance(LATENTS, step(index)) for index in range(2)]
    with torch.inference_mode():
        text, tokens = TEXT.clone(), ConceptTokens(*(value.clone() for value in THREE))
        guidance = AttentionGuidance(unet, lambda noisy, t: unet(noisy, t, text), tokens, (8, 8))
        moved = [guidance(LATENTS.clone(), step(index)) for index in range(2)]
    torch.testing.assert_close(moved, expected)


def test_a_resolution_without_layers_is_named(unet: UNet2DConditionModel) -> None:
    with pytest.raises(AttentionError, match=r"16x16: no cross-attention layer has 256 queries; .* 16 \(1 layers\)"):
        AttentionGuidance(unet, conditional(unet), THREE, (16, 16))(LATENTS, step(0))


SCHEDULERS = [
    DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing"),
    EulerDiscreteScheduler(**SD),
    FlowMatchEulerDiscreteScheduler(shift=2.0),
]


def seeds() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in range(3)]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda scheduler: type(scheduler).__name__)
def test_sampling_with_a_hook_that_does_nothing_is_the_same_to_the_bit(
    unet: UNet2DConditionModel, scheduler: object
) -> None:
    taken: list[Step] = []

    def nothing(latents: Tensor, step: Step) -> Tensor:
        taken.append(step)
        assert step.scale(latents).shape == latents.shape
        return latents

    with torch.no_grad():
        plain = sample(conditional(unet), scheduler, (4, 8, 8), 5, seeds())
        hooked = sample(conditional(unet), scheduler, (4, 8, 8), 5, seeds(), before_step=nothing)
        assert torch.equal(hooked, plain)
        assert [(step.index, step.count) for step in taken] == [(index, 5) for index in range(5)]
        taken.clear()
        sample(conditional(unet), scheduler, (4, 8, 8), 5, seeds(), source_latents=LATENTS, before_step=nothing)
        sample(
            conditional(unet),
            scheduler,
            (4, 8, 8),
            5,
            seeds(),
            source_latents=LATENTS,
            strength=0.4,
            before_step=nothing,
        )
    assert [step.count for step in taken] == [5] * 5 + [2] * 2


def test_the_denoiser_sees_what_the_hook_returns_scaled() -> None:
    seen: list[Tensor] = []
    scheduler = EulerDiscreteScheduler(**SD)

    def denoiser(noisy: Tensor, _: Tensor) -> Tensor:
        seen.append(noisy)
        return 0 * noisy

    def hook(latents: Tensor, step: Step) -> Tensor:
        seen.append(step.scale(torch.ones_like(latents)))
        return torch.ones_like(latents)

    sample(denoiser, scheduler, (4, 8, 8), 3, seeds(), before_step=hook)
    scheduler.set_timesteps(3)
    for index in range(3):
        assert torch.equal(seen[2 * index], seen[2 * index + 1])
        expected = 1 / (scheduler.sigmas[index] ** 2 + 1).sqrt()
        torch.testing.assert_close(seen[2 * index].mean(), expected)


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda scheduler: type(scheduler).__name__)
def test_guided_sampling_changes_the_samples_that_have_concepts(unet: UNet2DConditionModel, scheduler: object) -> None:
    with torch.no_grad():
        plain = sample(conditional(unet), scheduler, (4, 8, 8), 4, seeds())
        guided = sample(conditional(unet), scheduler, (4, 8, 8), 4, seeds(), before_step=guide(unet))
    assert guided.isfinite().all()
    assert torch.equal(guided[2], plain[2])
    assert (guided - plain)[:2].abs().amax(dim=(1, 2, 3)).min() > 1e-3

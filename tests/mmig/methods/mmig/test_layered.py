"""Layered editing: eq 15 by hand and on a tiny UNet, the alternation by step index, the edit as a whole."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler, UNet2DConditionModel
from torch import Tensor, nn

from mmig.backbones.diffusion import load_unet
from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.guidance import Predict
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.sampling import Denoiser, sample
from mmig.methods.mmig.layered import (
    LayeredConfig,
    LayeredTokens,
    amortised,
    by_step,
    layered_denoiser,
    layered_edit,
    layered_loss,
    optimise_embeddings,
)
from tests.tiny_fixtures import TEXT_WIDTH, build_unet

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULER = DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False)
PROCESS = NoiseProcess.from_scheduler(SCHEDULER)
CLEAN, NOISE = torch.randn(2, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = LayeredTokens(*torch.randn(2, 2, 7, TEXT_WIDTH, generator=torch.Generator().manual_seed(1)))
MASK = torch.zeros(2, 1, 16, 16)
MASK[0, :, :8], MASK[1, :, 4:12, 4:12] = 1, 1


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> UNet2DConditionModel:
    """A tiny UNet, not frozen, that listens to its text more than a fresh one."""
    folder: Path = build_unet(tmp_path_factory.mktemp("unet"))
    model = load_unet(folder, frozen=False).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attn2" in name and parameter.ndim > 1:
                parameter.mul_(4)
    return model


@pytest.fixture
def predict(unet: UNet2DConditionModel) -> Predict:
    return lambda noisy, timesteps, condition: denoise(unet, noisy, timesteps, condition)


def seeds(*values: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in values]


def silent(noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
    """Predicts nothing, connected to the tokens."""
    return torch.zeros_like(noisy) + 0 * condition.tokens.sum()


@torch.no_grad()
def value(predict: Predict, tokens: LayeredTokens, mask: Tensor = MASK, draws: int = 6) -> Tensor:
    """Eq 15 on fixed draws of noise and timestep, [B]."""
    source = torch.Generator().manual_seed(9)
    noises = torch.randn(draws, *CLEAN.shape, generator=source)
    steps = torch.randint(1000, (draws, len(CLEAN)), generator=source)
    losses = [layered_loss(predict, PROCESS, CLEAN, n, t, tokens, mask) for n, t in zip(noises, steps, strict=True)]
    return torch.stack(losses).mean(dim=0)


def test_eq_15_by_hand() -> None:
    noise = torch.zeros(1, 1, 2, 2)
    noise[0, 0] = torch.tensor([[3.0, 4.0], [0.0, 12.0]])
    mask = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 1, 2, 2)
    tokens = LayeredTokens(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    arguments = (silent, PROCESS, torch.zeros_like(noise), noise, torch.tensor([10]), tokens, mask)
    assert layered_loss(*arguments).tolist() == [6.25]  # (9 + 16) / 4
    assert layered_loss(*arguments, mask_mode="background").tolist() == [36.0]
    assert layered_loss(*arguments, mask_mode="all").tolist() == [42.25]


def test_the_denoiser_sees_object_then_background_and_the_rest_of_the_condition() -> None:
    seen: list[Conditioning] = []

    def predict(noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
        seen.append(condition)
        return noisy

    condition = Conditioning(torch.zeros(2, 7, TEXT_WIDTH), image_latents=CLEAN)
    layered_loss(predict, PROCESS, CLEAN, NOISE, torch.tensor([3, 700]), TOKENS, MASK, condition=condition)
    assert seen[0].tokens.shape == (2, 14, TEXT_WIDTH)
    assert torch.equal(seen[0].tokens[:, :7], TOKENS.object)
    assert torch.equal(seen[0].tokens[:, 7:], TOKENS.background)
    assert seen[0].image_latents is CLEAN


@pytest.mark.parametrize("checkpointing", [False, True])
def test_eq_15_falls_and_the_denoiser_stays_bit_for_bit(
    unet: UNet2DConditionModel, predict: Predict, checkpointing: bool
) -> None:
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    values: list[Tensor] = []
    if checkpointing:
        unet.enable_gradient_checkpointing()
    with torch.no_grad():  # as in a pipeline
        found = optimise_embeddings(
            predict,
            PROCESS,
            CLEAN,
            TOKENS,
            MASK,
            seeds(1, 2),
            num_steps=10,
            lr=0.05,
            on_step=lambda _, v: values.append(v),
        )
    unet.disable_gradient_checkpointing()
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert len(values) == 10
    assert values[0].shape == (2,)
    assert all(not moved.requires_grad and (moved != start).any() for moved, start in zip(found, TOKENS, strict=True))
    assert (value(predict, found) < 0.99 * value(predict, TOKENS)).all()


def test_a_sample_does_not_depend_on_its_batch(predict: Predict) -> None:
    settings = {"num_steps": 3, "lr": 0.01}
    together = optimise_embeddings(predict, PROCESS, CLEAN, TOKENS, MASK, seeds(1, 2), **settings)
    second = LayeredTokens(*(states[1:] for states in TOKENS))
    alone = optimise_embeddings(predict, PROCESS, CLEAN[1:], second, MASK[1:], seeds(2), **settings)
    torch.testing.assert_close(together.object[1:], alone.object, atol=1e-4, rtol=0)
    other = optimise_embeddings(predict, PROCESS, CLEAN[1:], second, MASK[1:], seeds(3), **settings)
    assert (other.object - alone.object).abs().max() > 1e-3


def test_each_step_of_adam_is_the_learning_rate_at_first(predict: Predict) -> None:
    found = optimise_embeddings(predict, PROCESS, CLEAN, TOKENS, MASK, seeds(1, 2), num_steps=1, lr=1e-3)
    moved = torch.cat([(a - b).abs().flatten() for a, b in zip(found, TOKENS, strict=True)])
    assert moved.max().item() == pytest.approx(1e-3, rel=1e-2)
    assert moved.median().item() == pytest.approx(1e-3, rel=5e-2)


def test_an_empty_mask_moves_nothing(predict: Predict) -> None:
    nothing, whole = torch.zeros_like(MASK), torch.ones_like(MASK)
    found = optimise_embeddings(predict, PROCESS, CLEAN, TOKENS, nothing, seeds(1, 2), num_steps=2)
    assert torch.equal(found.joined(), TOKENS.joined())
    other = optimise_embeddings(
        predict, PROCESS, CLEAN, TOKENS, nothing, seeds(1, 2), num_steps=2, mask_mode="background"
    )
    every = optimise_embeddings(predict, PROCESS, CLEAN, TOKENS, whole, seeds(1, 2), num_steps=2)
    assert torch.equal(other.joined(), every.joined())
    assert not torch.equal(other.joined(), TOKENS.joined())


def test_no_inner_step_gives_the_embeddings_of_the_phrases() -> None:
    table = nn.Embedding(256, 5)

    def encode(texts: list[str]) -> Tensor:
        return torch.stack([table(torch.tensor(list(text.ljust(8).encode()))) for text in texts])

    tokens = amortised(encode, ["a star", "a ring"], ["the sky", "a wall"])
    assert torch.equal(tokens.background[1], encode(["a wall"])[0])
    unchanged = optimise_embeddings(silent, PROCESS, CLEAN, tokens, MASK, seeds(0, 1), num_steps=0)
    assert unchanged is tokens
    torch.testing.assert_close(tokens.mixed(), 0.7 * tokens.object + 0.3 * tokens.background)
    assert torch.equal(tokens.mixed(1.0), tokens.object)


def test_half_of_the_steps_see_the_object_by_index_not_by_timestep() -> None:
    asked: list[tuple[str, int]] = []

    def named(name: str) -> Denoiser:
        def denoiser(noisy: Tensor, timesteps: Tensor) -> Tensor:
            asked.append((name, int(timesteps[0])))
            return torch.zeros_like(noisy)

        return denoiser

    sample(layered_denoiser(named("object"), named("mixed"), SCHEDULER), SCHEDULER, (4, 8, 8), 50, seeds(0))
    assert Counter(name for name, _ in asked) == {"object": 25, "mixed": 25}
    assert [name for name, _ in asked[:3]] == ["object", "mixed", "object"]
    assert all(timestep % 2 == 1 for _, timestep in asked)  # so that an even timestep would never come

    asked.clear()
    heun = HeunDiscreteScheduler(**{key: SD[key] for key in ("beta_start", "beta_end", "beta_schedule")})
    sample(layered_denoiser(named("object"), named("mixed"), heun), heun, (4, 8, 8), 3, seeds(0))
    assert [name for name, _ in asked] == ["object", "object", "mixed", "mixed", "object"]


def test_alternating_between_twins_changes_nothing() -> None:
    def denoiser(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return 0.1 * noisy + timesteps.view(-1, 1, 1, 1) / 1e4

    layered = sample(layered_denoiser(denoiser, denoiser, SCHEDULER), SCHEDULER, (4, 8, 8), 10, seeds(0, 1))
    assert torch.equal(layered, sample(denoiser, SCHEDULER, (4, 8, 8), 10, seeds(0, 1)))


def test_a_denoiser_by_step_counts_its_calls() -> None:
    told: list[int] = []

    def at(index: int) -> Denoiser:
        told.append(index)
        return lambda noisy, timesteps: noisy

    denoiser = by_step(at, calls_per_step=2)
    for _ in range(5):
        denoiser(NOISE, torch.tensor([1, 1]))
    assert told == [0, 0, 1, 1, 2]


def test_an_edit_alternates_between_object_and_mixture(predict: Predict) -> None:
    config = LayeredConfig(inner_steps=0, num_steps=4, strength=1.0, guidance_scale=2.0, alpha=0.6)
    null = torch.zeros(1, 7, TEXT_WIDTH)
    with torch.no_grad():
        found = layered_edit(predict, SCHEDULER, CLEAN, TOKENS, MASK, seeds(4, 5), null, config)
        mixture = 0.6 * TOKENS.object + 0.4 * TOKENS.background
        scheduler = DDIMScheduler.from_config(SCHEDULER.config)
        scheduler.set_timesteps(4)
        noise = torch.stack([torch.randn(4, 16, 16, generator=source) for source in seeds(4, 5)])
        expected = scheduler.add_noise(CLEAN, noise, scheduler.timesteps[:1])
        for states, timestep in zip([TOKENS.object, mixture] * 2, scheduler.timesteps, strict=True):
            told = timestep.expand(2)
            full = predict(expected, told, Conditioning(states))
            empty = predict(expected, told, Conditioning(null.expand(2, -1, -1)))
            expected = scheduler.step(empty + 2.0 * (full - empty), timestep, expected).prev_sample
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_inner_steps_change_the_edit_but_not_its_noise(predict: Predict) -> None:
    null = torch.zeros(1, 7, TEXT_WIDTH)

    def edit(inner_steps: int, strength: float) -> tuple[Tensor, Tensor]:
        first: list[Tensor] = []

        def watched(noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
            if condition.tokens.shape[1] == 7:  # not in the inner problem
                first.append(noisy)
            return predict(noisy, timesteps, condition)

        config = LayeredConfig(inner_steps=inner_steps, lr=0.1, num_steps=2, strength=strength, guidance_scale=1.0)
        with torch.no_grad():
            return layered_edit(watched, SCHEDULER, CLEAN, TOKENS, MASK, seeds(4, 5), null, config), first[0]

    (plain, noisy), (optimised, same_noisy) = edit(0, 1.0), edit(2, 1.0)
    assert torch.equal(noisy, same_noisy)
    assert (plain - optimised).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": MASK[:1]}, "2 samples and 1 masks; give one a sample"),
        ({"generators": seeds(1, 2, 3)}, "2 samples and 3 generators"),
        ({"tokens": LayeredTokens(TOKENS.object, TOKENS.background[:1])}, "2 samples and 1 background embeddings"),
        ({"mask": MASK[:, :, :8]}, "expected a mask of shape"),
        ({"mask_mode": "sky"}, "mask_mode must be one of object, background, all, found 'sky'"),
        ({"num_steps": -1}, "num_steps must be at least 0"),
        ({"lr": 0.0}, "lr above 0"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    given = {"clean": CLEAN, "tokens": TOKENS, "mask": MASK, "generators": seeds(1, 2), "num_steps": 1} | change
    with pytest.raises(ValueError, match=message):
        optimise_embeddings(silent, PROCESS, **given)


def test_as_many_backgrounds_as_objects() -> None:
    with pytest.raises(ValueError, match="1 object phrases and 2 background phrases"):
        amortised(lambda texts: torch.zeros(len(texts), 2, 3), ["a"], ["b", "c"])

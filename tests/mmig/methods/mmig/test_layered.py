"""Eq 15 by hand and on a tiny UNet, and what surrounds it."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.guidance import Predict
from mmig.methods.mmig.layered import LayeredTokens, amortised, expected_loss, layered_loss, optimise_embeddings
from tests.mmig.methods.mmig.layered_support import CLEAN, MASK, NOISE, PROCESS, TOKENS, listening_unet, seeds
from tests.tiny_fixtures import TEXT_WIDTH


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> UNet2DConditionModel:
    return listening_unet(tmp_path_factory.mktemp("unet"))


@pytest.fixture
def predict(unet: UNet2DConditionModel) -> Predict:
    return lambda noisy, timesteps, condition: denoise(unet, noisy, timesteps, condition)


def silent(noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
    """Predicts nothing, connected to the tokens."""
    return torch.zeros_like(noisy) + 0 * condition.tokens.sum()


def value(predict: Predict, tokens: LayeredTokens) -> Tensor:
    """Eq 15, [B]."""
    return expected_loss(predict, PROCESS, CLEAN, tokens, MASK, seeds(8, 9))


def test_eq_15_by_hand() -> None:
    noise = torch.zeros(1, 1, 2, 2)
    noise[0, 0] = torch.tensor([[3.0, 4.0], [0.0, 12.0]])
    mask = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 1, 2, 2)
    tokens = LayeredTokens(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    arguments = (silent, PROCESS, torch.zeros_like(noise), noise, torch.tensor([10]), tokens, mask)
    assert layered_loss(*arguments).tolist() == [6.25]  # (9 + 16) / 4
    assert layered_loss(*arguments, mask_mode="background").tolist() == [36.0]
    assert layered_loss(*arguments, mask_mode="all").tolist() == [42.25]


def test_eq_15_itself_is_the_mean_over_the_whole_schedule() -> None:
    told: list[int] = []

    def predict(noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
        told.extend(timesteps[:1].tolist())
        return silent(noisy, timesteps, condition)

    found = expected_loss(predict, PROCESS, CLEAN, TOKENS, MASK, seeds(1, 2))
    assert told == [62, 187, 312, 437, 562, 687, 812, 937]
    expected = [0.5, 0.25]  # the part of the mask; the noise has variance 1
    assert found.tolist() == pytest.approx(expected, rel=0.1)
    with pytest.raises(ValueError, match="2 samples and 1 masks"):
        expected_loss(predict, PROCESS, CLEAN, TOKENS, MASK[:1], seeds(1, 2))


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
            num_steps=40,
            lr=0.05,
        )
    unet.disable_gradient_checkpointing()
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert all(not moved.requires_grad and (moved != start).any() for moved, start in zip(found, TOKENS, strict=True))
    assert (value(predict, found) < 0.98 * value(predict, TOKENS)).all()


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

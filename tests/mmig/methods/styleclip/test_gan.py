"""The losses of StyleGAN2 against numbers by hand, and what its turns move."""

import math

import pytest
import torch
from torch import Tensor

from mmig.methods.styleclip.discriminator import Discriminator, deviation
from mmig.methods.styleclip.gan import AdaptiveAugmentation, StyleGANModule
from mmig.methods.styleclip.gan_losses import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mixed,
    path_lengths,
    path_penalty,
    running_mean,
)
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.methods.styleclip.contract import SIZES


def module(**settings: object) -> StyleGANModule:
    torch.manual_seed(0)
    return StyleGANModule(OptimizerConfig(betas=(0.0, 0.99)), **(SIZES | settings))


def test_losses_of_scores_by_hand() -> None:
    real, fake = torch.tensor([2.0]), torch.tensor([-1.0])
    assert generator_loss(fake).item() == pytest.approx(-math.log(1 / (1 + math.exp(1))), rel=1e-6)
    expected = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))
    assert discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-6)


def test_r1_of_a_linear_score_is_its_length_squared() -> None:
    slope = torch.randn(3, 4, 4)
    values = gradient_penalty(lambda images: (images * slope).sum((1, 2, 3)), torch.randn(2, 3, 4, 4))
    torch.testing.assert_close(values, slope.square().sum().expand(2))


def test_r1_reaches_the_weights() -> None:
    slope = torch.randn(3, 4, 4, requires_grad=True)
    gradient_penalty(lambda images: (images * slope).sum((1, 2, 3)), torch.randn(1, 3, 4, 4)).sum().backward()
    torch.testing.assert_close(slope.grad, 2 * slope.detach())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_penalties_are_measured_without_a_graph_too(mode: type) -> None:
    made = module()
    codes = made.generator.codes(torch.randn(2, 16))
    with mode():
        images = torch.randn(2, 3, 16, 16)
        assert not gradient_penalty(made.discriminator, images).requires_grad
        assert not path_lengths(made.generator, codes.clone(), images).requires_grad


def test_path_length_of_a_linear_generator_is_that_of_its_matrix() -> None:
    matrix, noise = torch.randn(12, 5), torch.randn(1, 3, 2, 2)
    codes = torch.randn(1, 1, 5)
    length = path_lengths(lambda w: (w[:, 0] @ matrix.T).view(-1, 3, 2, 2), codes, noise)
    torch.testing.assert_close(length, (matrix.T @ noise.flatten() / 2).norm().view(1))


def test_path_penalty_and_mean_by_hand() -> None:
    torch.testing.assert_close(path_penalty(torch.tensor([3.0, 1.0]), torch.tensor(2.0)), torch.tensor([1.0, 1.0]))
    assert running_mean(torch.tensor(2.0), torch.tensor(4.0)).item() == pytest.approx(2.02)


def test_mixed_codes_cross_where_they_are_told() -> None:
    codes = mixed(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([2, 5]), 5)
    assert codes[..., 0].tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]


def test_deviation_of_equal_samples_is_nothing_and_of_opposite_ones_is_one() -> None:
    ones = torch.ones(4, 2, 3, 3)
    assert deviation(ones, 4).abs().max() < 1e-3
    signs = ones * torch.tensor([1.0, 1.0, -1.0, -1.0]).view(4, 1, 1, 1)
    torch.testing.assert_close(deviation(signs, 4), torch.ones(4, 1, 3, 3))
    pairs = deviation(ones * torch.tensor([1.0, -1.0, 1.0, 1.0]).view(4, 1, 1, 1), 2)
    torch.testing.assert_close(pairs[:, 0, 0, 0], torch.tensor([1.0, 1.0, 0.0, 0.0]), atol=1e-3, rtol=0)
    assert deviation(torch.randn(3, 2, 3, 3), 4).shape == (3, 1, 3, 3)


def test_the_published_discriminator_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in Discriminator(1024).parameters()) == 29_012_513


def test_penalties_come_now_and_then_with_as_much_more_weight() -> None:
    made = module()
    weights = [made.weights_at(step) for step in range(17)]
    assert [step for step, each in enumerate(weights) if each["r1"]] == [0, 16]
    assert [step for step, each in enumerate(weights) if each["path_length"]] == [0, 4, 8, 12, 16]
    assert weights[0] == {"generator": 1.0, "path_length": 8.0, "discriminator": 1.0, "r1": 80.0}


def batch(side: int) -> dict[str, Tensor]:
    return {"target": torch.rand(4, 3, side, side) * 2 - 1, "has_target": torch.ones(4, dtype=torch.bool)}


def test_every_turn_has_gradients_of_its_own() -> None:
    made = module()
    terms = made.losses(batch(16), Draws(0, range(4)))
    for names, part in ((("generator", "path_length"), "generator"), (("discriminator", "r1"), "discriminator")):
        total = sum(terms[name].values.sum() for name in names)
        own = [weight for name, weight in made.named_parameters() if name.startswith(part)]
        gradients = torch.autograd.grad(total, own, retain_graph=True, allow_unused=True)
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_pictures_of_another_size_are_refused_by_the_datas_key() -> None:
    with pytest.raises(ValueError, match=r"^data.init_args.resolution: expected 16, .* found targets of 32x32"):
        module().losses(batch(32), Draws(0, range(4)))


def test_the_discriminator_sees_no_margin() -> None:
    framed, plain = module(margin=4), module()
    framed.load_state_dict(plain.state_dict())
    whole = batch(24)
    middle = whole | {"target": whole["target"][..., 4:-4, 4:-4]}
    terms = framed.losses(whole, Draws(0, range(4)))
    expected = plain.losses(middle, Draws(0, range(4)))
    for name in ("generator", "discriminator", "r1"):
        torch.testing.assert_close(terms[name].values, expected[name].values)
    assert terms["path_length"].values.isfinite().all()


@pytest.mark.parametrize("wrong", [{"target": 2.0}, {"every": 0}, {"span": 0.0}, {"fixed": 1.5}])
def test_impossible_augmentation_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"augmentation.{next(iter(wrong))}: expected"):
        AdaptiveAugmentation(**wrong)
    with pytest.raises(ValueError, match=r"^r1_every, path_every, deviation_group, mixing"):
        module(mixing=2.0)


@pytest.mark.slow
def test_the_generator_learns_the_colour_of_what_is_real() -> None:
    made = module(resolution=8, channel_base=64, augmentation=AdaptiveAugmentation(fixed=0.2))
    real = torch.tensor([0.8, -0.6, -0.2]).view(1, 3, 1, 1)
    turns = {turn.name: turn for turn in made.turns()}
    parts = {name: list(made.get_submodule(name).parameters()) for name in turns}
    optimizers = {name: torch.optim.Adam(own, lr=5e-3, betas=(0.0, 0.99)) for name, own in parts.items()}

    def distance() -> float:
        with torch.no_grad():
            images = made.generator(
                made.generator.codes(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
            )
        return float((images.mean((0, 2, 3)) - real.flatten()).norm())

    before = distance()
    for step in range(150):
        targets = (real + 0.1 * torch.randn(8, 3, 8, 8)).clamp(-1, 1)
        terms = made.losses({"target": targets, "has_target": torch.ones(8, dtype=torch.bool)}, Draws(step, range(8)))
        weights = made.weights_at(step)
        for name, turn in turns.items():
            total = sum(weights[loss] * terms[loss].values.mean() for loss in turn.losses if weights[loss])
            gradients = torch.autograd.grad(total, parts[name], retain_graph=True)
            for weight, gradient in zip(parts[name], gradients, strict=True):
                weight.grad = gradient
        for optimizer in optimizers.values():
            optimizer.step()
    assert distance() < 0.4 < before

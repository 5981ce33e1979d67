"""The discriminator: published sizes, what a patch sees, the hinge loss by hand."""

import pytest
import torch

from mmig.methods.latent_diffusion.discriminator import (
    DiscriminatorSize,
    PatchDiscriminator,
    generator_loss,
    hinge_loss,
)


def test_it_has_the_published_size() -> None:
    with torch.device("meta"):
        discriminator = PatchDiscriminator(DiscriminatorSize())
        answers = discriminator(torch.zeros(2, 3, 256, 256))
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_765_633
    assert answers.shape == (2, 1, 30, 30)


@pytest.mark.parametrize(("layers", "width"), [(1, 16), (2, 34), (3, 70)])
def test_an_answer_is_about_a_patch(layers: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 128, 128, requires_grad=True)
    discriminator = PatchDiscriminator(DiscriminatorSize(4, layers)).eval()  # else the norm sees the whole image
    answers = discriminator(image)
    answers[0, 0, answers.shape[2] // 2, answers.shape[3] // 2].backward()
    seen = image.grad.abs().sum(dim=(0, 1)) > 0
    rows, columns = seen.any(dim=1).nonzero().flatten(), seen.any(dim=0).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == int(columns[-1] - columns[0]) + 1 == width


def test_weights_begin_as_published() -> None:
    torch.manual_seed(0)
    state = PatchDiscriminator(DiscriminatorSize()).state_dict()
    kernel, norm = state["5.weight"], state["6.weight"]
    assert kernel.shape == (256, 128, 4, 4)
    assert (kernel.mean().item(), kernel.std().item()) == pytest.approx((0.0, 0.02), abs=1e-3)
    assert (norm.mean().item(), norm.std().item()) == pytest.approx((1.0, 0.02), abs=5e-3)


@pytest.mark.parametrize(("norm", "alone"), [("instance", True), ("batch", False)])
def test_one_norm_looks_at_each_image_alone(norm: str, alone: bool) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(DiscriminatorSize(8, 2, norm))
    images = torch.randn(3, 3, 32, 32)
    assert torch.allclose(discriminator(images)[:1], discriminator(images[:1]), atol=1e-5) == alone


def test_the_losses_are_means_over_patches_and_half_a_hinge() -> None:
    real, made = (
        torch.tensor([2.0, 0.5, -1.0, 0.0]).view(1, 1, 2, 2),
        torch.tensor([-2.0, 0.5, -0.5, 0.0]).view(1, 1, 2, 2),
    )
    assert generator_loss(made).tolist() == [0.5]  # -(-2 + 0.5 - 0.5 + 0) / 4
    # real: 0, 0.5, 2, 1; made: 0, 1.5, 0.5, 1
    assert hinge_loss(real, made).tolist() == [pytest.approx(0.5 * (3.5 + 3.0) / 4)]


def test_sizes_that_cannot_be_are_one_line() -> None:
    whole = "a whole number of at least 1"
    for name, value, said in (("layers", 0, whole), ("width", 2.5, whole), ("norm", "group", "one of batch, instance")):
        with pytest.raises(ValueError, match=rf"^discriminator\.{name}: expected {said}, found {value!r}$"):
            DiscriminatorSize(**{name: value})

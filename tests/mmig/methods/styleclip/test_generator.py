"""StyleGAN2's generator: sizes, styles, modulation, and what it took the place of."""

import pytest
import torch

from mmig.methods.styleclip.adain import adain
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.layers import EqualConv, blurred, demodulation, modulated_conv, upsampled


@pytest.fixture
def small() -> StyleGenerator:
    torch.manual_seed(0)
    return StyleGenerator(32, 16, 16, 2, channel_base=256, channel_max=16)


def test_the_published_generator_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in StyleGenerator().parameters()) == 30_370_060
        small = StyleGenerator(32, num_mapping_layers=2)
    assert sum(weight.numel() for weight in small.parameters()) == 19_947_539


@pytest.mark.parametrize(("resolution", "codes"), [(256, 14), (512, 16), (1024, 18)])
def test_w_plus_has_two_codes_a_resolution(resolution: int, codes: int) -> None:
    with torch.device("meta"):
        assert StyleGenerator(resolution).num_codes == codes


def test_style_space_has_the_published_sizes() -> None:
    with torch.device("meta"):
        layers = StyleGenerator().style_layers()
    widths = [affine.weight.shape[0] for _, _, affine in layers]
    assert widths == [512] * 15 + [256] * 3 + [128] * 3 + [64] * 3 + [32] * 2
    assert sum(widths) == 9088
    assert [place for place, (_, rgb, _) in enumerate(layers) if rgb] == [1, 4, 7, 10, 13, 16, 19, 22, 25]
    of_convs = [width for width, (_, rgb, _) in zip(widths, layers, strict=True) if not rgb]
    assert sum(of_convs) == 6048
    assert sum(width for width, (_, rgb, _) in list(zip(widths, layers, strict=True))[:17] if not rgb) == 5376


def test_a_torgb_shares_its_code_with_the_next_block() -> None:
    with torch.device("meta"):
        indices = [index for index, _, _ in StyleGenerator(16).style_layers()]
    assert indices == [0, 1, 1, 2, 3, 3, 4, 5]


def test_demodulated_filters_have_length_one() -> None:
    weight, style = torch.randn(5, 7, 3, 3), torch.randn(2, 7)
    filters = weight * style[:, None, :, None, None] * demodulation(weight, style)[:, :, None, None, None]
    torch.testing.assert_close(filters.square().sum((2, 3, 4)), torch.ones(2, 5), atol=1e-5, rtol=0)


def test_a_louder_style_changes_nothing_behind_demodulation_and_everything_without() -> None:
    features, style = torch.randn(2, 7, 6, 6), torch.randn(2, 7)
    weight, colours = torch.randn(5, 7, 3, 3), torch.randn(3, 7, 1, 1)
    one, ten = (modulated_conv(features, weight, scale * style) for scale in (1, 10))
    torch.testing.assert_close(one, ten, atol=1e-5, rtol=1e-5)
    one, ten = (modulated_conv(features, colours, scale * style, demodulate=False) for scale in (1, 10))
    torch.testing.assert_close(10 * one, ten)


def test_modulated_convolution_does_what_adain_did_to_what_it_expects() -> None:
    """Eq 5 before a convolution, for inputs of mean 0 and deviation 1, is modulation up to each output map's length."""
    torch.manual_seed(0)
    features, style, weight = torch.randn(3, 8, 16, 16), torch.rand(3, 8) + 0.5, torch.randn(4, 8, 1, 1)
    normal = adain(features, torch.ones(3, 8), torch.zeros(3, 8))
    before = torch.nn.functional.conv2d(adain(features, style, torch.zeros(3, 8)), weight)
    after = modulated_conv(normal, weight, style)
    directions = (values / values.square().mean((2, 3), keepdim=True).sqrt() for values in (before, after))
    torch.testing.assert_close(*directions, atol=1e-5, rtol=1e-4)


def test_demodulated_outputs_have_deviation_one_where_inputs_are_noise() -> None:
    torch.manual_seed(0)
    output = modulated_conv(torch.randn(4, 64, 32, 32), torch.randn(8, 64, 3, 3), torch.rand(4, 64) * 5 + 0.1)
    assert output[..., 1:-1, 1:-1].std((2, 3)).sub(1).abs().max() < 0.12


def test_adain_gives_maps_the_moments_of_the_style() -> None:
    scale, shift = torch.tensor([[2.0, 0.5]]), torch.tensor([[-1.0, 3.0]])
    output = adain(torch.randn(1, 2, 8, 8) * 7 + 4, scale, shift)
    torch.testing.assert_close(output.mean((2, 3)), shift)
    torch.testing.assert_close(output.std((2, 3), correction=0), scale)


def test_filters_keep_a_grey_picture_grey() -> None:
    grey = torch.full((1, 2, 8, 8), 0.5)
    torch.testing.assert_close(upsampled(grey)[..., 2:-2, 2:-2], torch.full((1, 2, 12, 12), 0.5))
    torch.testing.assert_close(blurred(grey, 2, 1)[..., 2:-2, 2:-2], torch.full((1, 2, 4, 4), 0.5))


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_that_halves_sees_its_picture_evenly(kernel: int) -> None:
    layer = EqualConv(2, 3, kernel, down=True)
    assert layer(torch.randn(1, 2, 8, 8)).shape == (1, 3, 4, 4)


def test_truncation_zero_draws_the_mean_code(small: StyleGenerator) -> None:
    small.measure_average()
    codes = small.codes(torch.randn(2, 16), truncation=0.0)
    assert torch.equal(codes, small.mapping.w_avg.expand(2, 8, 16))
    half, whole = (small.codes(torch.ones(1, 16), share) - codes[:1] for share in (0.5, 1.0))
    torch.testing.assert_close(half, 0.5 * whole)


def test_a_picture_does_not_depend_on_its_batch(small: StyleGenerator) -> None:
    codes = small.codes(torch.randn(3, 16))
    torch.testing.assert_close(small(codes)[1:2], small(codes[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("resolution", [4, 48])
def test_a_resolution_that_cannot_be_is_refused(resolution: int) -> None:
    with pytest.raises(ValueError, match=r"^generator.resolution: expected a power of 2 of at least 8"):
        StyleGenerator(resolution)


def test_a_margin_continues_the_rim_and_draws_nothing_else() -> None:
    framed, plain = (StyleGenerator(16, 8, 8, 2, channel_base=64, channel_max=8, margin=margin) for margin in (3, 0))
    framed.load_state_dict(plain.state_dict())
    codes = plain.codes(torch.randn(2, 8))
    images, middle = framed(codes), plain(codes)
    assert framed.picture_side == images.shape[-1] == 22 and plain.picture_side == 16
    assert torch.equal(framed.without_margin(images), middle)
    assert torch.equal(images[..., 3:-3, 0], middle[..., 0]) and torch.equal(images[..., 3:-3, -1], middle[..., -1])
    assert torch.equal(images[..., -1, 3:-3], middle[..., -1, :]) and torch.equal(images[..., 0, 0], middle[..., 0, 0])


def test_a_margin_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"generator\.margin: expected pixels, at least 0, found -1"):
        StyleGenerator(16, margin=-1)

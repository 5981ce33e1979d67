import pytest
import torch

from mmig.metrics.images import ImageRangeError, as_unit, signed_to_unit, to_bytes


def test_uint8_and_float_are_the_same_image() -> None:
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(as_unit(pixels), as_unit(pixels.float() / 255))


def test_images_in_minus_one_to_one_are_refused() -> None:
    with pytest.raises(ImageRangeError, match=r"expected values in \[0,1\], found \[-1"):
        as_unit(torch.linspace(-1, 1, 192).view(1, 3, 8, 8))


def test_bytes_read_as_floats_are_refused() -> None:
    with pytest.raises(ImageRangeError, match="255"):
        signed_to_unit(torch.full((1, 3, 8, 8), 255.0))


def test_a_batch_without_channels_is_refused() -> None:
    with pytest.raises(ImageRangeError, match=r"\[B,3,H,W\]"):
        as_unit(torch.zeros(3, 8, 8))


def test_bytes_survive_the_way_through_the_signed_range() -> None:
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    signed = pixels.float() / 127.5 - 1
    assert torch.equal(to_bytes(signed_to_unit(signed)).permute(0, 3, 1, 2), pixels)

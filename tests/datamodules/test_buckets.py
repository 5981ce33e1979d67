"""Sizes of buckets."""

import pytest

from datamodules.buckets import BucketError, Buckets, nearest, square


def test_sizes_of_buckets_have_about_one_area_and_the_square_among_them() -> None:
    sizes = Buckets().sizes(512)
    assert sizes == ((640, 384), (576, 448), (512, 512), (448, 576), (384, 640))
    assert sizes[square(sizes)] == (512, 512)
    assert all(0.75 * 512**2 < high * wide <= 512**2 and high % 64 == wide % 64 == 0 for high, wide in sizes)
    assert [nearest(sizes, *shape) for shape in ((512, 512), (1920, 1080), (1080, 1920), (640, 480))] == [2, 4, 0, 3]


@pytest.mark.parametrize(
    ("settings", "resolution", "message"),
    [
        ({"step": 0}, 64, "expected step >= 1 and 1 <= max_ratio <= 16, found step 0"),
        ({"max_ratio": 0.5}, 64, "found step 64, max_ratio 0.5"),
        ({"step": 48}, 64, "buckets.step: expected a divisor of resolution 64, found 48"),
        ({"step": 1, "max_ratio": 16}, 2048, "expected at most 200 sizes"),
    ],
)
def test_buckets_that_make_no_sense_are_refused(settings: dict, resolution: int, message: str) -> None:
    with pytest.raises(BucketError, match=message):
        Buckets(**settings).sizes(resolution)

"""How far out of line a loss is."""

import pytest

from mmig.callbacks.bad_steps import LossWindow


def test_standard_deviations_are_those_of_the_middle() -> None:
    window = LossWindow(5, [1.0, 2.0, 3.0, 4.0, 100.0])  # median 3, median deviation 1, whatever the largest is
    assert window.z_score(3.0 + 1.4826 * 8) == pytest.approx(8.0)
    assert window.z_score(3.0 - 1.4826 * 2) == pytest.approx(-2.0)


def test_nothing_is_said_before_the_window_is_full() -> None:
    window = LossWindow(3, [1.0, 2.0])
    assert window.z_score(1e9) == 0.0
    window.add(1.5)
    assert window.z_score(1e9) > 1e8


def test_only_the_newest_count() -> None:
    window = LossWindow(3, [100.0, 1.0, 2.0, 3.0])
    window.add(4.0)
    assert list(window.losses) == [2.0, 3.0, 4.0]


def test_a_loss_that_stands_still_may_move_a_little() -> None:
    window = LossWindow(4, [2.0] * 4)
    assert 0 < window.z_score(2.0001) < 1 and window.z_score(3.0) > 8
    assert LossWindow(2, [0.0, 0.0]).z_score(1.0) == 0.0

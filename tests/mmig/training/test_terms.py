"""Eq 22 in one line: the total of parts is that of the whole, and a term is computed once, when it is needed."""

import torch

from mmig.training.rng import Draws
from mmig.training.terms import LossTerm, stacked, term_means, total_loss

VALUES = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
COUNTS = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 6.0]])
WEIGHTS = torch.tensor([0.5, 0.25])
SUMS, COUNTED = (VALUES * COUNTS).sum(dim=0), COUNTS.sum(dim=0)


def test_the_total_is_the_weighted_sum_of_the_counted_means() -> None:
    first, second = (1 * 1 + 2 * 1) / 2, (20 * 2 + 30 * 6) / 8
    assert term_means(SUMS, COUNTED).tolist() == [first, second]
    assert total_loss(SUMS, COUNTED, WEIGHTS).item() == 0.5 * first + 0.25 * second


def test_parts_divided_by_the_counts_of_the_whole_add_up() -> None:
    parts = [(VALUES[rows] * COUNTS[rows]).sum(dim=0) for rows in (slice(0, 1), slice(1, 3))]
    total = sum(total_loss(part, COUNTED, WEIGHTS) for part in parts)
    torch.testing.assert_close(total, total_loss(SUMS, COUNTED, WEIGHTS))


def test_a_term_in_which_nothing_counts_adds_nothing() -> None:
    assert total_loss(torch.tensor([6.0, 0.0]), torch.tensor([2.0, 0.0]), WEIGHTS).item() == 1.5


def test_counts_are_known_before_anything_is_computed_and_a_value_is_computed_once() -> None:
    calls = []

    def compute() -> torch.Tensor:
        calls.append(1)
        return torch.tensor([1, 2], dtype=torch.float16)

    term = LossTerm(torch.tensor([True, False]), compute)
    assert term.counts.tolist() == [1.0, 0.0] and calls == []
    values, counts = stacked({"one": term, "again": term})
    assert values.tolist() == [[1.0, 1.0], [2.0, 2.0]] and counts.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert values.dtype == torch.float32 and calls == [1]


def test_a_draw_is_made_once() -> None:
    draws = Draws(0, [3, 4])
    assert draws.normal("noise", (2, 2)) is draws.normal("noise", [2, 2])
    assert draws.uniform("noise") is draws.uniform("noise")
    assert not torch.equal(draws.integers("place", 10_000), Draws(1, [3, 4]).integers("place", 10_000))

"""Random numbers depend on seed, position and name alone."""

import torch

from mmig.training.rng import Draws, derive_seed


def test_draws_do_not_depend_on_the_batch_they_come_in() -> None:
    together = Draws(0, [5, 6, 7]).normal("noise", (4,))
    alone = Draws(0, [6]).normal("noise", (4,))
    assert torch.equal(together[1], alone[0])


def test_seed_position_and_name_each_matter() -> None:
    base = Draws(0, [1]).normal("noise", (8,))
    others = [Draws(1, [1]).normal("noise", (8,)), Draws(0, [2]).normal("noise", (8,)), Draws(0, [1]).normal("x", (8,))]
    assert all(not torch.equal(base, other) for other in others)


def test_bernoulli_has_its_probability() -> None:
    drawn = Draws(3, range(20_000)).bernoulli("drop", 0.05).float().mean()
    assert abs(drawn - 0.05) < 0.005


def test_integers_cover_their_range_evenly() -> None:
    drawn = Draws(3, range(5_000)).integers("timestep", 10)
    assert torch.bincount(drawn, minlength=10).float().sub(500).abs().max() < 90


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derive_seed(0, 1, "noise") == 6486791359548603836

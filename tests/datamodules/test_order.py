"""The order of samples."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from datamodules.order import EpochOrder, mix, permutation, rank_part


def _order(epoch: int = 0, seed: int = 0, shuffle: bool = True) -> list[tuple[int, int]]:
    order = EpochOrder([5, 3, 7, 2, 6], seed, epoch, 2, shuffle)
    return [order.locate(place) for place in range(23)]


def test_an_epoch_holds_every_sample_once() -> None:
    everything = [(shard, row) for shard, count in enumerate([5, 3, 7, 2, 6]) for row in range(count)]
    assert sorted(_order()) == everything and _order() != everything
    assert _order(shuffle=False) == everything


def test_epochs_and_seeds_have_their_own_orders() -> None:
    assert _order() == _order() and _order(1) != _order() and _order(seed=1) != _order()


def test_samples_are_shuffled_inside_blocks_of_shards() -> None:
    shards = [shard for shard, _ in _order(3)]
    open_shards = [set(shards[:place]) & set(shards[place:]) for place in range(1, 23)]
    assert max(len(shared) for shared in open_shards) == 2 and shards != sorted(shards, key=shards.index)


def test_any_place_is_found_without_walking_to_it() -> None:
    assert EpochOrder([5, 3, 7, 2, 6], 0, 0, 2, True).locate(17) == _order()[17]


def test_the_order_is_the_same_on_any_machine() -> None:
    assert mix(1, 2, 3) == 0xD0734750FDE362B3
    assert permutation(8, 1, 2).tolist() == [7, 5, 6, 1, 4, 3, 0, 2]


def test_the_mixer_is_even() -> None:
    draws = np.array([mix(0, position, 1) / 2**64 for position in range(20000)])
    assert abs(draws.mean() - 0.5) < 0.01 and abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.03
    assert abs(np.bincount((draws * 10).astype(int)) / 2000 - 1).max() < 0.1


def test_every_permutation_comes_equally_often() -> None:
    counts = np.unique([permutation(3, 0, key) @ [1, 3, 9] for key in range(6000)], return_counts=True)[1]
    assert len(counts) == 6 and abs(counts / 1000 - 1).max() < 0.12


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_take_equal_parts_that_cover_the_slice(world_size: int) -> None:
    parts = [rank_part(10, 17, rank, world_size) for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1
    places = [*chain(*parts)]
    assert places[:7] == list(range(10, 17)) and set(places) == set(range(10, 17))

"""Mixtures and buckets: the order as a function of numbers, and what a stream makes of it."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.mixture import Mixture, join_small
from datamodules.order import MOST_TURNS, Turns
from datamodules.portions import LEFT_OUT
from datamodules.shard_index import ShardIndex
from datamodules.shards import write_shards
from datamodules.stream import ShardStream, StreamError
from datamodules.transforms import ImageTransform
from tests.datamodules.make_samples import make_samples

SIZES = ((16, 8), (8, 8), (8, 16))
BATCH = 6


@pytest.fixture(scope="module")
def indices(tmp_path_factory: pytest.TempPathFactory) -> list[ShardIndex]:
    folder = tmp_path_factory.mktemp("mixture")
    made = []
    for name, count in (("a", 50), ("b", 20), ("c", 9)):
        samples = ({**sample, "key": name + sample["key"][3:]} for sample in make_samples(count))
        made.append(write_shards(samples, folder / name, 7))
    return made


def _mixture(indices: list[ShardIndex], weights: str | None = "6 3 1", buckets: bool = False) -> Mixture:
    """With buckets every fifth sample is left out and the others are in all three, unevenly."""
    rng = np.random.default_rng(5)
    drawn = [rng.choice([0, 1, 1, 1, 2, 2, LEFT_OUT], len(index)).astype(np.uint8) for index in indices]
    shares = [Fraction(weight) for weight in weights.split()] if weights else None
    return Mixture(indices, drawn if buckets else None, shares, len(SIZES) if buckets else 1)


def _stream(mixture: Mixture, **settings: object) -> ShardStream:
    transforms = [ImageTransform(8, shape=size) for size in SIZES]
    chosen = transforms if mixture.num_buckets > 1 else ImageTransform(8)
    settings = {"global_batch_size": BATCH, "seed": 3, "block_shards": 2, "transform": chosen, **settings}
    return ShardStream(mixture, **settings)  # type: ignore[arg-type]


def _batches(stream: ShardStream, count: int) -> list[tuple[list[str], tuple[int, ...], float]]:
    found: list[tuple[list[str], tuple[int, ...], float]] = []
    while True:
        for batch in stream:
            pixels = batch["target"].double().sum().item()
            found.append((batch["key"], tuple(batch["target"].shape[2:]), pixels))
            if len(found) == count:
                return found


def _keys(stream: ShardStream, count: int) -> list[list[str]]:
    return [keys for keys, _, _ in _batches(stream, count)]


def test_each_takes_turns_by_its_share_in_any_stretch() -> None:
    turns = Turns([Fraction(6), Fraction(3), Fraction(1)])
    takers = [turns.take(turn)[0] for turn in range(200)]
    for start in range(170):
        counts = Counter(takers[start : start + 30])
        assert abs(counts[0] - 18) <= 1 and abs(counts[1] - 9) <= 1 and abs(counts[2] - 3) <= 1


def test_no_turn_of_anyone_is_skipped_or_taken_twice() -> None:
    turns = Turns([Fraction("0.35"), Fraction("0.6"), Fraction("0.05")])
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for turn in range(500):
        taker, before = turns.take(turn)
        seen[taker].append(before)
    assert all(befores == list(range(len(befores))) for befores in seen.values())
    assert [len(seen[taker]) for taker in seen] == [175, 300, 25]


def test_shares_beyond_measure_are_kept_nearly() -> None:
    turns = Turns([Fraction(10**9 + 7), Fraction(998244353), Fraction(1)])
    counts = Counter(turns.take(turn)[0] for turn in range(MOST_TURNS))
    assert abs(counts[0] - counts[1]) < 150 and counts[2] == 1


def test_weights_hold_whatever_the_sizes_of_the_sources(indices: list[ShardIndex]) -> None:
    for keys in _keys(_stream(_mixture(indices), global_batch_size=10), 40):
        assert Counter(key[0] for key in keys) == {"a": 6, "b": 3, "c": 1}


def test_a_source_is_seen_whole_before_any_of_it_comes_again(indices: list[ShardIndex]) -> None:
    keys = [*chain(*_keys(_stream(_mixture(indices)), 60))]
    for name, count in (("a", 50), ("b", 20), ("c", 9)):
        own = [key for key in keys if key[0] == name]
        epochs = [own[start : start + count] for start in range(0, len(own) - count + 1, count)]
        assert len(epochs) > 1 and all(len(set(epoch)) == count for epoch in epochs)
        assert all(first != second for first, second in pairwise(epochs))


def test_without_weights_an_epoch_holds_every_sample_of_all_sources_once(indices: list[ShardIndex]) -> None:
    keys = [*chain(*_keys(_stream(_mixture(indices, None), drop_last=False, restart=True), 14))]
    assert len(keys) == 79 == len(set(keys)) and len({key[0] for key in keys[:20]}) > 1


def test_equal_sources_have_different_orders(indices: list[ShardIndex]) -> None:
    twice = Mixture([indices[0], indices[0]], None, [Fraction(1), Fraction(1)])
    keys = [*chain(*_keys(_stream(twice), 10))]
    assert keys[0::2] != keys[1::2]


@pytest.mark.parametrize("weights", [None, "6 3 1"])
def test_every_global_batch_is_of_one_shape_on_all_ranks(indices: list[ShardIndex], weights: str | None) -> None:
    mixture = _mixture(indices, weights, buckets=True)
    whole = _batches(_stream(mixture), 40)
    assert {shape for _, shape, _ in whole} == set(SIZES)
    ranks = [_batches(_stream(mixture, rank=rank, world_size=3), 40) for rank in range(3)]
    for expected, *parts in zip(whole, *ranks, strict=True):
        assert {shape for _, shape, _ in parts} == {expected[1]}
        assert [*chain(*(keys for keys, _, _ in parts))] == expected[0]


def test_a_bucket_holds_its_samples_and_none_that_was_left_out(indices: list[ShardIndex]) -> None:
    mixture = _mixture(indices, buckets=True)
    labels = {}
    for name, source in zip("abc", mixture.sources, strict=True):
        labels |= {f"{name}{number:03d}": int(label) for number, label in enumerate(source.labels)}
    seen: set[str] = set()
    for keys, shape, _ in _batches(_stream(mixture), 60):
        assert {labels[key] for key in keys} == {SIZES.index(shape)}
        seen |= set(keys)
    assert seen == {key for key, label in labels.items() if label != LEFT_OUT}


def test_buckets_come_as_often_as_their_samples(indices: list[ShardIndex]) -> None:
    mixture = _mixture(indices, None, buckets=True)
    shapes = Counter(shape for _, shape, _ in _batches(_stream(mixture), len(mixture)))
    totals = sum(source.counts.sum(0) for source in mixture.sources)
    assert [shapes[size] for size in SIZES] == totals.tolist()


def test_small_buckets_join_a_neighbour() -> None:
    assert join_small([20, 30, 40], 10) == [(0, (0,)), (1, (1,)), (2, (2,))]
    assert join_small([3, 30, 0, 40, 2], 10) == [(1, (0, 1)), (3, (3, 4))]
    assert join_small([3, 4, 2], 100) == [(1, (0, 1, 2))]
    assert join_small([0, 0, 5], 1) == [(2, (2,))]


@pytest.mark.parametrize("buckets", [False, True])
@pytest.mark.parametrize("stop", [1, 7, 23])
def test_a_mixture_resumes_exactly_on_other_ranks_and_workers(
    indices: list[ShardIndex], buckets: bool, stop: int
) -> None:
    mixture = _mixture(indices, buckets=buckets)
    whole = _batches(_stream(mixture), 40)
    first = _stream(mixture)
    assert _batches(first, stop) == whole[:stop]
    state = json.loads(json.dumps(first.state_dict()))
    assert state["samples"] == stop * BATCH
    found = []
    for rank in range(2):
        second = _stream(mixture, rank=rank, world_size=2, num_workers=2 if stop == 7 and rank else 0)
        second.load_state_dict(state)
        found.append(_keys(second, 40 - stop))
        second.close()
    assert [first + second for first, second in zip(*found, strict=True)] == [keys for keys, _, _ in whole[stop:]]


@pytest.mark.parametrize("change", ["weights", "labels", "sources", "plain"])
def test_a_state_of_another_mixture_is_refused(indices: list[ShardIndex], change: str) -> None:
    labels = [np.zeros(len(index), np.uint8) for index in indices]
    other = [label.copy() for label in labels]
    other[1][4], other[1][5] = LEFT_OUT, 1
    made = {
        "weights": Mixture(indices, labels, [Fraction(6), Fraction(3), Fraction(2)], 2),
        "labels": Mixture(indices, other, [Fraction(6), Fraction(3), Fraction(1)], 2),
        "sources": Mixture(indices[::-1], labels[::-1], [Fraction(1), Fraction(3), Fraction(6)], 2),
        "plain": Mixture(indices, labels, None, 2),
    }[change]
    before = Mixture(indices, labels, [Fraction(6), Fraction(3), Fraction(1)], 2)
    transforms = [ImageTransform(8), ImageTransform(8, shape=(8, 16))]
    with pytest.raises(StreamError, match="its fingerprint was"):
        _stream(made, transform=transforms).load_state_dict(_stream(before, transform=transforms).state_dict())


def test_one_whole_index_is_what_it_was_without_mixtures(indices: list[ShardIndex]) -> None:
    assert Mixture([indices[0]]).fingerprint == indices[0].fingerprint
    plain = ShardStream(indices[0], global_batch_size=BATCH, seed=3, block_shards=2, transform=ImageTransform(8))
    assert _keys(plain, 20) == _keys(_stream(Mixture([indices[0]])), 20)


def test_a_bad_sample_is_replaced_from_its_own_source_and_bucket(tmp_path: Path) -> None:
    made = []
    for name in "ab":
        samples = ({**sample, "key": name + sample["key"][3:]} for sample in make_samples(24))
        made.append(write_shards(samples, tmp_path / name, 6))
    for number in range(2):  # half of the samples of b
        path = made[1].tar_path(made[1].shards[number].name)
        path.write_bytes(bytes(path.stat().st_size))
    labels = [np.arange(24, dtype=np.uint8) % 2 for _ in made]
    mixture = Mixture(made, labels, [Fraction(2), Fraction(1)], 2)
    transforms = [ImageTransform(8), ImageTransform(8, shape=(8, 16))]
    stream = _stream(mixture, transform=transforms, max_bad_fraction=1.0)
    for keys, shape, _ in _batches(stream, 30):
        assert Counter(key[0] for key in keys) == {"a": 4, "b": 2}
        assert {int(key[1:]) % 2 for key in keys} == {shape != (8, 8)}
    assert {shard for _, shard in stream.fault_counts} == {f"{tmp_path / 'b'}/0000{number}.tar" for number in range(2)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_last": False}, "weights and buckets are for training: expected drop_last=True"),
        ({"transform": ImageTransform(8)}, "transform: expected one for each of 3 buckets, found 1"),
        ({"transform": None}, "transform: expected one for each of 3 buckets, found 0"),
    ],
)
def test_settings_that_do_not_fit_a_mixture_are_one_clear_line(
    indices: list[ShardIndex], settings: dict, message: str
) -> None:
    with pytest.raises(StreamError, match=message) as caught:
        _stream(_mixture(indices, buckets=True), **settings)
    assert "\n" not in str(caught.value)


def test_the_default_generator_is_left_alone(indices: list[ShardIndex]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _keys(_stream(_mixture(indices, buckets=True)), 9)
    assert torch.equal(before, torch.get_rng_state())

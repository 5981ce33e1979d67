"""The stream's promises: order, exact and elastic resume, equal batches."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from itertools import chain
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from datamodules.shards import ShardError, ShardIndex, write_shards
from datamodules.stream import ShardStream, StreamError
from datamodules.transforms import ImageTransform
from tests.datamodules.make_samples import make_samples
from tests.datamodules.stream_program import consume

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return write_shards(make_samples(44), tmp_path_factory.mktemp("stream") / "data", 7)


def _stream(index: ShardIndex, **settings: object) -> ShardStream:
    settings = {"global_batch_size": 6, "seed": 7, "block_shards": 2, **settings}
    return ShardStream(index, **settings)  # type: ignore[arg-type]


def _keys(stream: ShardStream, count: int) -> list[list[str]]:
    found: list[list[str]] = []
    while True:
        for batch in stream:
            found.append(batch["key"])
            if len(found) == count:
                return found


def _start(*arguments: object, **settings: int) -> BaseProcess:
    """A real process; forked, so that it need not import everything again."""
    process = multiprocessing.get_context("fork").Process(target=consume, args=arguments, kwargs=settings)
    process.start()
    return process


def _exit_code(process: BaseProcess) -> int | None:
    process.join(120)
    return process.exitcode


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_epoch_has_no_sample_twice_and_the_next_another_order(index: ShardIndex) -> None:
    stream = _stream(index)
    first, second = ([key for batch in stream for key in batch["key"]] for _ in range(2))
    assert len(first) == len(second) == 42 == len(set(first)) == len(set(second))
    assert first != second and set(first) != set(second)  # another tail is dropped


def test_the_position_counts_on_over_epochs(index: ShardIndex) -> None:
    stream = _stream(index)
    positions = [batch["position"] for _ in range(2) for batch in stream]
    assert torch.equal(torch.cat(positions), torch.arange(84)) and stream.epoch == 2


def test_the_length_is_what_is_left_of_the_epoch(index: ShardIndex) -> None:
    stream = _stream(index)
    left = [len(stream) for _ in stream]
    assert left == [6, 5, 4, 3, 2, 1, 7]  # the position moves before the batch is handed out


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_any_number_of_ranks_sees_the_same_global_batches(index: ShardIndex, world_size: int) -> None:
    ranks = [_keys(_stream(index, rank=rank, world_size=world_size), 9) for rank in range(world_size)]
    assert [[*chain(*parts)] for parts in zip(*ranks, strict=True)] == _keys(_stream(index), 9)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(index: ShardIndex, workers: int) -> None:
    transform = ImageTransform(12, 20, crop="random", flip=True)
    one, other = (_stream(index, num_workers=count, transform=transform) for count in (0, workers))
    for _ in range(2):
        for mine, theirs in zip(one, other, strict=True):
            assert mine["key"] == theirs["key"] and torch.equal(mine["target"], theirs["target"])


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_resumed_stream_sees_exactly_the_rest(index: ShardIndex, stop: int) -> None:
    whole, first = _keys(_stream(index), 16), _stream(index)
    assert _keys(first, stop) == whole[:stop]
    second = _stream(index)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert _keys(second, 3) == whole[stop : stop + 3]
    third = _stream(index)
    third.load_state_dict(second.state_dict())
    assert _keys(third, 16 - stop - 3) == whole[stop + 3 :]


def test_an_iteration_that_was_abandoned_goes_on_where_it_stopped(index: ShardIndex) -> None:
    stream = _stream(index, num_workers=2)
    assert _keys(stream, 3) + _keys(stream, 8) == _keys(_stream(index), 11)


def test_what_workers_prefetched_is_not_consumed(index: ShardIndex) -> None:
    stream = _stream(index, num_workers=2)
    next(iter(stream))
    assert stream.state_dict()["samples"] == 6


def test_going_from_one_to_two_to_three_ranks_keeps_the_global_batches(index: ShardIndex) -> None:
    found, state = [], None
    for world_size, count in ((1, 5), (2, 5), (3, 5)):
        streams = [_stream(index, rank=rank, world_size=world_size) for rank in range(world_size)]
        for stream in streams:
            if state:
                stream.load_state_dict(state)
        found += [[*chain(*parts)] for parts in zip(*(_keys(stream, count) for stream in streams), strict=True)]
        state = streams[0].state_dict()
        own = {name: state[name] for name in ("read", "pending")}  # without torch.distributed nobody adds them up
        assert all({**stream.state_dict(), **own} == state for stream in streams)
    assert found == _keys(_stream(index), 15)


def test_two_processes_killed_and_resumed_twice_on_other_ranks(index: ShardIndex, tmp_path: Path) -> None:
    consume(index.directory, tmp_path / "whole", 12)
    whole = _lines(tmp_path / "whole")
    outs = [tmp_path / "rank0", tmp_path / "rank1"]
    pair = [
        _start(index.directory, out, 12, rank=rank, world_size=2, workers=rank, dies_at=4)
        for rank, out in enumerate(outs)
    ]
    assert [_exit_code(process) for process in pair] == [-9, -9]
    halves = zip(*map(_lines, outs), strict=True)
    assert [first["key"] + second["key"] for first, second in halves] == [line["key"] for line in whole[:4]]
    shutil.copy(tmp_path / "rank1.state", tmp_path / "one.state")
    assert _exit_code(_start(index.directory, tmp_path / "one", 12, workers=2, dies_at=3)) == -9
    assert _lines(tmp_path / "one") == whole[4:7]  # pixels too: the augmentation goes with the position
    assert _exit_code(_start(index.directory, tmp_path / "one", 5)) == 0
    assert _lines(tmp_path / "one") == whole[7:]


def test_evaluation_gives_every_sample_once_and_equal_batches_to_all_ranks(index: ShardIndex) -> None:
    settings = {"shuffle": False, "drop_last": False, "restart": True}
    alone = [key for batch in _stream(index, **settings) for key in batch["key"]]
    assert alone == [f"{number:06d}" for number in range(44)]
    ranks = [[batch["key"] for batch in _stream(index, rank=rank, world_size=3, **settings)] for rank in range(3)]
    assert [[len(keys) for keys in batches] for batches in ranks] == [[2] * 7 + [1]] * 3
    assert {key for batches in ranks for keys in batches for key in keys} == set(alone)


def test_samples_that_only_fill_up_are_marked(index: ShardIndex) -> None:
    settings = {"shuffle": False, "drop_last": False, "restart": True, "world_size": 3, "limit": 7}
    batches = [batch for rank in range(3) for batch in _stream(index, rank=rank, **settings)]
    rows = [row for batch in batches for row in zip(batch["key"], batch["repeated"].tolist(), strict=True)]
    assert sorted(key for key, repeated in rows if not repeated) == [f"{number:06d}" for number in range(7)]
    assert [key for key, repeated in rows if repeated] == ["000006", "000006"]  # one left over for three ranks


def test_an_error_in_a_worker_is_the_same_one_line_as_without(index: ShardIndex, tmp_path: Path) -> None:
    stale = tmp_path / "stale"
    shutil.copytree(index.directory, stale)
    shutil.copy(stale / "00006.idx", stale / "00000.idx")  # two samples where the index counts seven
    found = []
    for workers in (0, 1):
        with pytest.raises(ShardError) as caught:
            list(_stream(ShardIndex.load(stale), num_workers=workers))
        found.append(str(caught.value))
    assert found[0] == found[1] and "\n" not in found[0] and "00000.idx: lists 2 samples" in found[0]


def test_a_worker_that_is_killed_is_one_clear_line(index: ShardIndex) -> None:
    stream = _stream(index, num_workers=2)
    batches = iter(stream)
    next(batches)
    os.kill(stream._loader._iterator._workers[1].pid, signal.SIGKILL)
    with pytest.raises(StreamError, match=r"a process that reads the data was killed .* fewer .*num_workers") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


def test_evaluation_starts_at_the_beginning_each_time(index: ShardIndex) -> None:
    stream = _stream(index, shuffle=False, drop_last=False, restart=True, limit=8)
    next(iter(stream))
    assert len(stream) == 2 and [batch["key"] for batch in stream] == [batch["key"] for batch in stream]


def test_the_default_generator_is_left_alone(index: ShardIndex) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _keys(_stream(index), 9)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"global_batch_size": 7, "world_size": 2},
            r"global_batch_size: expected a multiple of the number of ranks \(2\)",
        ),
        ({"global_batch_size": 45}, "expected at most the 44 samples"),
        ({"global_batch_size": 45, "world_size": 45}, "44 samples cannot feed 45 ranks"),
        ({"limit": 0}, "expected at least one sample"),
        ({"rank": 2, "world_size": 2}, "0 <= rank < world_size=2, found 2"),
        ({"max_bad_fraction": 2}, r"max_bad_fraction: expected a number in \[0, 1\]"),
    ],
)
def test_settings_that_do_not_fit_are_one_clear_line(index: ShardIndex, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        _stream(index, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("seed", {"seed": 8}), ("global_batch_size", {"global_batch_size": 3}), ("shuffle", {"shuffle": False})],
)
def test_a_state_of_another_order_is_refused(index: ShardIndex, name: str, settings: dict) -> None:
    with pytest.raises(StreamError, match=f"cannot resume the data stream: its {name} was"):
        _stream(index, **settings).load_state_dict(_stream(index).state_dict())


def test_a_state_of_other_shards_is_refused(index: ShardIndex, tmp_path: Path) -> None:
    other = write_shards(make_samples(44, size=15), tmp_path / "other", 7)
    with pytest.raises(StreamError, match="its fingerprint was"):
        _stream(other).load_state_dict(_stream(index).state_dict())


def test_workers_end_with_a_stream_that_was_abandoned(index: ShardIndex) -> None:
    others = set(multiprocessing.active_children())
    stream = _stream(index, num_workers=2)
    next(iter(stream))
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    del stream
    gc.collect()
    assert not any(process.is_alive() for process in workers)


def test_an_exception_ends_the_program_and_its_workers(index: ShardIndex, tmp_path: Path) -> None:
    code = (
        "import sys; from datamodules.shards import ShardIndex; from datamodules.stream import ShardStream\n"
        "stream = ShardStream(ShardIndex.load(sys.argv[1]), global_batch_size=6, seed=0, num_workers=2)\n"
        "for batch in stream: raise KeyError('stop')\n"
    )
    with (tmp_path / "errors").open("w") as errors:
        command = [sys.executable, "-c", code, str(index.directory)]
        assert subprocess.run(command, cwd=ROOT, stderr=errors, timeout=200).returncode == 1
    assert "KeyError: 'stop'" in (tmp_path / "errors").read_text()

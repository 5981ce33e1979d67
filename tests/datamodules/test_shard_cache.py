"""The cache of shards: bounded, shared, whole or not there, also with processes that are killed."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import BinaryIO

import pytest

from datamodules.remote_index import open_index
from datamodules.shard_cache import CacheFullError, ShardCache
from datamodules.shard_reader import ShardReader
from datamodules.shards import write_shards
from datamodules.storage import Storage
from tests.datamodules.make_samples import make_samples
from tests.datamodules.range_server import Handler, Server, serving

CONTEXT = multiprocessing.get_context("fork")


def _start(target: Callable, *arguments: object) -> BaseProcess:
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def _fill(content: bytes) -> Callable[[BinaryIO], object]:
    return lambda file: file.write(content)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_least_recently_used_file_makes_room(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 300)
    for name in "abc":
        cache.add(name, 100, _fill(name.encode() * 100))
    assert cache.read("a", 2, 3) == b"aaa"  # now b is the oldest
    cache.add("d", 100, _fill(b"d" * 100))
    assert _names(tmp_path) == ["a", "c", "d"] and cache.read("b", 0, 1) is None
    cache.add("e", 250, _fill(b"e" * 250))
    assert _names(tmp_path) == ["e"] and cache.counts == {"fetched": 5, "evicted": 4}


def test_a_file_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 300)
    cache.add("a", 1, _fill(b"1"))
    cache.add("a", 1, _fill(b"2"))
    assert cache.read("a", 0, 9) == b"1"


def test_a_file_larger_than_the_limit_leaves_the_others_alone(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 300)
    cache.add("a", 100, _fill(b"a" * 100))
    with pytest.raises(CacheFullError, match=r"b\.incomplete: no room for 301 bytes .*cache_bytes is 300") as caught:
        cache.add("b", 301, _fill(b""))
    assert _names(tmp_path) == ["a"] and "\n" not in str(caught.value) and cache.counts["full"] == 1


def test_what_could_not_be_fetched_leaves_nothing(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyError("stop")

    cache = ShardCache(tmp_path, 300)
    with pytest.raises(KeyError):
        cache.add("a", 100, fail)
    assert _names(tmp_path) == []


def _add_on_a_small_disk(folder: Path, report: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # the kernel refuses larger files, as a full disk would
    cache = ShardCache(folder, 10**9)
    try:
        cache.add("b", 4000, _fill(b""))
    except CacheFullError as error:
        report.write_text(str(error))


def test_a_disk_that_takes_no_more_gives_up_old_files_then_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    ShardCache(folder, 10**9).add("a", 100, _fill(b"a" * 100))
    _start(_add_on_a_small_disk, folder, tmp_path / "report").join(60)
    assert "no room for 4000 bytes in the cache of shards (File too large)" in (tmp_path / "report").read_text()
    assert _names(folder) == []


def _die_while_filling(folder: Path) -> None:
    def fill(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    ShardCache(folder, 300).add("a", 200, fill)


def test_what_a_killed_process_left_is_fetched_anew(tmp_path: Path) -> None:
    process = _start(_die_while_filling, tmp_path)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and _names(tmp_path) == ["a.incomplete", "a.lock"]
    cache = ShardCache(tmp_path, 300)
    assert cache.read("a", 0, 1) is None
    cache.add("a", 200, _fill(b"a" * 200))
    assert cache.read("a", 0, 500) == b"a" * 200 and _names(tmp_path) == ["a"]


def test_what_a_killed_process_left_makes_room_first(tmp_path: Path) -> None:
    ShardCache(tmp_path, 300).add("b", 90, _fill(b"b" * 90))
    _start(_die_while_filling, tmp_path).join(60)
    cache = ShardCache(tmp_path, 300)
    cache.add("c", 200, _fill(b"c" * 200))
    assert _names(tmp_path) == ["b", "c"] and cache.counts == {"fetched": 1, "abandoned": 1}


def test_room_that_another_process_is_filling_counts_and_is_left_alone(tmp_path: Path) -> None:
    inside, done = threading.Event(), threading.Event()

    def wait(file: BinaryIO) -> None:
        inside.set()
        assert done.wait(60)
        file.write(b"a" * 200)

    cache = ShardCache(tmp_path, 300)
    thread = threading.Thread(target=cache.add, args=("a", 200, wait))
    thread.start()
    assert inside.wait(60)
    with pytest.raises(CacheFullError, match="and the rest is being fetched"):
        ShardCache(tmp_path, 300).add("b", 200, _fill(b"b" * 200))
    done.set()
    thread.join()
    assert cache.read("a", 0, 200) == b"a" * 200 and _names(tmp_path) == ["a"]


@pytest.fixture
def served(tmp_path: Path):
    write_shards(make_samples(40), tmp_path / "served" / "data", 4)
    with serving(tmp_path / "served") as server:
        yield server


def _read_all(url: str, cache: str, limit: int, out: Path, start: int) -> None:
    storage = Storage(attempts=2, backoff_s=0.01, cache_directory=cache, cache_bytes=limit)
    index = open_index(url, storage=storage)
    reader = ShardReader(index)
    with out.open("w") as file:
        for place in range(40):
            shard, row = divmod((place + start) % 40, 4)
            reader.read(shard, row)  # compares every checksum
            file.write(f"{reader.key(shard, row)}\n")
            file.flush()


def test_processes_that_share_a_cache_fetch_each_shard_once(served: Server, tmp_path: Path) -> None:
    outs = [tmp_path / f"out{number}" for number in range(3)]
    url, cache = f"{served.url}/data", str(tmp_path / "cache")
    processes = [_start(_read_all, url, cache, 10**9, out, 0) for out in outs]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert all(len(set(out.read_text().split())) == 40 for out in outs)
    assert served.asked() == 10 and len(_names(tmp_path / "cache" / "fetched")) == 10


def test_a_small_cache_under_processes_that_are_killed_stays_bounded_and_right(served: Server, tmp_path: Path) -> None:
    url, folder = f"{served.url}/data", tmp_path / "cache" / "fetched"
    largest = max(path.stat().st_size for path in (served.root / "data").glob("*.tar"))
    limit = 3 * largest
    sizes: list[int] = []

    def watch(handler: Handler, data: bytes) -> bool:  # while a shard is being fetched
        sizes.append(_taken(folder))
        return False

    served.misbehave(watch)
    victims = [_start(_read_all, url, str(folder.parent), limit, tmp_path / f"victim{n}", 8 * n) for n in range(4)]
    while served.asked() < 12:
        victims[0].join(0.005)
    for number in (0, 2):
        os.kill(victims[number].pid, signal.SIGKILL)
    for process in victims:
        process.join(120)
    assert [process.exitcode for process in victims][1::2] == [0, 0]
    last = _start(_read_all, url, str(folder.parent), limit, tmp_path / "last", 0)
    last.join(120)
    assert last.exitcode == 0 and len((tmp_path / "last").read_text().split()) == 40
    assert 0 < max(sizes) <= limit and _taken(folder) <= limit
    assert not any(name.endswith(".incomplete") for name in _names(folder))


def _taken(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def test_a_cache_without_room_is_passed_by(served: Server, tmp_path: Path, caplog) -> None:
    _read_all(f"{served.url}/data", str(tmp_path / "cache"), 100, tmp_path / "out", 0)
    assert len((tmp_path / "out").read_text().split()) == 40
    assert caplog.text.count("its samples are fetched one by one") == 10  # once a shard, not once a sample
    assert _names(tmp_path / "cache" / "fetched") == []


def test_other_files_in_its_folder_are_never_removed(served: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("mine.tar", "mine.incomplete"):
        (cache / name).write_bytes(bytes(10_000))
    largest = max(path.stat().st_size for path in (served.root / "data").glob("*.tar"))
    _read_all(f"{served.url}/data", str(cache), largest, tmp_path / "read", 0)
    assert (tmp_path / "read").read_text().count("\n") == 40
    assert {path.name for path in cache.iterdir()} == {"mine.tar", "mine.incomplete", "fetched"}

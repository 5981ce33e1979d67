"""Shards behind URLs: the same samples as from local files, whatever the server does."""

from __future__ import annotations

import gc
import multiprocessing
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.mixture import Mixture
from datamodules.remote_index import open_index
from datamodules.shard_data import ShardData
from datamodules.shard_index import ShardIndex
from datamodules.shard_reader import ShardReader
from datamodules.shards import write_shards
from datamodules.sources import Source, open_sources
from datamodules.storage import Storage
from datamodules.stream import ShardStream
from datamodules.tar_index import ShardError
from datamodules.transforms import ImageTransform
from tests.datamodules.make_samples import make_samples
from tests.datamodules.range_server import (
    Fault,
    Server,
    answer_500,
    close_early,
    flip,
    forbid,
    ignore_ranges,
    serving,
    stall,
)

QUICK = {"attempts": 3, "backoff_s": 0.01}
"""Soon at the end of its attempts; the time limit is one that no answer misses on a busy machine."""
FAULTS = {"stall": stall, "500": answer_500, "early close": close_early, "flipped": flip}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    write_shards(make_samples(20), tmp_path / "served" / "data", 4)
    with serving(tmp_path / "served") as found:
        yield found


@pytest.fixture(params=["ranges", "cache"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(**QUICK, cache_directory=str(tmp_path / "cache") if request.param == "cache" else None)


BY_RANGES = pytest.mark.parametrize("storage", ["ranges", pytest.param("cache", marks=pytest.mark.slow)], indirect=True)
"""A fault on the way to the cache repeats, slowly, what one on the way to a reader shows."""


def _suited(storage: Storage, fault: Fault) -> Storage:
    """A server that stalls is given up soon."""
    return replace(storage, timeout_s=1.0) if fault is stall else storage


def _open(server: Server, storage: Storage) -> ShardIndex:
    return open_index(f"{server.url}/data", storage=storage)


def _stream(index: ShardIndex | Mixture, **settings: object) -> ShardStream:
    settings = {"global_batch_size": 4, "seed": 3, "max_bad_fraction": 1.0, "block_shards": 2, **settings}
    settings["transform"] = ImageTransform(16)
    return ShardStream(index, **settings)  # type: ignore[arg-type]


def _everything(index: ShardIndex) -> list[dict[str, bytes]]:
    reader = ShardReader(index)
    return [
        {name: bytes(data) for name, data in reader.read(shard, row).items()}
        for shard, info in enumerate(index.shards)
        for row in range(info.count)
    ]


def test_a_url_gives_the_bytes_and_the_identity_of_local_files(server: Server, storage: Storage) -> None:
    local, remote = ShardIndex.load(server.root / "data"), _open(server, storage)
    assert _everything(remote) == _everything(local)
    assert (remote.fingerprint, len(remote)) == (local.fingerprint, 20)
    assert server.asked() == (5 if storage.cache_directory else 20)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_over_a_url_goes_on_where_one_over_local_files_stopped(
    server: Server, storage: Storage, workers: int
) -> None:
    local = _stream(ShardIndex.load(server.root / "data"))
    whole = [batch["key"] for batch in local]
    first = _stream(_open(server, storage), num_workers=workers)
    found = [batch["key"] for _, batch in zip(range(2), first, strict=False)]
    second = _stream(_open(server, storage), num_workers=workers)
    second.load_state_dict(first.state_dict())
    assert found + [batch["key"] for batch in second] == whole
    first.close()
    second.close()


@BY_RANGES
def test_a_process_forked_off_leaves_the_connections_of_its_parent_alone(server: Server, storage: Storage) -> None:
    patient = replace(storage, timeout_s=5.0, attempts=1)
    _everything(_open(server, patient))

    def use_own() -> None:
        _everything(_open(server, patient))
        gc.collect()  # fsspec has let go of the parent's file system, and this finds it

    forked = multiprocessing.get_context("fork").Process(target=use_own)
    forked.start()
    forked.join()
    assert forked.exitcode == 0
    assert len(_everything(_open(server, patient))) == 20


@BY_RANGES
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_passes_loses_nothing(server: Server, storage: Storage, fault: Fault) -> None:
    server.misbehave(fault, times=1)
    stream = _stream(_open(server, _suited(storage, fault)))
    keys = [key for batch in stream for key in batch["key"]]
    assert len(set(keys)) == 20 and stream.fault_counts == {}


@BY_RANGES
@pytest.mark.parametrize("name", [r"index\.json$", r"\.idx$"])
@pytest.mark.parametrize("fault", [stall, answer_500, close_early], ids=["stall", "500", "early close"])
def test_a_fault_that_passes_spares_the_index(server: Server, storage: Storage, fault: Fault, name: str) -> None:
    server.misbehave(fault, name, times=1)
    assert len(_everything(_open(server, _suited(storage, fault)))) == 20


@BY_RANGES
@pytest.mark.parametrize(
    ("fault", "reason"), [(stall, "stalled"), (answer_500, "server"), (close_early, "connection"), (flip, "checksum")]
)
def test_a_fault_that_stays_is_counted_for_its_shard(
    server: Server, storage: Storage, fault: Fault, reason: str
) -> None:
    server.misbehave(fault, r"00001\.tar$")
    suited = replace(_suited(storage, fault), attempts=2)  # each costs the time limit, for every sample
    stream = _stream(_open(server, suited), shuffle=False)
    keys = [key for batch in stream for key in batch["key"]]
    assert len(keys) == 20 and not {f"{number:06d}" for number in range(4, 8)} & set(keys)
    assert set(stream.fault_counts) == {(reason, "00001.tar")} and stream.fault_counts[reason, "00001.tar"] >= 4


def test_closing_does_not_wait_for_a_server_that_stalls(server: Server) -> None:
    server.misbehave(stall, r"0000[1-4]\.tar")
    stream = _stream(_open(server, Storage(timeout_s=120)), num_workers=1, shuffle=False)
    next(iter(stream))
    (worker,) = stream._loader._iterator._workers
    while not server.asked(r"00001\.tar"):
        worker.join(0.01)
    stream.close()
    worker.join(20)
    assert worker.exitcode == -signal.SIGKILL


def test_a_server_that_is_gone_costs_one_attempt_a_request_once_all_have_failed(server: Server) -> None:
    stream = _stream(_open(server, Storage(**QUICK)), global_batch_size=1)
    server.misbehave(answer_500, r"\.(tar|idx)$")
    with pytest.raises(ValueError, match=r"no good sample could be found in the place of 1 bad ones.*server"):
        list(stream)
    assert server.asked(r"\.(tar|idx)$") == 3 + 15


@pytest.mark.parametrize("name", ["00001.tar", "00001.idx"])
def test_a_missing_file_is_a_fault_of_its_samples_and_not_asked_for_again(
    server: Server, storage: Storage, name: str
) -> None:
    (server.root / "data" / name).unlink()
    stream = _stream(_open(server, storage))
    assert len([key for batch in stream for key in batch["key"]]) == 20
    assert set(stream.fault_counts) == {("missing", "00001.tar")}
    assert server.asked(name) == stream.fault_counts["missing", "00001.tar"]


def test_a_shard_shorter_than_its_index_says_is_truncated(server: Server, storage: Storage) -> None:
    path = server.root / "data" / "00001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    stream = _stream(_open(server, storage))
    list(stream)
    assert set(stream.fault_counts) == {("truncated", "00001.tar")}


def test_a_byte_flipped_in_the_member_index_is_fetched_anew(server: Server, storage: Storage) -> None:
    server.misbehave(flip, r"\.idx$", times=1)
    assert len(_everything(_open(server, storage))) == 20


def test_a_copy_that_changes_on_the_disk_is_replaced(server: Server, tmp_path: Path) -> None:
    storage = Storage(**QUICK, cache_directory=str(tmp_path / "cache"))
    index = _open(server, storage)
    whole = _everything(index)
    for path in (tmp_path / "cache" / "fetched").glob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    assert _everything(index) == whole
    assert all(path.read_bytes().strip(b"\0") for path in (tmp_path / "cache" / "fetched").glob("*.tar"))


def test_indices_may_lie_on_a_local_disk_apart_from_the_tars(server: Server, storage: Storage, tmp_path: Path) -> None:
    for path in (server.root / "data").iterdir():
        if path.suffix != ".tar":
            (tmp_path / "own").mkdir(exist_ok=True)
            shutil.move(path, tmp_path / "own" / path.name)
    assert len(_everything(open_index(f"{server.url}/data", tmp_path / "own", storage))) == 20


def test_large_files_come_in_requests_of_bounded_size(server: Server, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("datamodules.storage.REQUEST_BYTES", 5000)
    server.misbehave(close_early, times=1)
    index = _open(server, Storage(**QUICK, cache_directory=str(tmp_path / "cache")))
    assert len(ShardReader(index).read(0, 0)) == 3
    asked = [span for name, span in server.requests if name.endswith(".tar")]
    ends = [tuple(map(int, span.removeprefix("bytes=").split("-"))) for span in asked]
    assert ends[0] == ends[1] == (0, 4999)  # only the part that broke is asked for again
    assert ends[-1][1] == index.shards[0].bytes - 1 and max(end - start for start, end in ends) < 5000


def test_the_time_limit_is_a_setting(server: Server) -> None:
    server.misbehave(stall, r"index\.json$")
    start = time.monotonic()
    with pytest.raises(ShardError, match=r"index\.json: TimeoutError no answer within 0\.2 s; given up after 2") as bad:
        _open(server, Storage(timeout_s=0.2, attempts=2, backoff_s=0.01))
    assert time.monotonic() - start < 5 and "\n" not in str(bad.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda url: open_index(f"{url}/nowhere"), r"nowhere/index\.json: there is no such file"),
        (lambda url: open_index("http://127.0.0.1:9/x", storage=Storage(**QUICK)), r"127\.0\.0\.1:9/x/index\.json: "),
        (lambda url: open_index("nosuch://host/x", storage=Storage(**QUICK)), r"nosuch://host/x/index\.json: "),
        (lambda url: Storage(timeout_s=0), r"storage\.timeout_s: expected at least 0\.001, found 0"),
        (lambda url: Storage(attempts=0), r"storage\.attempts: expected at least 1, found 0"),
        (lambda url: Storage(cache_bytes=0), r"storage\.cache_bytes: expected at least 1, found 0"),
    ],
)
def test_bad_settings_and_addresses_are_one_clear_line(server: Server, make, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make(server.url)
    assert "\n" not in str(caught.value)


def test_what_a_url_keeps_secret_is_in_no_message(server: Server, caplog) -> None:
    host = server.url.removeprefix("http://")
    url = f"http://me:secret@{host}/data?signature=secret"
    index = open_index(url, storage=Storage(**QUICK))
    assert str(index.directory) == str(index.index_directory) == f"http://{host}/data"
    assert len(_everything(index)) == 20 and all("signature=secret" in name for name, _ in server.requests)
    server.misbehave(answer_500, r"00001\.(tar|idx)")
    stream = _stream(Mixture([index, index]), max_bad_fraction=0.0)
    with pytest.raises(ValueError, match=r"no good sample|are bad") as caught:
        list(stream)
    words = [str(caught.value), caplog.text]
    for fault in (answer_500, forbid, stall):
        server.misbehave(fault, "index")
        with pytest.raises(ShardError, match=rf"http://{host}/data/index\.json: ") as refused:
            open_index(url, storage=_suited(Storage(**QUICK), fault))
        words.append(str(refused.value))
    with pytest.raises(ValueError, match=r"expected a positive number") as refused:
        open_sources([Source(url, split="train", weight=-1)])
    words.append(str(refused.value))
    assert "00001" in caplog.text and "secret" not in "".join(words)


def test_a_cache_directory_that_cannot_be_used_is_passed_by(server: Server, tmp_path: Path, caplog) -> None:
    (tmp_path / "cache").write_text("a file of somebody")
    stream = _stream(_open(server, Storage(**QUICK, cache_directory=str(tmp_path / "cache"))))
    assert len([key for batch in stream for key in batch["key"]]) == 20 and stream.fault_counts == {}
    assert "Not a directory" in caplog.text and "its samples are fetched one by one" in caplog.text


def test_a_server_without_ranges_is_told_from_a_broken_one(server: Server, caplog) -> None:
    server.misbehave(ignore_ranges)
    stream = _stream(_open(server, Storage(**QUICK)), global_batch_size=1)
    with pytest.raises(ValueError, match="no good sample could be found"):
        list(stream)
    assert "the server ignores ranges; use one that gives parts of files" in caplog.text


def test_shard_data_takes_urls(server: Server, tmp_path: Path) -> None:
    storage = Storage(**QUICK, cache_directory=str(tmp_path / "cache"))
    settings = {"resolution": 16, "global_batch_size": 4}
    local = ShardData(str(server.root / "data"), **settings)
    remote = ShardData(f"{server.url}/data", storage=storage, **settings)
    keys = [[batch["key"] for batch in data.train_dataloader()] for data in (local, remote)]
    assert keys[0] == keys[1] and len(keys[0]) == 5

"""Bad samples: skipped, counted, replaced; too many stop all ranks together."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
from collections.abc import Container
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from datamodules.decode import decode
from datamodules.faults import BadSample, DataFaultError
from datamodules.schema import Sample
from datamodules.shard_reader import ShardReader
from datamodules.shards import ShardIndex, index_shards, verify, write_shards
from datamodules.stream import ShardStream
from datamodules.tar_index import MemberIndex
from datamodules.transforms import ImageTransform
from tests.datamodules.damage import encoded
from tests.datamodules.make_samples import make_image, make_samples

CUT = encoded(make_image(0))[:60]
"""A picture whose rest is lost."""
PNG = b"\x89PNG"


def _bad_folder(tmp_path: Path, count: int = 40) -> ShardIndex:
    """Ten shards of four; 000009's picture is damaged, 000021's byte flipped after indexing, the last shard cut."""
    samples: list[Sample] = list(make_samples(count))
    samples[9]["source"] = CUT
    samples[14]["source"] = make_image(1).resize((16, 8))
    index = write_shards(samples, tmp_path / "bad", 4)
    shard = tmp_path / "bad" / "00005.tar"
    data = bytearray(shard.read_bytes())
    data[data.index(b"000021.source.png") + 512 + 40] ^= 1
    shard.write_bytes(data)
    os.truncate(tmp_path / "bad" / index.shards[-1].name, 6000)
    return ShardIndex.load(tmp_path / "bad")


def _stream(index: ShardIndex, **settings: object) -> ShardStream:
    settings = {"global_batch_size": 4, "seed": 3, "max_bad_fraction": 0.5, **settings}
    return ShardStream(index, transform=ImageTransform(16), **settings)  # type: ignore[arg-type]


def test_bad_samples_are_replaced_and_counted_by_reason_and_shard(tmp_path: Path) -> None:
    stream = _stream(_bad_folder(tmp_path))
    batches = list(stream)
    assert [len(batch["key"]) for batch in batches] == [4] * 10 and all(batch["has_source"].all() for batch in batches)
    faults = [fault for batch in batches for fault in batch["faults"]]
    assert {"000009", "000014", "000021"} < {fault["key"] for fault in faults}
    assert sum(stream.fault_counts.values()) == len(faults)
    assert set(stream.fault_counts) == {
        ("image", "00002.tar"),
        ("size", "00003.tar"),
        ("checksum", "00005.tar"),
        ("truncated", "00009.tar"),
    }
    assert not {"000009", "000014", "000021"} & {key for batch in batches for key in batch["key"]}


def test_a_replacement_depends_on_the_position_only(tmp_path: Path) -> None:
    index = _bad_folder(tmp_path)
    whole = [batch["key"] for batch in _stream(index)]
    ranks = [[batch["key"] for batch in _stream(index, rank=rank, world_size=2)] for rank in range(2)]
    assert [first + second for first, second in zip(*ranks, strict=True)] == whole
    resumed = _stream(index, num_workers=1)
    resumed.load_state_dict({**_stream(index).state_dict(), "samples": 20})
    assert [batch["key"] for batch in resumed] == whole[5:]


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason", "kept"),
    [
        (lambda path, member: os.truncate(path, member.offset - 512), "truncated", 5),
        (lambda path, member: os.truncate(path, member.offset - 400), "truncated", 5),
        (lambda path, member: _flip(path, member.offset - 509), "checksum", 5),
        (lambda path, member: os.truncate(path, member.offset + 20), "truncated", 5),
        (lambda path, member: os.truncate(path, member.offset - 513), "truncated", 5),
        (lambda path, member: path.write_bytes(path.read_bytes().rstrip(b"\0")), "truncated", 8),
    ],
    ids=["member boundary", "inside header", "flipped header", "inside data", "inside padding", "no end marker"],
)
def test_the_damage_of_a_tar_is_logged_counted_and_verified(tmp_path: Path, caplog, damage, reason, kept) -> None:
    write_shards(make_samples(8), tmp_path / "cut", 8)
    path = tmp_path / "cut" / "00000.tar"
    damage(path, MemberIndex(path.with_suffix(".idx")).members(5)[0])
    index = index_shards(tmp_path / "cut")
    reader, found = ShardReader(index), []
    for row in range(len(index)):
        with contextlib.suppress(BadSample):
            found.append(decode(reader.key(0, row), reader.read(0, row))["key"])
    assert found == [f"{number:06d}" for number in range(kept)] and kept < len(index) <= kept + 2
    stream = _stream(index, global_batch_size=1, max_bad_fraction=1.0)
    assert {fault["reason"] for batch in stream for fault in batch["faults"]} == {reason}
    assert "samples behind it are lost" in caplog.text
    assert any("damaged or cut off at byte" in problem for problem in verify(tmp_path / "cut"))


def test_a_zeroed_header_is_no_end_marker(tmp_path: Path) -> None:
    write_shards(make_samples(8), tmp_path / "zero", 8)
    path = tmp_path / "zero" / "00000.tar"
    data = bytearray(path.read_bytes())
    offset = MemberIndex(path.with_suffix(".idx")).members(5)[0].offset
    data[offset - 512 : offset] = bytes(512)
    path.write_bytes(data)
    assert len(index_shards(tmp_path / "zero")) == 6  # five, and one for what is lost
    assert f"damaged or cut off at byte {offset - 512}" in verify(tmp_path / "zero")[0]


def test_too_many_bad_samples_stop_at_the_end_of_the_epoch(tmp_path: Path) -> None:
    stream = _stream(_bad_folder(tmp_path), max_bad_fraction=0.01)
    with pytest.raises(DataFaultError, match=r"of \d+ samples read are bad, more than max_bad_fraction=0.01") as caught:
        list(stream)
    assert stream.samples == 40 and "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in ("bad", "checksum", "00005.tar", "verify"))


def test_too_many_bad_samples_stop_after_a_thousand(tmp_path: Path) -> None:
    index = _texts(tmp_path / "many", range(0, 1400, 20))
    stream = _stream(index, global_batch_size=10, max_bad_fraction=0.01)
    with pytest.raises(DataFaultError):
        list(stream)
    assert stream.samples == 1000


def test_the_judged_counts_survive_a_resume(tmp_path: Path) -> None:
    index = _bad_folder(tmp_path)
    first, second = _stream(index), _stream(index)
    list(first)
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["bad"] == first.state_dict()["bad"] > 0


def test_nothing_readable_stops_at_once(tmp_path: Path) -> None:
    write_shards(make_samples(8), tmp_path / "gone", 4)
    for name in ("00000.tar", "00001.tar"):
        os.truncate(tmp_path / "gone" / name, 0)
    stream = _stream(ShardIndex.load(tmp_path / "gone"), max_bad_fraction=1.0)
    with pytest.raises(DataFaultError, match="truncated"):
        next(iter(stream))


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_says_so_and_does_not_speak_of_shares(tmp_path: Path, workers: int) -> None:
    write_shards(make_samples(8), tmp_path / "gone", 4)
    for name in ("00000.tar", "00001.tar"):
        os.truncate(tmp_path / "gone" / name, 0)
    with pytest.raises(DataFaultError, match=r"no good sample could be found in the place of 4 bad ones") as caught:
        list(_stream(ShardIndex.load(tmp_path / "gone"), max_bad_fraction=1.0, num_workers=workers))
    assert "max_bad_fraction" not in str(caught.value) and "truncated" in str(caught.value)


def _texts(folder: Path, bad: Container[int]) -> ShardIndex:
    """1,400 samples of text, of which some have a broken image."""
    samples = [{"key": f"{n:05d}", "instruction": "x", **({"source": PNG} if n in bad else {})} for n in range(1400)]
    return write_shards(samples, folder, 100)


@pytest.mark.parametrize("left_out", [(), ("pending", "judged_at")], ids=["now", "states of earlier versions"])
def test_one_bad_sample_soon_after_a_resume_stops_nothing(tmp_path: Path, left_out: tuple[str, ...]) -> None:
    index = _texts(tmp_path / "one", {985})
    settings = {"global_batch_size": 10, "max_bad_fraction": 0.01, "shuffle": False}
    first, second = _stream(index, **settings), _stream(index, **settings)
    for _ in zip(range(98), first, strict=False):
        pass
    second.load_state_dict({name: value for name, value in first.state_dict().items() if name not in left_out})
    assert first.samples == second.samples == 980
    assert sum(len(batch["faults"]) for batch in second) == 1 and second.samples == 1400


@pytest.mark.parametrize("world_size", [1, 2])
def test_bad_samples_add_up_over_resumes_too_short_to_be_judged(tmp_path: Path, world_size: int) -> None:
    index = _texts(tmp_path / "many", range(0, 1400, 20))
    settings = {"global_batch_size": 10, "max_bad_fraction": 0.01, "world_size": world_size}
    state = _stream(index, **settings).state_dict()
    with pytest.raises(DataFaultError, match=r"more than max_bad_fraction=0.01"):
        while True:
            stream = _stream(index, **settings)
            stream.load_state_dict(json.loads(json.dumps(state)))
            for _ in zip(range(20), stream, strict=False):  # 200 samples a life
                pass
            state = stream.state_dict()
    assert 980 <= stream.samples <= 1020


def test_a_stand_in_counts_at_its_own_place_only_in_evaluation(tmp_path: Path) -> None:
    samples: list[Sample] = list(make_samples(8))
    samples[3]["source"] = CUT
    index = write_shards(samples, tmp_path / "val", 4)
    for settings in ({"shuffle": False, "drop_last": False, "restart": True}, {}):
        batches = list(_stream(index, **settings))
        repeated = torch.cat([batch["repeated"] for batch in batches]).tolist()
        keys = [key for batch in batches for key in batch["key"]]
        assert len(keys) == 8 and len(set(keys)) == 7
        counted = [key for key, again in zip(keys, repeated, strict=True) if not again]
        assert sorted(counted) == (sorted(set(keys)) if settings else sorted(keys))


@pytest.mark.parametrize("limit", [1, 10, 37, None])
def test_faults_of_the_parts_are_those_of_the_whole_each_once(tmp_path: Path, limit: int | None) -> None:
    whole = _stream(_bad_folder(tmp_path), shuffle=False, drop_last=False, restart=True)
    found = []
    for world_size in (1, 2, 3):
        batches = [batch for rank in range(world_size) for batch in whole.part(rank, world_size, limit)]
        faults = sorted(fault["key"] for batch in batches for fault in batch["faults"])
        samples = [zip(batch["position"].tolist(), batch["key"], strict=True) for batch in batches]
        found.append((faults, sorted(row for rows in samples for row in rows)))
    assert found[0] == found[1] == found[2]
    assert bool(found[0][0]) == (limit != 1)


def test_the_faults_among_a_few_samples_are_not_judged_as_if_they_were_the_whole(tmp_path: Path) -> None:
    whole = _stream(_bad_folder(tmp_path), shuffle=False, drop_last=False, restart=True, max_bad_fraction=0.01)
    assert sum(len(batch["faults"]) for batch in whole.part(0, 1, 12)) == 1
    with pytest.raises(DataFaultError):
        list(whole.part(0, 1))


def _judged_together(folder: Path, meeting: Path, rank: int, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    stream = _stream(ShardIndex.load(folder), rank=rank, world_size=2, max_bad_fraction=0.01)
    try:
        list(stream)
    except DataFaultError as error:
        out.write_text(f"{stream.samples} {error}")
    dist.destroy_process_group()


def test_all_ranks_stop_together_with_the_same_message(tmp_path: Path) -> None:
    samples: list[Sample] = list(make_samples(40))
    samples[9]["source"] = CUT
    folder = write_shards(samples, tmp_path / "one-bad", 4).directory
    context = multiprocessing.get_context("fork")
    outs = [tmp_path / "rank0", tmp_path / "rank1"]
    processes: list[BaseProcess] = [
        context.Process(target=_judged_together, args=(folder, tmp_path / "meeting", rank, out))
        for rank, out in enumerate(outs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    first, second = (out.read_text() for out in outs)
    assert first == second and first.startswith("40 ") and "1 of 41 samples read are bad" in first

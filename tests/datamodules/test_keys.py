"""Keys that come twice are found among as many as LAION has."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from datamodules.keys import refuse_repeated_keys
from datamodules.tar_index import Member, ShardError, pack

SHARDS, SAMPLES = 80, 1000


def _index(folder: Path, keys: list[list[str]]) -> tuple[list[Path], list[Path]]:
    """Paths of tars, which are not there, and of their member indices."""
    tars = [folder / f"{number:05d}.tar" for number in range(len(keys))]
    for tar, of_shard in zip(tars, keys, strict=True):
        tar.with_suffix(".idx").write_bytes(pack(Member(key, "jpg", 0, 1, 0) for key in of_shard)[0])
    return tars, [tar.with_suffix(".idx") for tar in tars]


def test_the_check_takes_little_more_than_eight_bytes_a_sample(tmp_path: Path) -> None:
    tars, indices = _index(tmp_path, [[f"{s:05d}{n:04d}" for n in range(SAMPLES)] for s in range(SHARDS)])
    tracemalloc.start()
    refuse_repeated_keys(tars, indices)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * SHARDS * SAMPLES


@pytest.mark.parametrize("again", ["00000", "00003"])
def test_a_key_that_comes_twice_is_named_with_both_shards(again: str, tmp_path: Path) -> None:
    keys = [[f"{s:05d}{n:04d}" for n in range(9)] for s in range(5)]
    keys[3].append(f"{again}0007")
    with pytest.raises(ShardError, match=rf"00003\.tar: key '{again}0007' came before, in {again}\.tar"):
        refuse_repeated_keys(*_index(tmp_path, keys))


def test_no_shards_have_no_repeated_key() -> None:
    refuse_repeated_keys([], [])

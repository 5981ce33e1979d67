"""Tars that exist already: indexed untouched, or refused with the old index left as it was."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from datamodules.decode import decode
from datamodules.faults import BadSample
from datamodules.shard_reader import ShardReader
from datamodules.shards import ShardError, ShardIndex, index_shards, main, verify
from tests.datamodules.damage import encoded


def _tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_existing_tars_are_indexed_untouched_into_another_folder(shards: Path, tmp_path: Path) -> None:
    before = (shards / "00000.tar").read_bytes()
    ours = {name: (shards / name).read_bytes() for name in ("00000.idx", "index.json")}
    for path in [*shards.glob("*.idx"), shards / "index.json"]:
        path.unlink()
    index = index_shards(shards, tmp_path / "indices")
    assert len(index) == 10 and (shards / "00000.tar").read_bytes() == before
    assert {name: (tmp_path / "indices" / name).read_bytes() for name in ours} == ours
    assert verify(shards, tmp_path / "indices") == []
    assert sorted(path.name for path in shards.iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]


def test_an_interrupted_indexing_leaves_the_old_index_or_none(shards: Path, monkeypatch) -> None:
    old = (shards / "index.json").read_bytes()
    (shards / "00003.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(ShardError, match=r"00003\.tar: not a plain tar"):
        index_shards(shards)
    (shards / "00003.tar").unlink()
    assert (shards / "index.json").read_bytes() == old and verify(shards) == []
    assert not list(shards.glob("*.incomplete")) and not (shards / "writing.lock").exists()
    _tar(shards / "00001.tar", {"new.json": b'{"instruction": "x"}'})
    monkeypatch.setattr("datamodules.shards.write_index", lambda *_: os.abort())
    monkeypatch.setattr("os.abort", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        index_shards(shards)
    with pytest.raises(ShardError, match=r"index\.json: missing"):
        ShardIndex.load(shards)


def test_keys_in_folders_stay_apart(tmp_path: Path) -> None:
    record = b'{"instruction": "x", "key": "of the record"}'
    names = ("x/1", "y.z/1", "./1", "2")
    _tar(tmp_path / "a.tar", {f"{name}.json": record for name in names})
    index = index_shards(tmp_path)
    reader = ShardReader(index)
    samples = [decode(reader.key(0, row), reader.read(0, row)) for row in range(len(index))]
    assert [sample["key"] for sample in samples] == ["x%2F1", "y%2Ez%2F1", "1", "2"]
    assert verify(tmp_path) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [({"a.json": b"{}", "b.json": b"{}"}, {"b.json": b"{}"}), ({}, {"1.json": b"", "2.json": b"", "./1.txt": b""})],
    ids=["in two shards", "in one shard"],
)
def test_a_key_that_comes_twice_is_refused_when_indexing(tmp_path: Path, first: dict, second: dict) -> None:
    _tar(tmp_path / "0.tar", first)
    _tar(tmp_path / "1.tar", second)
    with pytest.raises(ShardError, match=r"1\.tar: key '[b1]' came before, in [01]\.tar; expected unique keys"):
        index_shards(tmp_path)
    assert not (tmp_path / "index.json").exists()


def test_the_case_of_suffixes_does_not_count(tmp_path: Path) -> None:
    picture, text = encoded(np.full((4, 4, 3), 9, "u1")), b'{"instruction": "x"}'
    _tar(tmp_path / "0.tar", {"A.JPG": picture, "A.Txt": b"said", "b.Source.PNG": picture, "b.JSON": text})
    (tmp_path / "0.tar").rename(tmp_path / "0.TAR")
    reader = ShardReader(index_shards(tmp_path))
    first, second = (decode(reader.key(0, row), reader.read(0, row)) for row in (0, 1))
    assert first["target"].size == (4, 4) and (first["key"], first["target_caption"]) == ("A", "said")
    assert second["source"].size == (4, 4) and second["instruction"] == "x" and verify(tmp_path) == []


def test_one_picture_in_two_cases_is_a_fault(tmp_path: Path) -> None:
    picture = encoded(np.full((4, 4, 3), 9, "u1"))
    _tar(tmp_path / "0.tar", {"a.jpg": picture, "a.JPG": picture})
    with pytest.raises(BadSample, match=r"jpg: comes twice in the tar"):
        ShardReader(index_shards(tmp_path)).read(0, 0)


def test_an_index_of_an_earlier_version_has_suffixes_as_in_the_tar_and_is_read(tmp_path: Path) -> None:
    _tar(tmp_path / "0.tar", {"a.TXT": b"said"})
    index_shards(tmp_path)
    packed = (tmp_path / "0.idx").read_bytes()[:-4].replace(b"a.txt", b"a.TXT")
    (tmp_path / "0.idx").write_bytes(packed)
    assert ShardReader(ShardIndex.load(tmp_path)).read(0, 0) == {"txt": b"said"} and verify(tmp_path) == []


def test_a_single_tar_is_verified_with_its_index_or_without(shards: Path, tmp_path: Path, capsys) -> None:
    tar = shards / "00001.tar"
    assert main(["verify", str(tar)]) == 0 and "every byte is as the index says" in capsys.readouterr().out
    shutil.move(shards / "index.json", tmp_path / "index.json")
    assert main(["verify", str(tar)]) == 0 and "whole; no index.json to compare" in capsys.readouterr().out
    os.truncate(tar, 2000)
    assert main(["verify", str(tar)]) == 1 and "00001.tar: member" in capsys.readouterr().out
    shutil.move(tmp_path / "index.json", shards / "index.json")
    assert main(["verify", str(tar)]) == 1
    assert "expected 20480 bytes" in (said := capsys.readouterr().out) and "00000.tar" not in said
    (shards / "other.tar").write_bytes(b"no tar" * 200)
    assert "not named in" in verify(shards / "other.tar")[0]
    with pytest.raises(ShardError, match="found a file; give the folder"):
        index_shards(tar)


def test_names_that_are_not_utf8_are_indexed(tmp_path: Path) -> None:
    _tar(tmp_path / "0.tar", {"caf\udce9.json": b'{"instruction": "x"}'})
    reader = ShardReader(index_shards(tmp_path))
    assert decode(reader.key(0, 0), reader.read(0, 0))["instruction"] == "x" and reader.key(0, 0).isprintable()


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_compressed_tar_is_refused(tmp_path: Path, size: int) -> None:
    _tar(tmp_path / "a.tar", {"a.json": os.urandom(size)}, "w:gz")
    with pytest.raises(ShardError, match="unpack compressed tars"):
        index_shards(tmp_path)

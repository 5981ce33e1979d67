"""Shards: written to the byte, indexed, verified, and read by other libraries too."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.decode import decode
from datamodules.encode import encode
from datamodules.schema import TEXT_FIELDS, Sample, SchemaError
from datamodules.shard_reader import ShardReader
from datamodules.shards import ShardError, ShardIndex, main, verify, write_shards
from datamodules.tar_index import MemberIndex
from tests import warm
from tests.datamodules.make_samples import make_image, make_samples


def _flip_byte(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def _everything() -> Sample:
    mask = Image.new("L", (16, 16), 255)
    return {
        **next(make_samples(1)),
        "target_mask": mask,
        "reference_mask": mask,
        "concepts": [{"phrase": "a red sphere", "mask": mask}, {"phrase": "nothing"}],
        "attachments": [{"kind": "image", "data": make_image(9), "role": "style"}],
        "edit_type": "recolour",
    }


def _pixels(value: Any) -> Any:
    """Images as arrays, so that they can be compared, in whatever lists and dictionaries they are."""
    if isinstance(value, Image.Image):
        return value.mode, np.asarray(value).tolist()
    if isinstance(value, dict):
        return {name: _pixels(inner) for name, inner in value.items()}
    return [_pixels(inner) for inner in value] if isinstance(value, list) else value


def test_every_field_comes_back_as_it_was() -> None:
    masks = [make_image(seed, channels=1) for seed in range(20, 23)]
    full: Sample = {
        **next(make_samples(1)),
        **{field: f"the {field}" for field in TEXT_FIELDS},  # type: ignore[typeddict-item]
        "edit_type": "recolour",
        "target_mask": masks[0],
        "reference_mask": masks[1],
        "concepts": [{"phrase": "a red sphere", "mask": masks[2]}, {"phrase": "nothing"}],
        "attachments": [
            {"kind": "image", "data": make_image(9), "role": "style", "word": [4, 7]},
            {"kind": "audio", "data": bytes(range(256)), "word": None, "format": "wav"},
        ],
        "metadata": {"deep": [{"é": [1, 2.5, None, True, "\n"]}, {}], "number": 0},
    }
    assert set(full) == set(Sample.__annotations__) - {"features"}  # else this test would miss a field
    decoded = decode(full["key"], encode(full))
    assert set(decoded) == set(full)
    for field in full:
        assert _pixels(decoded[field]) == _pixels(full[field]), field  # type: ignore[literal-required]


@pytest.mark.parametrize(
    "metadata", [{1: "a"}, {"a": [{None: 1}]}, {"a": {True: 1}}, {"a": {1, 2}}, {"a": float("nan")}]
)
def test_metadata_that_would_not_come_back_is_refused(metadata: dict) -> None:
    with pytest.raises(SchemaError, match="sample 'a', field 'metadata': expected plain JSON values"):
        encode({"key": "a", "instruction": "x", "metadata": metadata})


def test_writing_twice_gives_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    write_shards(make_samples(10), tmp_path / "again", 4)
    names = sorted(path.name for path in shards.iterdir())
    assert names == ["00000.idx", "00000.tar", "00001.idx", "00001.tar", "00002.idx", "00002.tar", "index.json"]
    for name in names:
        assert (shards / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_members_are_sorted_plain_files_without_a_date(shards: Path) -> None:
    with tarfile.open(shards / "00000.tar") as tar:
        infos = tar.getmembers()
    assert [info.name for info in infos] == sorted(info.name for info in infos) and len(infos) == 12
    assert {(info.mtime, info.uid, info.mode, info.type) for info in infos} == {(0, 0, 0o644, tarfile.REGTYPE)}


def test_the_index_counts_samples_and_shards(shards: Path) -> None:
    index = ShardIndex.load(shards)
    assert [row.count for row in index.shards] == [4, 4, 2] and len(index) == 10
    assert [row.bytes for row in index.shards] == [(shards / row.name).stat().st_size for row in index.shards]


def test_the_member_index_gives_random_access(shards: Path) -> None:
    members = MemberIndex(shards / "00001.idx")
    assert len(members) == 4 and members.key(2) == "000006"
    with (shards / "00001.tar").open("rb") as file:
        found = {member.field: os.pread(file.fileno(), member.size, member.offset) for member in members.members(2)}
    assert json.loads(found["json"])["instruction"] == "make sphere 6 red"
    assert np.array_equal(Image.open(io.BytesIO(found["target.png"])), make_image(13))


def test_verify_is_silent_about_good_shards(shards: Path) -> None:
    assert verify(shards) == [] and main(["verify", str(shards)]) == 0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: _flip_byte(d / "00001.tar", 600), ["00001.tar", "wrong checksum", "000004.json", "sha256"]),
        (lambda d: os.truncate(d / "00001.tar", 2000), ["00001.tar", "truncated", "found 2000"]),
        (lambda d: (d / "00002.tar").unlink(), ["00002.tar: missing"]),
        (lambda d: (d / "00000.idx").unlink(), ["00000.idx", "cannot read the member index"]),
        (lambda d: os.truncate(d / "00000.idx", 90), ["00000.idx", "not a complete member index"]),
        (lambda d: _flip_byte(d / "00000.idx", (d / "00000.idx").stat().st_size - 7), ["00000.idx: a damaged member"]),
        (lambda d: _flip_byte(d / "00000.idx", 36), ["00000.idx: a damaged member index"]),
        (lambda d: _flip_byte(d / "00000.idx", 70), ["00000.idx: a damaged member index"]),
        (lambda d: shutil.copy(d / "00001.idx", d / "00000.idx"), ["00000.idx: does not list"]),
        (lambda d: shutil.copy(d / "00002.idx", d / "00000.idx"), ["00000.idx: expected 4 samples, found 2"]),
        (lambda d: (d / "extra.tar").write_bytes(b""), ["extra.tar: not named in index.json"]),
        (lambda d: (d / "index.json").unlink(), ["index.json: missing"]),
        (lambda d: (d / "index.json").write_text("{"), ["not a shard index"]),
    ],
)
def test_verify_names_what_is_wrong(shards: Path, damage, words: list[str], capsys) -> None:
    damage(shards)
    problems = "\n".join(verify(shards))
    assert all(word in problems for word in words), problems
    assert main(["verify", str(shards)]) == 1


def test_a_member_index_of_an_earlier_version_without_a_checksum_is_read(shards: Path) -> None:
    path = shards / "00000.idx"
    path.write_bytes(path.read_bytes()[:-4])
    assert ShardReader(ShardIndex.load(shards)).key(0, 3) == "000003" and verify(shards) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", name) for name in ("../0.tar", "/etc/passwd", "a/../../0.tar", "C:\\0.tar", "s3://b/0.tar", "")),
        *(("sha256", text) for text in ("../../escaped", "", 3, "A" * 64)),
        *((number, value) for number in ("count", "bytes") for value in (-1, "1", 1.5, None)),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(shards: Path, field: str, value: object) -> None:
    index = json.loads((shards / "index.json").read_text())
    index["shards"][1][field] = value
    (shards / "index.json").write_text(json.dumps(index))
    with pytest.raises(ShardError, match=r"index\.json: expected a name of a file in the folder") as caught:
        ShardIndex.load(shards)
    assert "\n" not in str(caught.value)


def test_verify_is_a_command(shards: Path) -> None:
    _flip_byte(shards / "00001.tar", 600)
    command = [warm.python(), "-m", "datamodules.shards", "verify", str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1 and "wrong checksum" in done.stdout


def test_a_missing_shard_is_one_clear_line(shards: Path) -> None:
    (shards / "00001.tar").unlink()
    with pytest.raises(ShardError, match=r"00001\.tar: missing, but index.json names it"):
        ShardIndex.load(shards)


def test_writing_into_a_full_folder_is_refused(shards: Path) -> None:
    with pytest.raises(ShardError, match="holds shards already"):
        write_shards(make_samples(3), shards, 4)


def test_writing_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="at least one sample"):
        write_shards([], tmp_path / "empty", 4)


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="'000000': expected unique keys"):
        write_shards([*make_samples(5), *make_samples(1)], tmp_path / "twice", 2)


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    bad = [*make_samples(5), {"key": "z", "instruction": 3}]
    with pytest.raises(SchemaError, match="sample 'z', field 'instruction'"):
        write_shards(bad, tmp_path / "half", 2)
    assert list((tmp_path / "half").iterdir()) == []


def test_a_killed_writer_can_be_repeated(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from tests.datamodules.make_samples import make_samples\n"
        "from datamodules.shards import write_shards\n"
        "def dying():\n"
        "    yield from make_samples(5)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_shards(dying(), sys.argv[1], 2)\n"
    )
    target = tmp_path / "killed"
    command = [sys.executable, "-c", code, str(target)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -9
    assert not (target / "index.json").exists() and list(target.glob("*.tar")) == []
    assert len(write_shards(make_samples(3), target, 2)) == 3 and verify(target) == []


def test_a_stale_index_beside_other_members_is_one_clear_line(shards: Path) -> None:
    shutil.copy(shards / "00002.idx", shards / "00001.idx")  # two samples where the index counts four
    reader = ShardReader(ShardIndex.load(shards))
    with pytest.raises(ShardError, match=r"00001\.idx: lists 2 samples where index.json counts 4; .*remake") as caught:
        reader.read(1, 3)
    assert "\n" not in str(caught.value)


def test_a_shard_of_another_size_is_logged(shards: Path, caplog) -> None:
    with (shards / "00001.tar").open("ab") as file:
        file.write(bytes(512))
    reader = ShardReader(ShardIndex.load(shards))
    assert "json" in reader.read(1, 0)
    assert "00001.tar: expected" in caplog.text


def test_two_writers_cannot_hold_one_folder(tmp_path: Path) -> None:
    def samples() -> Iterator[Sample]:
        yield from make_samples(1)
        with pytest.raises(ShardError, match="another process is writing shards here"):
            write_shards(make_samples(1), tmp_path / "data", 1)

    assert len(write_shards(samples(), tmp_path / "data", 1)) == 1
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["00000.idx", "00000.tar", "index.json"]


def test_webdataset_reads_the_shards(shards: Path) -> None:
    import webdataset

    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in found] == [f"{number:06d}" for number in range(10)]
    assert found[3]["json"]["instruction"] == "make sphere 3 red"
    assert np.array_equal(found[3]["target.png"], make_image(7))


def test_datasets_reads_the_shards(tmp_path: Path) -> None:
    import datasets

    write_shards([*make_samples(4), {**_everything(), "key": "full"}], tmp_path / "data", 4)
    files = [str(path) for path in sorted((tmp_path / "data").glob("*.tar"))]
    found = list(datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True))
    assert [sample["__key__"] for sample in found] == ["000000", "000001", "000002", "000003", "full"]
    assert found[2]["json"]["instruction"] == "make sphere 2 red"
    assert np.array_equal(found[2]["source.png"].convert("RGB"), make_image(4))

"""InstructPix2Pix's dataset as folders, zips and parquet: the published split, every text, nothing silently lost."""

from __future__ import annotations

import json
import math
import os
import zipfile
from pathlib import Path

import pytest

from datamodules.convert.engine import Options, convert
from datamodules.convert.ipr2pr import by_position, ipr2pr
from datamodules.convert.prompts import find_prompts
from datamodules.convert.source import ConversionError
from datamodules.shard_index import ShardIndex
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform
from tests.datamodules.convert.layouts import ipr2pr_files, picture, write, write_parquet, zipped
from tests.datamodules.convert.results import contents, converted, samples


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("folders"), ipr2pr_files(20))


@pytest.fixture(scope="module")
def shards(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    converted(ipr2pr(str(folders)), out, samples_per_shard=8)
    return out


@pytest.mark.parametrize("prompts", [20, 21, 313_010, 451_990])
def test_the_split_is_the_published_one(prompts: int) -> None:
    parts = by_position(range(prompts))
    assert [*parts["train"], *parts["val"], *parts["test"]] == list(range(prompts))
    assert len(parts["train"]) == math.floor(0.9 * prompts)
    assert len(parts["train"]) + len(parts["val"]) == math.floor((0.9 + 0.05) * prompts)


def test_prompts_are_split_by_their_place_in_seeds_json(folders: Path, shards: Path) -> None:
    listed = json.loads((folders / "seeds.json").read_text())
    for split, part in (("train", listed[:18]), ("val", listed[18:19]), ("test", listed[19:])):
        expected = [f"{name}_{seed}" for name, seeds in part for seed in seeds]
        assert list(samples(shards / split)) == expected


def test_pictures_stay_byte_for_byte_and_every_text_is_there(folders: Path, shards: Path) -> None:
    key, sample = next(iter(samples(shards / "val").items()))
    name, seed = key.split("_")
    assert sample["instruction"] == f"make it {name}"
    assert (sample["source_caption"], sample["target_caption"]) == (f"a photo {name}", f"a drawing {name}")
    notes = {"seed": seed, "prompt": name, "position": 18, "cfg_scale": 7.5, "clip_sim_dir": 0.25}
    assert sample["metadata"] == notes
    tar = (shards / "val" / "00000.tar").read_bytes()
    assert all((folders / name / f"{seed}_{side}.jpg").read_bytes() in tar for side in (0, 1))


def test_all_seeds_of_a_prompt_are_in_one_shard(shards: Path) -> None:
    index = ShardIndex.load(shards / "train")
    opened = [index.open_members(number) for number in range(len(index.shards))]
    prompts = [{members.key(row).split("_")[0] for row in range(len(members))} for members in opened]
    assert len(prompts) > 1 and sum(map(len, prompts)) == len(set.union(*prompts))


@pytest.mark.parametrize("parts", [1, 3])
def test_zips_give_the_same_shards_as_folders(parts: int, folders: Path, shards: Path, tmp_path: Path) -> None:
    files = ipr2pr_files(20)
    listed = files.pop("seeds.json")
    numbers = {name: place % parts for place, (name, _) in enumerate(listed)}
    archives = {
        f"shard-{part:02d}.zip": zipped({name: data for name, data in files.items() if numbers[name[:7]] == part})
        for part in range(parts)
    }
    write(tmp_path / "source", {"seeds.json": listed, **archives})
    converted(ipr2pr(str(tmp_path / "source")), tmp_path / "out", samples_per_shard=8)
    for split in ("train", "val", "test"):
        assert contents(tmp_path / "out" / split) == contents(shards / split)


def test_the_first_seed_alone_gives_one_sample_a_prompt(folders: Path, tmp_path: Path) -> None:
    report = converted(ipr2pr(str(folders), seeds="first"), tmp_path)
    assert [report["splits"][split]["samples"] for split in ("train", "val", "test")] == [18, 1, 1]


def test_the_generators_name_of_the_caption_is_read_too(tmp_path: Path) -> None:
    write(tmp_path / "source", ipr2pr_files(2, caption="caption"))
    converted(ipr2pr(str(tmp_path / "source")), tmp_path / "out")
    assert all(s["source_caption"].startswith("a photo") for s in samples(tmp_path / "out" / "train").values())


def test_what_cannot_be_used_is_dropped_alone_and_named(tmp_path: Path) -> None:
    source = write(tmp_path / "source", ipr2pr_files(10))
    names = [name for name, _ in json.loads((source / "seeds.json").read_text())]
    (source / names[0] / "0_1.jpg").unlink()
    (source / names[1] / "1000_0.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (source / names[2] / "2000_0.jpg").write_bytes(b"")
    (source / names[3] / "prompt.json").write_text("{")
    (source / names[4] / "prompt.json").write_text('{"input": "no edit"}')
    (source / names[5] / "5000_1.jpg").unlink()
    (source / names[5] / "5000_1.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (tmp_path / "elsewhere.jpg").write_bytes(picture(0))
    (source / names[6] / "6000_1.jpg").write_bytes(picture(0, (16, 32)))
    (source / names[7] / "metadata.jsonl").write_text("no JSON")
    report = converted(ipr2pr(str(source)), tmp_path / "out")
    expected = {"missing": 1, "image": 1, "field": 2, "json": 1, "outside": 1, "size": 1}
    assert report["splits"]["train"]["dropped"] == dict(sorted(expected.items()))
    assert report["splits"]["train"]["kept"] == {"notes": 1}
    items = {(finding["reason"], finding["item"]) for finding in report["findings"]}
    assert {("missing", f"{names[0]}_0"), ("json", names[3]), ("notes", names[7])} <= items
    kept = samples(tmp_path / "out" / "train")
    assert f"{names[0]}_1" in kept and f"{names[0]}_0" not in kept and f"{names[7]}_7000" in kept


@pytest.mark.parametrize("name", ["../etc", "/etc/passwd", "0000001/..", "x" * 5000, "\0"])
def test_seeds_json_cannot_name_files_elsewhere(name: str, tmp_path: Path) -> None:
    files = ipr2pr_files(2)
    files["seeds.json"].insert(0, [name, ["1"]])
    files["seeds.json"].insert(1, ["0000000", ["../../1"]])
    del files["seeds.json"][2]
    report = converted(ipr2pr(str(write(tmp_path / "source", files))), tmp_path / "out")
    dropped = {f["reason"] for f in report["findings"]}
    assert "outside" in dropped and dropped <= {"outside", "field"}


def test_a_part_of_the_set_is_refused_unless_it_is_called_one(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"20 prompts, the published sets have 313,010 .* --partial"):
        convert(ipr2pr(str(folders)), tmp_path, Options())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["{", "{}", '[["0000001"]]', '[["0000001", ["1"]], ["0000001", ["2"]]]'])
def test_a_seeds_json_of_another_form_is_one_line(content: str, tmp_path: Path) -> None:
    write(tmp_path, {**ipr2pr_files(1), "seeds.json": content})
    with pytest.raises(ConversionError, match=r"seeds\.json: ") as caught:
        ipr2pr(str(tmp_path)).splits()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_without_seeds_json_prompts_and_seeds_are_those_that_are_there(packed: bool, tmp_path: Path) -> None:
    files = ipr2pr_files(10)
    del files["seeds.json"]
    write(tmp_path / "source", {"a.zip": zipped(files)} if packed else files)
    converted(ipr2pr(str(tmp_path / "source")), tmp_path / "out")
    keys = [key for split in ("train", "val", "test") for key in samples(tmp_path / "out" / split)]
    assert len(keys) == 20 and [key[:7] for key in keys] == sorted(key[:7] for key in keys)


def test_without_seeds_json_it_is_found_again_as_the_authors_program_writes_it(tmp_path: Path) -> None:
    """Folders without a picture are not listed, and so move no other to another split; seeds go by file name."""
    files = {f"0000003/{name}": picture(1) for name in ("5_0.jpg", "10_0.jpg", "100_0.jpg", "5_1.jpg")}
    write(tmp_path, {**files, "0000001/prompt.json": {"edit": "x"}})
    (prompt,) = find_prompts(str(tmp_path))
    assert (prompt.name, prompt.seeds, prompt.position) == ("0000003", ("100", "10", "5"), 0)


def test_a_damaged_zip_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, {"seeds.json": [], "a.zip": b"PK no zip"})
    with pytest.raises(ConversionError, match=r"a\.zip: cannot be read as a zip file"):
        ipr2pr(str(tmp_path)).splits()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("place", [4, 30])
def test_entries_of_a_zip_that_lie_are_dropped(method: int, place: int, tmp_path: Path) -> None:
    files = ipr2pr_files(4)
    listed = files.pop("seeds.json")
    data = bytearray(zipped(files, method))
    name = b"0000000/0_0.jpg"
    begin = data.index(name) + len(name) + place
    data[begin : begin + 20] = bytes(byte ^ 0x5A for byte in data[begin : begin + 20])
    write(tmp_path / "source", {"seeds.json": listed, "a.zip": bytes(data)})
    report = converted(ipr2pr(str(tmp_path / "source")), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {"archive": 1}


def test_a_zip_whose_names_are_no_utf8_is_one_line(tmp_path: Path) -> None:
    data = zipped({"0000001/caf\u00e9.txt": b"x"}).replace("\u00e9".encode(), b"\xff\xfe")
    write(tmp_path, {"seeds.json": [], "a.zip": data})
    with pytest.raises(ConversionError, match=r"a\.zip: cannot be read as a zip file"):
        ipr2pr(str(tmp_path)).splits()


def test_json_beyond_measure_is_not_parsed(tmp_path: Path) -> None:
    files = ipr2pr_files(4)
    listed = files.pop("seeds.json")
    files["0000000/prompt.json"] = '{"edit": "x", "more": "' + "x" * 2**24 + '"}'
    archive = zipped(files, zipfile.ZIP_DEFLATED)
    assert len(archive) < 2**20
    write(tmp_path / "source", {"seeds.json": listed, "a.zip": archive})
    report = converted(ipr2pr(str(tmp_path / "source")), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {"large": 1}


@pytest.mark.parametrize(
    ("texts", "reason"),
    [('{"edit": "half \\ud83d"}', "text"), ('{"edit": ""}', "field"), ('{"edit": " \\n"}', "field")],
)
def test_an_instruction_that_is_none_drops_its_samples(texts: str, reason: str, tmp_path: Path) -> None:
    source = write(tmp_path / "source", {**ipr2pr_files(4), "0000000/prompt.json": texts})
    report = converted(ipr2pr(str(source)), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {reason: 2} and report["splits"]["train"]["samples"] == 4


def _table(rows: int, first: str = "original_image") -> dict[str, list]:
    return {
        "original_prompt": [f"a photo {n}" for n in range(rows)],
        first: [picture(2 * n) for n in range(rows)],
        "edit_prompt": [f"make it {n}" for n in range(rows)],
        "edited_prompt": [f"a drawing {n}" for n in range(rows)],
        "edited_image": [picture(2 * n + 1) for n in range(rows)],
    }


@pytest.mark.usefixtures("datasets_cache")
def test_parquet_is_split_by_position_over_all_its_files(tmp_path: Path) -> None:
    table = _table(20)
    for part in range(2):
        columns = {name: cells[10 * part : 10 * part + 10] for name, cells in table.items()}
        write_parquet(tmp_path / "source" / "data" / f"train-{part:05d}-of-00002.parquet", columns)
    converted(ipr2pr(str(tmp_path / "source")), tmp_path / "out", samples_per_shard=5)
    texts = {
        split: [s["instruction"] for s in samples(tmp_path / "out" / split).values()]
        for split in ("train", "val", "test")
    }
    assert texts["train"] == table["edit_prompt"][:18]
    assert (texts["val"], texts["test"]) == (table["edit_prompt"][18:19], table["edit_prompt"][19:])
    tar = (tmp_path / "out" / "test" / "00000.tar").read_bytes()
    assert table["original_image"][19] in tar and table["edited_image"][19] in tar


@pytest.mark.usefixtures("datasets_cache")
def test_the_small_copys_name_of_the_first_picture_is_known(tmp_path: Path) -> None:
    write_parquet(tmp_path / "source" / "train.parquet", _table(3, first="input_image"))
    converted(ipr2pr(str(tmp_path / "source")), tmp_path / "out")
    found = [s for split in ("train", "val", "test") for s in samples(tmp_path / "out" / split).values()]
    assert len(found) == 3 and all("source" in s and "target" in s for s in found)


@pytest.mark.usefixtures("datasets_cache")
def test_a_damaged_row_group_costs_its_rows_only(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "source" / "train.parquet", _table(12), rows_in_group=4)
    import pyarrow.parquet as pq

    chunk = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    data[begin : begin + 60] = os.urandom(60)
    path.write_bytes(data)
    report = converted(ipr2pr(str(tmp_path / "source")), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {"parquet": 4}
    assert sum(part["samples"] for part in report["splits"].values()) == 8


def test_the_result_streams(shards: Path) -> None:
    stream = ShardStream(ShardIndex.load(shards / "train"), global_batch_size=12, seed=0, transform=ImageTransform(16))
    batches = list(stream)
    keys = [key for batch in batches for key in batch["key"]]
    assert len(keys) == len(set(keys)) == 36 and stream.fault_counts == {}
    assert all(batch["has_source"].all() and batch["has_target"].all() for batch in batches)
    assert batches[0]["source"].shape == (12, 3, 16, 16)

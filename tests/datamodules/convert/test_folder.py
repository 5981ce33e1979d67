"""A user's own table of edits: what its rows become, and one clear line with the row for everything that is wrong."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.buckets import Buckets
from datamodules.convert.__main__ import main
from datamodules.convert.edit_table import read_table
from datamodules.convert.folder import Folder
from datamodules.convert.source import ConversionError
from datamodules.folder import FolderData
from tests.datamodules.convert.layouts import picture, write
from tests.datamodules.convert.results import contents, converted, samples

Table = list[dict[str, Any]]


def edits(count: int = 6, **more: Any) -> Table:
    return [{"source": f"{n}a.jpg", "target": f"{n}b.jpg", "instruction": f"edit {n}", **more} for n in range(count)]


def pictures(folder: Path, count: int = 6) -> Path:
    return write(folder, {f"{n}{side}.jpg": picture(10 * n + (side == "b")) for n in range(count) for side in "ab"})


def as_csv(table: Table, separator: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def as_lines(table: Table) -> str:
    return "".join(json.dumps(row) + "\n" for row in table)


def source(folder: Path, table: str, name: str = "edits.csv", **settings: Any) -> Folder:
    pictures(folder)
    write(folder, {name: table})
    return Folder(str(folder), table=str(folder / name), **settings)


def test_csv_with_any_separator_and_json_lines_give_the_same_samples(tmp_path: Path) -> None:
    table = edits(response="a, picture; of something")
    forms = {"a.csv": as_csv(table), "b.csv": as_csv(table, ";"), "c.tsv": as_csv(table, "\t")}
    forms["d.jsonl"] = forms["e.json"] = as_lines(table)
    forms["f.json"] = json.dumps(table, indent=1)
    forms["pandas.csv"] = as_csv([{"": n, **row} for n, row in enumerate(table)])
    forms["again.csv"] = as_csv([{"Unnamed: 0": n, **row} for n, row in enumerate(table)])
    forms["excel.csv"] = "".join(line + ";;\n" for line in as_csv(table, ";").splitlines()) + ";;;;;\n" * 3
    found = []
    for name, text in forms.items():
        converted(source(tmp_path, text, name), tmp_path / f"out-{name}")
        train, val = (samples(tmp_path / f"out-{name}" / split) for split in ("train", "val"))
        found.append({key: (s["instruction"], s["response"]) for key, s in (train | val).items()})
        assert len(val) == 1 and len(train) == 5
    assert all(each == found[0] for each in found)
    assert found[0]["row0000003"] == ("edit 3", "a, picture; of something")


def test_pictures_stay_byte_for_byte_and_columns_have_any_case(tmp_path: Path) -> None:
    text = as_csv(edits()).replace("source,target,instruction", "Source, TARGET ,Instruction")
    converted(source(tmp_path, text, val=0.0), tmp_path / "out")
    tar = (tmp_path / "out" / "train" / "00000.tar").read_bytes()
    assert all((tmp_path / f"{n}{side}.jpg").read_bytes() in tar for n in range(6) for side in "ab")


def test_a_missing_response_is_the_target_caption_or_else_the_instruction(tmp_path: Path) -> None:
    table = edits(3, response="", target_caption="")
    table[0]["response"], table[1]["target_caption"] = "said", "seen"
    converted(source(tmp_path, as_csv(table), val=0.0), tmp_path / "out")
    found = samples(tmp_path / "out" / "train")
    assert [sample["response"] for sample in found.values()] == ["said", "seen", "edit 2"]
    origins = [sample["metadata"].get("response_from") for sample in found.values()]
    assert origins == [None, "target_caption", "instruction"]


def test_every_optional_column_reaches_its_field(tmp_path: Path) -> None:
    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    fields = {
        "response": "a red ball",
        "expressive": "make the ball red",
        "source_caption": "a ball",
        "target_caption": "a red ball on grass",
        "object_phrase": "ball",
        "background_phrase": "grass",
        "edit_type": "recolour",
    }
    others = {"mask": "mask.png", "reference_mask": "mask.png", "concepts": ["red ball", "grass"], "key": "first/1"}
    row = {**edits(1)[0], **fields, **others}
    converted(source(tmp_path, as_lines([row]), "edits.jsonl"), tmp_path / "out")
    found = samples(tmp_path / "out" / "train")["first%2F1"]
    assert {name: found[name] for name in fields} == fields
    assert found["concepts"] == [{"phrase": "red ball"}, {"phrase": "grass"}]
    assert found["target_mask"].getextrema() == found["reference_mask"].getextrema() == (255, 255)


def test_edits_of_one_picture_are_on_one_side_and_always_the_same(tmp_path: Path) -> None:
    table = [row | {"source": f"{n % 3}a.jpg"} for n, row in enumerate(edits())]
    splits = source(tmp_path, as_csv(table), val=0.4).splits()
    sides = {split: {pair.source for pair in pairs} for split, pairs in splits.items()}
    assert len(sides["val"]) == 1 and not sides["train"] & sides["val"]
    shuffled = source(tmp_path, as_csv(table[::-1]), "other.csv", val=0.4).splits()
    assert {pair.source for pair in shuffled["val"]} == sides["val"]


def test_a_picture_with_several_names_is_on_one_side(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    (folder / "sub").mkdir()
    (folder / "link.jpg").symlink_to("1a.jpg")
    (folder / "copy.jpg").write_bytes((folder / "2a.jpg").read_bytes())
    os.link(folder / "3a.jpg", folder / "hard.jpg")
    names = {
        "0a.jpg": "./0a.jpg",
        "1a.jpg": "link.jpg",
        "2a.jpg": "copy.jpg",
        "3a.jpg": "hard.jpg",
        "4a.jpg": "sub/../4a.jpg",
    }
    table = edits(5) + [row | {"source": names[row["source"]]} for row in edits(5)]
    for share in (0.2, 0.4, 0.6, 0.8):
        splits = source(tmp_path, as_csv(table), val=share).splits()
        sides = [{(folder / pair.source).read_bytes() for pair in splits[split]} for split in ("train", "val")]
        assert not sides[0] & sides[1] and len(splits["val"]) == 2 * round(share * 5)


def test_numbers_that_are_none_are_empty_cells(tmp_path: Path) -> None:
    lines = as_lines(edits(4, response="x")).replace('"x"', "NaN", 1).replace('"x"', "Infinity", 1)
    lines = lines.replace('"x"', "null", 1).replace('"x"', '"nan"', 1)
    converted(source(tmp_path, lines, "edits.jsonl", val=0.0), tmp_path / "out")
    found = samples(tmp_path / "out" / "train").values()
    assert [sample["response"] for sample in found] == [f"edit {n}" for n in range(4)]


def test_masks_are_read_as_in_shards_and_another_shape_is_none(tmp_path: Path) -> None:
    inside = np.zeros((16, 16), "u1")
    inside[4:12, 2:9] = 1
    wrong = {"wide": inside[:8], "dark": np.arange(256, dtype="u1").reshape(16, 16) // 3}
    for name, values in {"ones": inside, "bytes": inside * 255, "half": inside[::2, ::2] * 255, **wrong}.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    names = ["ones", "bytes", "half", "wide", "dark"]
    table = [row | {"mask": f"{name}.png"} for row, name in zip(edits(5), names, strict=True)]
    report = converted(source(tmp_path, as_csv(table), val=0.0), tmp_path / "out")
    found = list(samples(tmp_path / "out" / "train").values())
    assert all(np.array_equal(np.asarray(each["target_mask"]) >= 128, inside == 1) for each in found[:2])
    assert np.asarray(found[2]["target_mask"]).mean() > 40 and not any("target_mask" in each for each in found[3:])
    assert report["splits"]["train"]["kept"] == {"mask": 2}
    details = [finding["detail"] for finding in report["findings"]]
    assert "target_mask: another shape than the picture's, 16x8 and 16x16 pixels" in details[0]
    assert "no pixel is bright" in details[1]


def test_rows_that_are_all_dropped_are_no_data_set(tmp_path: Path, capsys) -> None:
    pictures(tmp_path)
    for side in "ab":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{side}.bmp")
    table = write(tmp_path, {"edits.csv": "source,target,instruction\na.bmp,b.bmp,x\n"}) / "edits.csv"
    words = r"no sample was kept of 1 entries, dropped were: format 1 \(the first, edits.csv:2: source: expected PNG"
    with pytest.raises(ConversionError, match=words):
        FolderData(str(tmp_path), str(table), root=str(tmp_path / "own")).prepare_data()
    command = [
        "folder",
        "--source",
        str(tmp_path),
        "--table",
        str(table),
        "--workers",
        "1",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(command) == 1
    found = capsys.readouterr()
    assert "no sample was kept" in found.err.splitlines()[-1] and "written" not in found.out


def test_a_column_split_decides_for_itself(tmp_path: Path) -> None:
    table = [row | {"split": split} for row, split in zip(edits(), ["train", "val", "test", "", "", ""], strict=True)]
    splits = source(tmp_path, as_csv(table)).splits()
    assert {split: len(pairs) for split, pairs in splits.items()} == {"train": 4, "val": 1, "test": 1}


HEAD = "source,target,instruction\n"
WRONG = [
    ("edits.csv", "source,target\n0a.jpg,0b.jpg\n", r"edits.csv:1: expected the columns source, target, instruction"),
    ("edits.csv", "source,target,instruction,sauce\n", r"edits.csv:1: no column is called 'sauce'; known are source"),
    ("edits.csv", "source,target,instruction,Source\n", r"edits.csv:1: the column source is there twice"),
    ("edits.csv", HEAD + "0a.jpg,0b.jpg,x\n1a.jpg,,x\n", r"edits.csv:3: target is empty; fill it in"),
    ("edits.csv", HEAD + "0a.jpg,0b.jpg,x, y\n", r"edits.csv:2: expected 3 cells .* found 4; put texts"),
    ("edits.csv", HEAD + '0a.jpg,0b.jpg,"x\n', r"edits.csv:2: not CSV"),
    ("edits.csv", HEAD + "0a.jpg,9b.jpg,x\n", r"edits.csv:2: target: '9b.jpg': no such file in"),
    ("edits.csv", HEAD + "../0a.jpg,0b.jpg,x\n", r"edits.csv:2: source: .* outside of"),
    ("edits.csv", HEAD, r"edits.csv: expected at least one row"),
    ("edits.csv", "", r"edits.csv:1: expected the columns"),
    ("edits.csv", HEAD.strip() + ",key\n0a.jpg,0b.jpg,x,k\n1a.jpg,1b.jpg,x,k\n", r"edits.csv:3: the key 'k' is .*:2"),
    ("edits.csv", HEAD.strip() + ",split\n0a.jpg,0b.jpg,x,dev\n", r"edits.csv:2: split: expected train, val, test"),
    ("edits.jsonl", '{"source": "0a.jpg"}\n', r"edits.jsonl:1: expected the columns .*: target is missing"),
    (
        "edits.csv",
        "," + HEAD + "0,0a.jpg,0b.jpg,x\nred,1a.jpg,1b.jpg,y\n",
        r"edits.csv:3: column 1 has no name, but 'red'",
    ),
    (
        "edits.csv",
        HEAD.strip() + ",\n0a.jpg,0b.jpg,x,7\n",
        r"edits.csv:2: column 4 has no name, but '7' is in it; give",
    ),
    ("edits.json", '[{"source": "0a.jpg"}]', r"edits.json, entry 1: expected the columns .*: target is missing"),
    ("edits.json", '[{"source": "0a.jpg"', r"edits.json: expected one JSON array of objects \("),
    ("edits.json", '{"source": {"0": "0a.jpg"}}', r"edits.json: expected one JSON array .* found an object of columns"),
    ("edits.jsonl", "{}\n[1]\n", r"edits.jsonl:1: expected the columns"),
    ("edits.jsonl", "[1]\n", r"edits.jsonl:1: expected a JSON object, found list"),
    ("edits.jsonl", "{\n", r"edits.jsonl:1: expected one JSON object a line"),
    ("edits.txt", HEAD, r"edits.txt: expected a table that ends in .csv"),
]


@pytest.mark.parametrize(("name", "text", "message"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_what_is_wrong_is_said_in_one_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=message) as caught:
        source(tmp_path, text, name).splits()
    assert "\n" not in str(caught.value)


def test_a_missing_table_and_text_in_another_encoding_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"none.csv: cannot be read \(No such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(HEAD.encode() + "0a.jpg,0b.jpg,schöner\n".encode("latin-1"))
    with pytest.raises(ConversionError, match=r"latin.csv: expected text in UTF-8"):
        read_table(tmp_path / "latin.csv")


def test_a_picture_that_cannot_be_read_is_left_out_by_its_row(tmp_path: Path) -> None:
    folder = source(tmp_path, as_csv(edits()), val=0.0)
    write(tmp_path, {"2b.jpg": b"no picture"})
    report = converted(folder, tmp_path / "out")
    assert report["splits"]["train"]["samples"] == 5
    assert [finding["item"] for finding in report["findings"]] == ["edits.csv:4"]


def test_the_datamodule_converts_once_and_anew_when_the_table_or_a_picture_changes(tmp_path: Path) -> None:
    source(tmp_path, as_csv(edits()))

    def data() -> FolderData:
        table, root = str(tmp_path / "edits.csv"), str(tmp_path / "own")
        module = FolderData(str(tmp_path), table, root=root, resolution=16, global_batch_size=4)
        module.prepare_data()
        return module

    first = data()
    written = contents(first.shards)
    batch = next(iter(first.train_dataloader()))
    assert batch["source"].shape == (4, 3, 16, 16) and all(batch["has_response"])
    assert data().shards == first.shards and contents(first.shards) == written
    write(tmp_path, {"3b.jpg": picture(99)})
    changed = data()
    assert changed.shards != first.shards
    write(tmp_path, {"edits.csv": as_csv(edits(5))})
    assert len({first.shards, changed.shards, data().shards}) == 3


def test_the_datamodule_takes_the_settings_of_any_shards(tmp_path: Path) -> None:
    source(tmp_path, as_csv(edits()))
    settings: dict[str, Any] = {"resolution": 32, "global_batch_size": 2, "buckets": Buckets(8, 2.0), "seed": 3}
    data = FolderData(str(tmp_path), str(tmp_path / "edits.csv"), str(tmp_path / "own"), **settings)
    data.prepare_data()
    assert data.seed == 3 and len(data.train_transforms) > 1
    assert len(next(iter(data.train_dataloader()))["key"]) == 2


@pytest.mark.parametrize("name", ["bukets", "index_directory"])
def test_a_setting_that_the_datamodule_does_not_have_is_refused_by_name(name: str, tmp_path: Path) -> None:
    source(tmp_path, as_csv(edits()))
    with pytest.raises(TypeError, match=f"'{name}'"):
        FolderData(str(tmp_path), str(tmp_path / "edits.csv"), **{name: None})

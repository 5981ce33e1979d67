"""Plain folders of pairs, in each layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.check.items import pair_items
from datamodules.check.likeness import NearDuplicates, difference_hash, digest
from datamodules.check.opening import open_data
from datamodules.check.pictures import open_pictures
from datamodules.check.tokens import least_length
from datamodules.convert.source import ConversionError
from tests.datamodules.make_samples import make_image


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    make_image(seed, 24).save(path)


def test_pairs_by_name_with_what_stands_beside_them(tmp_path: Path) -> None:
    for number, name in enumerate(("a.source.png", "a.target.jpg", "b.source.png", "c.target.png", "odd.png")):
        picture(tmp_path / name, number)
    (tmp_path / "a.txt").write_text("make it red\n")
    (tmp_path / "b.json").write_text(json.dumps({"instruction": "go", "response": "gone", "width": 3}))
    found = open_pictures(tmp_path)
    assert [(pair.key, pair.source, pair.target) for pair in found.pairs] == [
        ("a", "a.source.png", "a.target.jpg"),
        ("b", "b.source.png", ""),
        ("c", "", "c.target.png"),
    ]
    assert dict(found.pairs[0].texts) == {"instruction": "make it red"}
    assert dict(found.pairs[1].texts) == {"instruction": "go", "response": "gone"}
    assert found.beside == ("1 pictures are neither NAME.source nor NAME.target (odd.png)",)
    items = list(pair_items(tmp_path, found.pairs))
    assert [item.sample is not None for item in items] == [True] * 3
    assert items[0].sample.keys() == {"key", "source", "target", "instruction"}


def test_pairs_by_folder(tmp_path: Path) -> None:
    for number, name in enumerate(("source/a.png", "target/a.png", "source/b.png")):
        picture(tmp_path / name, number)
    (tmp_path / "instruction").mkdir()
    (tmp_path / "instruction" / "a.txt").write_text("make it red")
    found = open_pictures(tmp_path)
    assert [(pair.key, pair.source, pair.target) for pair in found.pairs] == [
        ("a", "source/a.png", "target/a.png"),
        ("b", "source/b.png", ""),
    ]


def test_pairs_by_table_and_pictures_that_no_row_names(tmp_path: Path) -> None:
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        picture(tmp_path / name, number)
    (tmp_path / "edits.csv").write_text("source,target,instruction\na.png,b.png,go\na.png,missing.png,come\n")
    found = open_pictures(tmp_path)
    assert found.beside == ("1 pictures are in no row of edits.csv (c.png)",)
    items = list(pair_items(tmp_path, found.pairs))
    assert [item.fault and item.fault["reason"] for item in items] == [None, "missing"]
    assert items[1].where == "edits.csv:3"


def test_a_wrong_table_and_several_tables_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("source,target\n")
    with pytest.raises(ConversionError, match="instruction is missing"):
        open_pictures(tmp_path)
    (tmp_path / "b.csv").write_text("source,target\n")
    with pytest.raises(ConversionError, match="2 tables; choose one with --table"):
        open_pictures(tmp_path)


def test_pictures_of_two_shapes_are_no_sample(tmp_path: Path) -> None:
    make_image(0, 24).save(tmp_path / "a.source.png")
    make_image(1, 24).resize((24, 48)).save(tmp_path / "a.target.png")
    (item,) = pair_items(tmp_path, open_pictures(tmp_path).pairs)
    assert item.fault["reason"] == "size"


def test_some_of_many_pairs_are_spread_evenly(tmp_path: Path) -> None:
    for number in range(9):
        picture(tmp_path / f"{number}.source.png", number)
    (part,) = open_data(str(tmp_path)).parts
    assert [item.key for item in part.read(3, 0)] == ["0", "3", "6"]
    assert len(list(part.read(0, 0))) == part.total == 9


def test_digests_tell_pixels_and_texts_apart() -> None:
    one, other = make_image(1, 8), make_image(2, 8)
    assert digest(one, "a") == digest(one.copy(), "a")
    assert len({digest(one, "a"), digest(other, "a"), digest(one, "b"), digest(one.resize((4, 16)), "a")}) == 4
    assert digest("a", "b") != digest("ab")


def test_near_duplicates_look_the_same_and_flat_pictures_of_other_colours_do_not() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    photo = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC)
    found = NearDuplicates()
    assert found.add("a", "go", [photo]) is None
    assert found.add("b", "go", [photo.resize((200, 200), Image.Resampling.BICUBIC)]) == "a"
    assert found.add("c", "come", [photo]) is None  # under another text it is another sample
    assert found.add("d", "go", [photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]) is None
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    assert difference_hash(red) == difference_hash(blue)
    assert found.add("e", "go", [red]) is None and found.add("f", "go", [blue]) is None


def test_without_a_tokenizer_words_and_signs_count() -> None:
    assert least_length("make it red, please!") == 4 + 2 + 2

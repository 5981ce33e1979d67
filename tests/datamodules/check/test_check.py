"""`python -m datamodules.check`: what it finds in shards, splits and configurations, and how it ends."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from datamodules.check.__main__ import main
from datamodules.schema import Sample
from datamodules.shards import write_shards
from tests.datamodules.make_samples import make_image

ROOT = Path(__file__).parents[3]


def pair(number: int, **fields: object) -> Sample:
    """A sample of its own."""
    images = {"source": make_image(2 * number, 48), "target": make_image(2 * number + 1, 48)}
    given = {"key": f"s{number:03d}", "instruction": f"make it {number}", **images, **fields}
    return {name: value for name, value in given.items() if value is not None}  # type: ignore[return-value]


def encoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which no cell is folded."""
    monkeypatch.setenv("COLUMNS", "600")


def check(capsys: pytest.CaptureFixture[str], *options: str | Path) -> tuple[int, str]:
    """Status and everything that is said, in one line."""
    status = main([str(option) for option in options])
    said = capsys.readouterr()
    return status, " ".join(re.sub("[│┃┏━┓┡╇┩└─┴┘┳]", " ", said.out + said.err).split())


def test_whole_data_are_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards([pair(number) for number in range(30)], tmp_path / "train")
    status, said = check(capsys, tmp_path / "train")
    assert status == 0
    for words in ("30 read, all of them can be used", "every sample has one", "30 different of 30", "duplicates none"):
        assert words in said
    assert "nothing here would stop a training" in said
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train"]


@pytest.mark.parametrize(
    ("number", "fields", "words"),
    [
        (40, {"source": None}, "1 (3.2%) have a target and no source"),
        (40, {"target": None}, "1 (3.2%) have a source and no target"),
        (40, {"source": None, "target": None}, "1 (3.2%) have no picture"),
        (40, {"instruction": "  "}, "1 (3.2%) have no text"),
        (40, {"instruction": None, "target_caption": "a cat"}, "are pairs without an instruction"),
        (40, {"instruction": "word " * 100}, "longer than the tokenizer takes"),
        (40, {"target": make_image(80, 48)}, "have a target that is their source"),
        (3, {"key": "again"}, "are the same as an earlier sample"),
        (3, {"key": "again", "target": encoded(make_image(7, 48), 97)}, "are nearly the same as an earlier"),
        (40, {"source": make_image(1, 16), "target": make_image(2, 16)}, "smaller than the 32 pixels"),
    ],
)
def test_what_is_not_right_is_counted_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, fields: dict[str, object], words: str
) -> None:
    write_shards([*map(pair, range(30)), pair(number, **fields)], tmp_path / "train")
    page = tmp_path / "page.html"
    status, said = check(capsys, tmp_path / "train", "--max-tokens", "77", "--resolution", "32", "--out", page)
    assert status == 0 and words in said
    shown = page.read_text()
    assert fields.get("key", f"s{number:03d}") in shown and "<script" not in shown
    assert shown.count("<article>") >= 20  # and samples as they are


def test_samples_that_cannot_be_read_stop_it_above_the_share_that_a_run_allows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards([pair(number) for number in range(30)], tmp_path / "train")
    tar = tmp_path / "train" / "00000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content.replace(b"\x89PNG", b"\x89PNX", 1))
    status, said = check(capsys, tmp_path / "train", "--out", tmp_path / "page.html")
    assert status == 1
    assert "1 of 30 read cannot be used: checksum 1" in said and "a training on train would stop" in said
    assert "checksum" in (tmp_path / "page.html").read_text()
    status, said = check(capsys, tmp_path / "train", "--max-bad-fraction", "0.1")
    assert status == 0 and "skipped and counted" in said


def test_a_field_that_no_sample_has_stops_it_where_it_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards([pair(number) for number in range(3)], tmp_path / "train")
    assert check(capsys, tmp_path / "train", "--needs", "target", "instruction")[0] == 0
    status, said = check(capsys, tmp_path / "train", "--needs", "target", "response")
    assert status == 1 and "no sample has response" in said


def test_one_instruction_for_all_is_worth_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards([pair(number, instruction="make it red") for number in range(25)], tmp_path / "train")
    status, said = check(capsys, tmp_path / "train")
    assert status == 0 and "every instruction is 'make it red'" in said


def test_a_source_picture_in_two_splits_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards([pair(number) for number in range(8)], tmp_path / "train")
    again = pair(2, key="other", target=make_image(99, 48))
    write_shards([pair(50), again], tmp_path / "val")
    status, said = check(capsys, tmp_path)
    assert status == 0 and "1 of 2 source pictures of val are in training too, first that of other" in said


def test_a_real_tokenizer_counts_and_says_its_own_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["make the red circle blue", "make the red circle blue " * 20]
    write_shards([pair(number, instruction=text) for number, text in enumerate(texts)], tmp_path / "train")
    tokenizer = ROOT / "assets/tiny/stable-diffusion/tokenizer"
    said = check(capsys, tmp_path / "train", "--tokenizer", tokenizer)[1]
    assert "1 (50.0%) have a text that is longer than the tokenizer takes" in said
    status, said = check(capsys, tmp_path / "train", "--tokenizer", tmp_path)
    assert status == 1 and "expected a folder or hub id of a tokenizer" in said


def config(folder: Path, class_path: str, **arguments: object) -> Path:
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"data": {"class_path": class_path, "init_args": arguments}}))
    return path


def test_a_configuration_is_looked_at_with_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards([pair(number) for number in range(4)], tmp_path / "train")
    there = {"train": str(tmp_path / "train"), "val": str(tmp_path / "val"), "resolution": 64}
    status, said = check(capsys, config(tmp_path, "datamodules.shard_data.ShardData", **there))
    assert status == 1  # val is not there
    assert "smaller than the 64 pixels" in said and "val: no index.json in" in said


def test_parts_of_one_folder_are_read_once_and_compared_with_other_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards([pair(number) for number in range(6)], tmp_path / "a")
    write_shards([pair(number) for number in range(10, 14)], tmp_path / "b")
    write_shards([pair(11, key="again", target=make_image(99, 48))], tmp_path / "val")
    parts = [{"path": str(tmp_path / name), "weight": 1.0, "where": "len(key) > 2"} for name in ("a", "a", "b")]
    path = config(tmp_path, "datamodules.shard_data.ShardData", train=parts, val=str(tmp_path / "val"), resolution=16)
    status, said = check(capsys, path)
    assert status == 0
    assert said.count("6 samples, looked at: all") == said.count("4 samples, looked at: all") == 1
    assert "1 of 1 source pictures of val are in training too" in said


def test_the_small_world_is_written_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"root": str(tmp_path / "world"), "train_count": 4}
    status, said = check(capsys, config(tmp_path, "datamodules.tinyworld.data.TinyWorldData", **given))
    assert status == 0 and "is written when it is first used" in said
    assert not (tmp_path / "world").exists()


def test_a_table_is_looked_at_before_it_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        make_image(number, 48).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    rows = ["source,target,instruction", "0.png,1.png,make it red", "1.png,2.png,make it blue", "3.png,0.png,go"]
    (tmp_path / "edits.csv").write_text("\n".join(rows))
    given = {
        "source": str(tmp_path),
        "table": str(tmp_path / "edits.csv"),
        "root": str(tmp_path / "own"),
        "val_fraction": 0.0,
    }
    status, said = check(capsys, config(tmp_path, "datamodules.folder.FolderData", **given))
    assert status == 1
    assert "1 of 3 read cannot be used: format 1" in said
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("nothing", "no such folder; give one of shards or of pairs"),
        ("folder", "expected shards, a table of source, target and instruction, folders source/ and target/"),
        ("tar", "has no index.json beside it; make one: python -m datamodules.shards index"),
        ("yaml", "expected a section `data` with class_path and init_args"),
    ],
)
def test_what_is_no_data_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: str, words: str
) -> None:
    place = tmp_path / ("data.yaml" if made == "yaml" else "data")
    if made in ("folder", "tar"):
        place.mkdir()
    if made == "tar":
        (place / "0.tar").write_bytes(b"")
    if made == "yaml":
        place.write_text("model: {}")
    status = main([str(place)])
    said = capsys.readouterr()
    assert status == 1 and said.out == ""
    assert words in said.err and said.err.count("\n") == 1

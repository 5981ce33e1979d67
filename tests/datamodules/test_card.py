"""Cards of data: what is written, from a conversion, the small world, a mapper and a cache of features."""

import re
from pathlib import Path

import yaml

from datamodules.card import CARD_FILE, Card, write_card
from datamodules.convert.__main__ import main as convert
from datamodules.shard_index import ShardIndex
from datamodules.tinyworld.__main__ import main as draw
from datamodules.tinyworld.world import World
from datamodules.tinyworld.write import write_split
from tests.datamodules.convert.layouts import ipr2pr_files, write


def parts(folder: Path) -> tuple[dict, str]:
    """Metadata and text of a card."""
    _, metadata, text = (folder / CARD_FILE).read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(metadata), text


def command(text: str) -> list[str]:
    """Words of the command that a card names, after `python -m MODULE`."""
    return re.search(r"```\npython -m \S+ (.*)\n```", text)[1].split()


def test_a_conversion_counts_what_it_kept_and_left_out(tmp_path: Path) -> None:
    write(tmp_path / "published", ipr2pr_files(prompts=20))
    where = ["--source", str(tmp_path / "published"), "--out", str(tmp_path / "out"), "--partial", "--workers", "1"]
    assert convert(["ipr2pr", *where]) == 0
    metadata, text = parts(tmp_path / "out")
    assert metadata["license"] == "unknown"
    for split in ("train", "val"):
        index = ShardIndex.load(tmp_path / "out" / split)
        assert f"| {split} | {len(index):,} | {len(index.shards)} |" in text
    assert "python -m datamodules.convert ipr2pr" in text
    assert str(tmp_path) not in text


def test_a_licence_that_is_given_is_said(tmp_path: Path) -> None:
    write(tmp_path / "published", ipr2pr_files(prompts=20))
    where = ["--source", str(tmp_path / "published"), "--out", str(tmp_path / "out"), "--partial", "--workers", "1"]
    assert convert(["ipr2pr", *where, "--licence", "MIT"]) == 0
    metadata, text = parts(tmp_path / "out")
    assert metadata["license"] == "MIT"
    assert "## Licence\n\nMIT\n" in text


def test_the_command_of_a_split_of_the_small_world_writes_the_same_again(tmp_path: Path) -> None:
    world = World(seed=3, level="plain", kinds=("literal",))
    first = write_split(tmp_path / "first", "val", 12, world)
    words = command(parts(tmp_path / "first")[1])
    words[words.index("OUT")] = str(tmp_path / "again")
    assert draw(words) == 0
    assert ShardIndex.load(tmp_path / "again").fingerprint == first.fingerprint


def test_what_somebody_wrote_stays(tmp_path: Path) -> None:
    (tmp_path / CARD_FILE).write_text("mine")
    write_card(tmp_path, Card("data", "from somewhere", ["make"], {"": (1, 1, 1)}))
    assert (tmp_path / CARD_FILE).read_text() == "mine"


def test_a_text_with_bars_keeps_its_row(tmp_path: Path) -> None:
    text = Card("data", "from somewhere", ["make"], {"": (1, 1, 1)}, facts={"prompt": "a|b\nc"}).text()
    assert "| prompt | a\\|b c |" in text

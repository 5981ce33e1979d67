"""A look at training data at the start of a run: bounded, without a trace, an end only where nothing could train."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.check.glance import ENOUGH, MOST, NothingTrainsError, Seen, glance, local_samples
from datamodules.check.items import Item
from datamodules.folder import FolderData
from datamodules.schema import AttachmentSettings
from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from datamodules.sources import Source
from datamodules.tinyworld.data import TinyWorldData
from tests.datamodules.make_samples import make_image, make_samples

FAULT = {"reason": "image", "shard": "0.tar", "key": "k", "detail": "target: cannot be decoded"}
GOOD = Item("k", "0.tar", {"key": "k", "source": make_image(0), "instruction": "go"})
BAD = Item("k", "0.tar", None, FAULT)


def seen(*items: Item) -> tuple[Seen, list[int]]:
    """A look at items, and how many were taken."""
    taken: list[int] = []

    def each() -> Iterator[Item]:
        for number, item in enumerate(items):
            taken.append(number)
            yield item

    return Seen(each(), len(items), "DIR"), taken


def test_good_data_are_one_line(tmp_path: Path) -> None:
    write_shards(make_samples(5), tmp_path / "train")
    line = ShardData(train=str(tmp_path / "train")).glance(("target", "instruction"))
    assert line.startswith(f"data: 5 of 5 samples of {tmp_path / 'train'} looked at in 0.")
    assert line.endswith("s: all can be used, 16 pixels; source, target, instruction, response")


def test_it_draws_from_no_generator_and_writes_nothing(tmp_path: Path) -> None:
    write_shards(make_samples(30), tmp_path / "train")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    data = ShardData(train=str(tmp_path / "train"), global_batch_size=2)
    data.glance()
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files
    other = ShardData(train=str(tmp_path / "train"), global_batch_size=2)
    assert [batch["key"] for batch in data.train_dataloader()] == [batch["key"] for batch in other.train_dataloader()]


def test_enough_is_enough() -> None:
    look, taken = seen(*[GOOD] * (2 * ENOUGH))
    assert "200 of 400" in glance(look, seconds=1e9)
    assert len(taken) == ENOUGH
    look, taken = seen(*[GOOD] * ENOUGH)
    glance(look, seconds=0.0)
    assert len(taken) == 1


def test_some_bad_samples_are_counted_and_no_reason_to_stop() -> None:
    line = glance(seen(*[BAD] * 3, *[GOOD] * 7)[0])
    assert "10 of 10" in line and "3 cannot be used (image 3)" in line


def test_samples_of_which_none_can_be_used_stop_it_after_a_thousand_or_all() -> None:
    with pytest.raises(
        NothingTrainsError, match=r"DIR: none of 5 samples read can be used \(image 5; the first: target"
    ):
        glance(seen(*[BAD] * 5)[0])
    look, taken = seen(*[BAD] * (MOST + 5))
    with pytest.raises(NothingTrainsError, match="none of 1,000"):
        glance(look, seconds=0.0)
    assert len(taken) == MOST
    look, taken = seen(*[BAD] * (MOST - 1), GOOD, GOOD)
    assert "999 cannot be used" in glance(look, seconds=0.0)


def test_a_field_that_a_method_needs_and_no_sample_has_stops_it() -> None:
    with pytest.raises(NothingTrainsError, match="the field target, without which none counts in a loss; they have"):
        glance(seen(GOOD, GOOD)[0], ("instruction", "target"))
    assert "all can be used" in glance(seen(GOOD, GOOD)[0], ("instruction", "source"))


def test_of_a_filtered_part_no_field_is_missed(tmp_path: Path) -> None:
    write_shards(make_samples(5), tmp_path / "train")
    whole = ShardData(train=[Source(str(tmp_path / "train"))])
    with pytest.raises(NothingTrainsError, match="expressive"):
        whole.glance(("expressive",))
    part = ShardData(train=[Source(str(tmp_path / "train"), where="len(instruction) > 3")])
    assert "all can be used" in part.glance(("expressive",))


def test_several_sources_take_turns(tmp_path: Path) -> None:
    write_shards(make_samples(40), tmp_path / "a")
    write_shards(make_samples(3), tmp_path / "b")
    sources = [Source(str(tmp_path / name), weight=1.0) for name in "ab"]
    assert "43 of 43 samples" in ShardData(train=sources).glance(seconds=60)


def test_a_small_source_beside_a_large_one_hides_nothing(tmp_path: Path) -> None:
    write_shards(make_samples(60), tmp_path / "a")
    write_shards(make_samples(3), tmp_path / "b")
    for tar in tmp_path.glob("*/*.tar"):
        tar.write_bytes(b"x" * tar.stat().st_size)
    look = local_samples([Source(str(tmp_path / name)) for name in "ab"], {}, AttachmentSettings(), most=40)
    assert look.total == 63
    with pytest.raises(NothingTrainsError, match="none of 23 samples read"):
        glance(look)


def test_what_is_not_here_yet_is_left_alone(tmp_path: Path) -> None:
    assert ShardData(train="https://127.0.0.1:9/nothing").glance(("target",)) == ""
    assert ShardData(train=str(tmp_path / "none")).glance() == ""  # its absence is said when it is opened
    assert ShardData(val=str(tmp_path / "none")).glance() == ""
    assert TinyWorldData(root=str(tmp_path / "world")).glance() == ""
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_table_are_looked_at_before_they_are_converted(tmp_path: Path) -> None:
    for number in range(3):
        make_image(number).save(tmp_path / f"{number}.png")
    rows = ["source,target,instruction", "0.png,1.png,go", "1.png,2.png,come", "2.png,0.png,stay"]
    (tmp_path / "edits.csv").write_text("\n".join(rows))
    settings = {"root": str(tmp_path / "own"), "val_fraction": 0.0, "resolution": 16}
    data = FolderData(str(tmp_path), str(tmp_path / "edits.csv"), **settings)
    assert "3 of 3 samples" in data.glance(("target", "instruction", "response"))
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no picture at all")
    with pytest.raises(NothingTrainsError, match="none of 3 samples read can be used"):
        FolderData(str(tmp_path), str(tmp_path / "edits.csv"), **settings).glance()
    assert not (tmp_path / "own").exists()

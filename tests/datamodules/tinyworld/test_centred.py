"""Centred scenes: one object in the middle, edits that leave it there, and the oracle reads them in half the size."""

import numpy as np
import pytest
from PIL import Image

from datamodules.tinyworld.oracle import judge
from datamodules.tinyworld.sample import draw_from
from datamodules.tinyworld.splits import CENTRED_TYPES
from datamodules.tinyworld.world import World
from datamodules.tinyworld.write import folder_name

CENTRED = World(level="plain", centred=True)


def test_every_picture_has_one_object_in_the_middle() -> None:
    for index in range(60):
        metadata = draw_from(CENTRED, "train", index)["metadata"]
        assert metadata["edit"]["type"] in CENTRED_TYPES
        for name in ("source_scene", "target_scene"):
            assert [thing["place"] for thing in metadata[name]["things"]] == ["centre"]


def test_the_oracle_reads_them_at_half_the_size() -> None:
    found = []
    for index in range(40):
        sample = draw_from(CENTRED, "val", index)
        halved = Image.fromarray(sample["target"]).resize((32, 32), Image.Resampling.BOX)
        whole = np.asarray(halved.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 127.5 - 1
        verdict = judge(whole, sample["metadata"])
        found.append(verdict.success and verdict.preservation)
    assert np.mean(found) > 0.9


def test_they_have_a_folder_of_their_own_and_level_plain() -> None:
    assert folder_name("train", 5, CENTRED) != folder_name("train", 5, World(level="plain"))
    with pytest.raises(ValueError, match="centred: expected level plain, found 'full'"):
        World(centred=True)
    with pytest.raises(ValueError, match="'removals' needs several objects"):
        draw_from(CENTRED, "removals", 0)

"""The small world in texts alone: the same words as beside pictures, in folders of their own."""

from pathlib import Path

import pytest

from datamodules.schema import IMAGE_FIELDS, MASK_FIELDS, TEXT_FIELDS
from datamodules.tinyworld.data import TinyWorldData
from datamodules.tinyworld.sample import draw_from
from datamodules.tinyworld.world import KINDS, World


@pytest.mark.parametrize("index", range(6))
def test_words_are_those_beside_pictures(index: int):
    whole = draw_from(World(level="plain", kinds=KINDS), "train", index)
    texts = draw_from(World(level="plain", kinds=KINDS, pictures=False), "train", index)
    seen = (*IMAGE_FIELDS, *MASK_FIELDS, "concepts")
    assert texts == {name: value for name, value in whole.items() if name not in seen} | {"concepts": []}


def test_texts_are_read_like_any_shards(tmp_path: Path):
    counts = {"train_count": 8, "val_count": 2, "test_count": 4}
    texts = TinyWorldData(str(tmp_path), level="plain", pictures=False, eval_batch_size=4, **counts)
    whole = TinyWorldData(str(tmp_path), level="plain", eval_batch_size=4, **counts)
    for data in (texts, whole):
        data.prepare_split("test")
    assert texts.folder("test") != whole.folder("test")
    (without,), (beside,) = (list(data.test_dataloader()) for data in (texts, whole))
    assert all(without[name] == beside[name] for name in TEXT_FIELDS)
    assert not without["has_source"].any() and not without["source"].any()

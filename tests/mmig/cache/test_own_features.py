"""A feature that a method declares goes through the cache without any change of the core."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datamodules.features import Features
from datamodules.schema import collate
from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from mmig.cache.facts import StaleFeaturesError
from mmig.cache.frozen import CachedFeature, FrozenFeatures
from mmig.run.cache import main
from mmig.training.rng import Draws
from tests.datamodules.make_samples import make_samples
from tests.mmig.cache.toy_method import ToyMethod


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and what the command has cached of them, both directions of each image."""
    root = tmp_path_factory.mktemp("own")
    samples = [sample | {"instruction": "word " * (1 + index % 3)} for index, sample in enumerate(make_samples(8))]
    write_shards(samples, root / "plain", 4)
    config = {
        "model": {"class_path": "tests.mmig.cache.toy_method.ToyMethod", "init_args": {"threshold": 0.25}},
        "data": {"class_path": "datamodules.shard_data.ShardData", "init_args": data_settings(root)},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    main(["--config", str(root / "config.yaml"), "--out", str(root / "features"), "--device", "cpu"])
    return root


def data_settings(root: Path) -> dict[str, Any]:
    return {"train": str(root / "plain"), "resolution": 16, "global_batch_size": 4, "flip": True, "seed": 3}


def batches(folder: Path, features: bool) -> list[Any]:
    data = ShardData(**data_settings(folder), features=str(folder / "features") if features else None)
    return list(data.train_dataloader())


def losses(method: ToyMethod, batch: Any) -> torch.Tensor:
    return method.losses(batch, Draws(0, batch["position"]))["error"].values.detach()


def test_the_command_caches_it_and_training_reads_it(folder: Path) -> None:
    torch.manual_seed(0)
    method = ToyMethod(0.25)
    plain = [losses(method, batch) for batch in batches(folder, features=False)]
    method.computed_features.clear()
    cached = [losses(method, batch) for batch in batches(folder, features=True)]
    assert method.computed_features == []
    assert len(plain) == 2 and all(torch.equal(*pair) for pair in zip(plain, cached, strict=True))


def test_only_what_looks_at_the_image_is_stored_for_both_directions(folder: Path) -> None:
    index = ShardData(**data_settings(folder), features=str(folder / "features")).train_dataloader()
    first = next(iter(index))
    assert {name for name in first if name.startswith("features.")} == {
        *("features.brightness", "features.brightness.rows", "features.letters", "features.letters.rows")
    }
    assert ToyMethod().features.names_seeing_images == {"brightness"}


def test_other_facts_are_refused_where_the_feature_depends_on_them(folder: Path) -> None:
    batch = batches(folder, features=True)[0]
    with pytest.raises(StaleFeaturesError, match=r"'brightness' is stale: computed with threshold '0\.25', this run"):
        losses(ToyMethod(0.5), batch)
    method = ToyMethod(0.5)
    assert method.features.get("letters", batch)[0].shape[0] == 4  # does not depend on the threshold


def test_a_feature_that_was_not_cached_is_computed_with_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    method, batch = ToyMethod(0.25), batches(folder, features=True)[0]
    expected = method.features.get("letters", batch)
    without = {name: value for name, value in batch.items() if "letters" not in name}
    for _ in range(2):
        found = method.features.get("letters", without)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert [record.getMessage() for record in caplog.records if "lack" in record.getMessage()] == [
        "the cached features lack letters, which is computed anew in every step"
    ]


def test_one_that_would_need_images_which_are_not_decoded_is_one_clear_line() -> None:
    samples = [sample | {"source": b"encoded", "target": b"encoded"} for sample in make_samples(2)]
    facts = ToyMethod().feature_facts()
    batch = collate([s | {"features": Features({"letters": torch.ones(1)}, facts)} for s in samples], size=(16, 16))
    with pytest.raises(StaleFeaturesError, match="lack one of the target images, which are not decoded") as caught:
        losses(ToyMethod(), batch)
    assert "\n" not in str(caught.value)


def test_shorter_rows_have_zeros_behind() -> None:
    features = FrozenFeatures()
    features.declare(CachedFeature("ones", lambda batch: [torch.ones(3, 2), torch.ones(1, 2)], ()))
    values, rows = features.get("ones", {"key": ["a", "b"]})
    assert values.sum(dim=(1, 2)).tolist() == [6, 2] and rows.tolist() == [3, 1]

"""Fields that a module says it needs: without any one of them, no sample counts in any of its losses."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml

from datamodules.schema import TEXT_FIELDS, Sample, without_placeholders
from datamodules.shards import write_shards
from mmig.base.settings import imported, instantiate
from mmig.training.module import TrainingModule
from mmig.training.rng import Draws
from tests.mmig.methods.contract import Trial
from tests.mmig.methods.mmig.stages.support import seeing_backbones
from tests.mmig.methods.test_contract import cases
from tests.tiny_fixtures import TinyBackbones


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return seeing_backbones(tmp_path_factory.mktemp("backbones"))


def counted(module: TrainingModule, data: dict[str, Any], samples: list[Sample], folder: Path) -> float:
    """How much all samples count in all losses."""
    write_shards(samples, folder)
    settings = {**data["init_args"], "train": str(folder), "val": None, "test": None, "global_batch_size": len(samples)}
    section = {**data, "init_args": settings}
    (batch,) = instantiate(L.LightningDataModule, section).train_dataloader()
    terms = module.losses(batch, Draws(module.seed, batch["position"]))
    return sum(float(term.counts.sum()) for term in terms.values())


def without(sample: Sample, field: str) -> dict[str, Any]:
    """A sample without a field, and without what in other fields refers to it."""
    left: dict[str, Any] = {key: value for key, value in sample.items() if key != field}
    if "attachments" in left:
        left["attachments"] = [{**entry, "word": None} for entry in left["attachments"]]
    elif field == "attachments":
        left |= {name: without_placeholders(left[name]) for name in TEXT_FIELDS if name in left}
    return left


@pytest.mark.parametrize("name", cases())
def test_without_a_needed_field_nothing_counts(name: str, tmp_path: Path, backbones: TinyBackbones) -> None:
    case = cases()[name]
    section = case.model(backbones)
    needed = imported(section["class_path"]).needed_fields
    if not needed:
        return
    trial = Trial.begin(case, tmp_path, backbones)
    config = yaml.safe_load(trial.config.read_text())
    module = instantiate(TrainingModule, config["model"])
    whole = case.samples()[1][:4]
    assert counted(module, config["data"], whole, tmp_path / "whole") > 0
    for field in needed:
        lacking = [without(sample, field) for sample in whole]
        assert counted(module, config["data"], lacking, tmp_path / field) == 0, field

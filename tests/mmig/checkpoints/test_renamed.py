"""What version 0.1 wrote about a model is read under today's names."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from mmig.checkpoints.renamed import SETTINGS, is_before_renaming, renamed_model, renamed_module
from mmig.training.module import TrainingModule

MODELS = yaml.safe_load(Path(__file__).with_name("models_of_0_1.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("config", MODELS)
def test_every_setting_of_version_0_1_has_its_place_today(config: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TrainingModule, "model", required=True)
    parser.parse_object({"model": renamed_model(MODELS[config])})  # raises where there is no such class or setting


def test_only_what_was_renamed_is_changed() -> None:
    for section in MODELS.values():
        renamed = renamed_model(section)
        names = {name for beginning in SETTINGS for name in SETTINGS[beginning] if _is_under(renamed, beginning)}
        expected = {name: value for name, value in _flat(section["init_args"]).items() if name not in names}
        assert expected.items() <= _flat(renamed["init_args"]).items()
        assert renamed_model(renamed) == renamed  # today's names stay


def test_the_noise_loss_is_called_as_everywhere() -> None:
    for config in ("tiny/unet_edit", "tiny/unet_text"):
        assert renamed_model(MODELS[config])["init_args"]["loss_weights"] == {"sdm": 1.0}


def test_modules_of_others_keep_their_names() -> None:
    assert renamed_module("mmig.connectors") == "mmig.methods.mmig.connectors"
    assert renamed_module("mmig.stages.stage1.Stage1") == "mmig.methods.mmig.stages.paper.Stage1"
    assert renamed_module("mmig.stages.finetune.FineTune") == "mmig.methods.mmig.stages.finetune.FineTune"
    for name in ("transformers", "diffusers", "a.method.of.mine", "mmig.methods.mmig.connectors"):
        assert renamed_module(name) == name


@pytest.mark.parametrize(
    ("version", "expected"), [(None, True), ("0.1.9", True), ("0.2.0", False), ("0.10.0", False), ("1.0", False)]
)
def test_versions_are_compared_as_numbers(version: str | None, expected: bool) -> None:
    assert is_before_renaming({} if version is None else {"version": version}) == expected


def _is_under(section: dict[str, Any], beginning: str) -> bool:
    return section["class_path"].startswith(beginning)


def _flat(settings: dict[str, Any], place: str = "") -> dict[str, str]:
    flat = {}
    for name, value in settings.items():
        nested = isinstance(value, dict) and value
        flat |= _flat(value, f"{place}{name}.") if nested else {place + name: repr(value)}
    return flat

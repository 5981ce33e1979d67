"""Which settings may change when a run continues."""

import inspect
from dataclasses import fields
from typing import Any

import pytest

from datamodules.shard_data import ShardData
from datamodules.tinyworld.data import TinyWorldData
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.latent_diffusion.autoencoder import FineTuneDecoder
from mmig.methods.mmig.parts import BackboneConfig
from mmig.methods.mmig.stages.paper import Stage1
from mmig.run.resume import ARGUMENTS, FREE_SETTINGS, ResumeError, check_resumable


def config(**changes: Any) -> dict[str, Any]:
    values = {
        "model": {
            "class_path": "mmig.methods.mmig.stages.paper.Stage1",
            "init_args": {
                "seed": 0,
                "optimizer": {"lr": 1e-3, "schedule": "constant"},
                "backbones": {"diffusion": "hub/sd", "llm": "hub/llm", "vision": None, "dtype": "float32"},
                "sampling": {"num_steps": 50},
                "swaps": {"train": "val"},
            },
        },
        "data": {"class_path": "c.D", "init_args": {"root": "x", "num_workers": 0, "global_batch_size": 8}},
        "trainer": {"max_steps": 10, "precision": None},
    }
    for path, value in changes.items():
        place = values
        *parents, last = path.split("__")
        for name in parents:
            place = place[name]
        place[last] = value
    return values


@pytest.mark.parametrize(
    "change",
    [
        {"model__init_args__seed": 1},
        {"model__init_args__optimizer__lr": 1.0},
        {"model__init_args__optimizer__groups": {"net.0": {"lr": 1.0}}},
        {"data__init_args__global_batch_size": 4},
        {"trainer__precision": "bf16-mixed"},
        {"model__init_args__backbones__dtype": "bfloat16"},
        {"model__init_args__swaps__train": "test"},  # named like a free setting of the data, but of the model
        {"data__init_args__sampling": "other"},
    ],
)
def test_what_bends_the_trajectory_is_refused(change: dict[str, Any]) -> None:
    name = next(iter(change)).replace("__", ".")
    with pytest.raises(ResumeError, match=name):
        check_resumable(config(), config(**change))


def test_a_group_that_only_clips_apart_is_a_change_too() -> None:
    empty = {"lr": None, "weight_decay": None, "clip_norm": None}
    with pytest.raises(ResumeError, match=r"optimizer\.groups: None -> \['net\.0'\]"):
        check_resumable(config(), config(model__init_args__optimizer__groups={"net.0": empty}))


def test_no_groups_are_as_before_there_were_any() -> None:
    check_resumable(config(), config(model__init_args__optimizer__groups={}))


def test_another_stage_is_sent_to_init_from() -> None:
    with pytest.raises(ResumeError, match=r"written by .*Stage1, this run trains a\.C: .*--init_from"):
        check_resumable(config(), config(model__class_path="a.C"))


@pytest.mark.parametrize(
    "change",
    [
        {"data__init_args__num_workers": 4},
        {"data__init_args__root": "y"},
        {"data__init_args__val": None},
        {"trainer__max_steps": 20},
        {"model__init_args__micro_batch_size": 2},
        {"model__init_args__sampling__num_steps": 20},
        {"model__init_args__sampling": None},
        {"model__init_args__backbones__diffusion": "moved/sd", "model__init_args__backbones__llm": "moved/llm"},
        {"model__init_args__backbones__gradient_checkpointing": True},
    ],
)
def test_what_does_not_bend_it_may_change(change: dict[str, Any]) -> None:
    check_resumable(config(), config(**change))


def test_more_steps_bend_a_cosine() -> None:
    cosine = {"model__init_args__optimizer__schedule": "cosine"}
    with pytest.raises(ResumeError, match=r"trainer\.max_steps: 10 -> 20"):
        check_resumable(config(**cosine), config(**cosine, trainer__max_steps=20))


def test_a_backbone_where_there_was_none_is_a_change() -> None:
    with pytest.raises(ResumeError, match=r"backbones\.vision: None -> 'hub/clip'"):
        check_resumable(config(), config(model__init_args__backbones__vision="hub/clip"))


def test_every_setting_that_may_change_exists() -> None:
    methods = (Stage1, InstructPix2PixModule, FineTuneDecoder)
    owners = {"data.init_args": (ShardData, TinyWorldData), "model.init_args": methods}
    known = {
        f"{section}.{name}"
        for section, classes in owners.items()
        for each in classes
        for name in inspect.signature(each).parameters
    }
    known |= {f"model.init_args.backbones.{item.name}" for item in fields(BackboneConfig)}
    declared = {f"{ARGUMENTS}.{setting}" for method in methods for setting in method.backbone_settings}
    assert {*FREE_SETTINGS, *declared} <= known


def test_a_backbone_may_move_however_it_is_written() -> None:
    for value in ("elsewhere/llm", {"path": "elsewhere/llm", "part": None}, {"path": "hub/llm"}):
        check_resumable(config(), config(model__init_args__backbones__llm=value))
        check_resumable(config(model__init_args__backbones__llm=value), config())


def test_another_part_of_a_backbone_is_a_change() -> None:
    other = {"path": "hub/vae", "part": "unet"}
    before = config(model__init_args__backbones__vae="hub/vae")
    with pytest.raises(ResumeError, match=r"backbones\.vae\.part: None -> 'unet'"):
        check_resumable(before, config(model__init_args__backbones__vae=other))


def test_a_method_that_is_gone_is_named() -> None:
    gone = config(model__class_path="mmig.methods.mmig.stages.paper.Stage9")
    with pytest.raises(ResumeError, match=r"names mmig\.methods\.mmig\.stages\.paper\.Stage9, which this code"):
        check_resumable(gone, gone)

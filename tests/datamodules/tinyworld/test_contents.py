"""Further content on disk: written by the command line, read back through the stream like any other shards."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from datamodules.shard_data import ShardData
from datamodules.shards import verify
from datamodules.tinyworld.__main__ import main
from datamodules.tinyworld.contents import CONTENTS, ContentWorld
from datamodules.tinyworld.write import write_split

WORLDS = list(CONTENTS)
PICTURES = {
    "subjects": "03c41bbbca9a36b2ae4ca0cc9d81088c06ea8d25551bd2ac2efef161e4e7875a",
    "subjects_in_words": "03c41bbbca9a36b2ae4ca0cc9d81088c06ea8d25551bd2ac2efef161e4e7875a",
    "sounds": "febf1d70ed752be951a0c7e3884a9b340421167f7a2e8fd53964b40638563605",
    "multimodal": "986af2c5b789e392257af95acdfbc563bdcb4fc36e9670f99f7b395d9d13afb1",
    "multimodal_in_words": "986af2c5b789e392257af95acdfbc563bdcb4fc36e9670f99f7b395d9d13afb1",
    "multimodal_said": "a50325d5287b7a2ee67621de309e83d3d9adec760342196fcb2426582e210e3b",
    "multimodal_shown": "a50325d5287b7a2ee67621de309e83d3d9adec760342196fcb2426582e210e3b",
    "multimodal_heard": "a50325d5287b7a2ee67621de309e83d3d9adec760342196fcb2426582e210e3b",
    "multimodal_long": "a50325d5287b7a2ee67621de309e83d3d9adec760342196fcb2426582e210e3b",
    "multimodal_several": "52ea185f10c6ed1ddd571089acfb1752f946e5a444f11cc8c6eab853f0bfc164",
    "prompts": "dc4ea171e53c028d8454d8a1eced5cfd198aded0de355e59c81311664b86689a",
    "illustrations": "863615dbe8d0f452f42fafe2400058e475dbc0f695e2ca213425b3861d11bca7",
}
"""SHA-256 of the first 20 targets of training."""


def settings(world: str) -> dict[str, int]:
    return {"attachment_size": 32} if world.startswith("subjects") else {}


@pytest.mark.parametrize("world", WORLDS)
def test_pictures_are_the_same_on_every_machine(world: str):
    targets = (CONTENTS[world].draw(0, "train", index)["target"] for index in range(20))
    assert hashlib.sha256(b"".join(target.tobytes() for target in targets)).hexdigest() == PICTURES[world]


@pytest.mark.parametrize("world", WORLDS)
def test_the_command_writes_shards_that_the_data_module_reads(world: str, tmp_path: Path):
    folder = tmp_path / world
    assert main(["--world", world, "--out", str(folder), "--split", "val", "--count", "4", "--seed", "3"]) == 0
    assert verify(folder) == []
    module = ShardData(train=str(folder), global_batch_size=4, num_workers=0, **settings(world))
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert sorted(batch["key"]) == [ContentWorld(world, 3).draw("val", index)["key"] for index in range(4)]
    assert not batch["faults"]
    for key, target in zip(batch["key"], batch["target"], strict=True):
        drawn = ContentWorld(world, 3).draw("val", int(key[-8:]))["target"]
        assert np.abs((target.numpy().transpose(1, 2, 0) + 1) * 127.5 - drawn).max() < 0.01


@pytest.mark.parametrize(
    ("world", "tensor"), [("subjects", "has_attachment_images"), ("sounds", "has_attachment_audio")]
)
def test_every_sample_of_subjects_and_sounds_has_its_attachment_in_the_batch(world: str, tensor: str, tmp_path: Path):
    write_split(tmp_path / world, "train", 4, ContentWorld(world))
    module = ShardData(train=str(tmp_path / world), global_batch_size=4, num_workers=0, **settings(world))
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert bool(batch[tensor][:, 0].all())


def test_shards_are_equal_to_the_byte_for_any_number_of_workers(tmp_path: Path):
    for name, workers in (("one", 0), ("two", 2)):
        write_split(tmp_path / name, "train", 66, ContentWorld("subjects"), workers)
    tars = [sorted((tmp_path / name).glob("*.tar")) for name in ("one", "two")]
    assert [file.read_bytes() for file in tars[0]] == [file.read_bytes() for file in tars[1]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--world", "sounds", "--split", "outline"], "expected one of train, val, test in the world of sounds"),
        (["--world", "scenes", "--split", "unseen_textures"], "split 'unseen_textures': expected one of train"),
    ],
)
def test_a_split_of_another_world_is_named(options: list[str], words: str, tmp_path: Path, capsys):
    assert main(["--out", str(tmp_path / "shards"), "--count", "1", *options]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--level", "plain"], ["--kinds", "visual"], ["--no-photographs"]])
def test_options_of_scenes_are_refused_for_other_worlds(option: list[str], tmp_path: Path, capsys):
    with pytest.raises(SystemExit):
        main(["--world", "subjects", "--out", str(tmp_path / "shards"), "--count", "1", *option])
    assert "are of --world scenes alone" in capsys.readouterr().err

"""Any picture read as a centred scene: those of the world as what they are, all else as nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules.tinyworld.centred_reader import read_centred
from datamodules.tinyworld.oracle_errors import as_image
from datamodules.tinyworld.render import render
from datamodules.tinyworld.sample import draw_from
from datamodules.tinyworld.scene import Scene
from datamodules.tinyworld.world import World


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    world = World(level="plain", centred=True)
    drawn = [draw_from(world, "val", index)["metadata"] for index in range(30)]
    return [Scene.from_dict(metadata["target_scene"]) for metadata in drawn]


def told(scene: Scene | None) -> tuple[str, ...] | None:
    if scene is None:
        return None
    (thing,) = scene.things
    return thing.shape, thing.colour, thing.size, scene.background.first


def test_centred_scenes_are_read_as_what_they_are(scenes: list[Scene]) -> None:
    assert [told(read_centred(as_image(render(scene)))) for scene in scenes] == list(map(told, scenes))


def test_also_at_half_the_size(scenes: list[Scene]) -> None:
    whole = torch.stack([torch.as_tensor(as_image(render(scene))) for scene in scenes])
    halved = F.interpolate(F.avg_pool2d(whole, 2), (64, 64), mode="bicubic").clamp(-1, 1)
    found = [told(read_centred(image)) == told(scene) for image, scene in zip(halved, scenes, strict=True)]
    assert np.mean(found) >= 0.9


def test_pictures_without_a_centred_object_are_read_as_nothing(scenes: list[Scene]) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (3, 64, 64))
    empty = as_image(render(Scene(scenes[0].background)))
    two = World(level="plain", objects=2)
    crowded = as_image(draw_from(two, "val", 0)["target"])
    half = (torch.as_tensor(as_image(render(scenes[0]))) + torch.as_tensor(as_image(render(scenes[1])))) / 2
    assert [read_centred(image) for image in (noise, empty, crowded, half)] == [None] * 4
    with pytest.raises(ValueError, match="expected shape"):
        read_centred(np.zeros((3, 32, 32)))

"""The world of prompts: every picture changes as its prompt says and in nothing else, and the oracle sees it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from datamodules.schema import validate
from datamodules.tinyworld.judge import TinyWorldJudge
from datamodules.tinyworld.oracle_errors import as_image
from datamodules.tinyworld.png import png
from datamodules.tinyworld.prompt_samples import PROMPTS, draw_prompt_sample
from datamodules.tinyworld.sample import Sample, with_images
from datamodules.tinyworld.scene import Scene, Thing

JUDGE = TinyWorldJudge()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [draw_prompt_sample(0, "test", index) for index in range(40)]


def scenes(sample: Sample) -> tuple[Scene, Scene]:
    source, target = (Scene.from_dict(sample["metadata"][name]) for name in ("source_scene", "target_scene"))
    return source, target


def test_prompts_take_turns_and_samples_are_whole(samples: list[Sample]) -> None:
    assert [sample["edit_type"] for sample in samples] == list(PROMPTS) * 10
    assert all(sample["instruction"] == PROMPTS[sample["edit_type"]].text for sample in samples)
    for sample in samples[:4]:
        validate(with_images(sample, png))


def test_nothing_but_what_the_prompt_names_changes(samples: list[Sample]) -> None:
    for sample in samples:
        source, target = scenes(sample)
        (before,), (after,) = source.things, target.things
        name, background = sample["edit_type"], source.background.first
        wanted: dict[str, tuple[Thing, str]] = {
            "red": (replace(before, colour="red"), background),
            "circle": (replace(before, shape="circle"), background),
            "large": (replace(before, size="large", x=after.x, y=after.y), background),
            "navy": (before, "navy"),
        }
        assert (after, target.background.first) == wanted[name]
        assert source != target


def verdicts(samples: list[Sample], images: list[Any]) -> tuple[float, float]:
    """Shares of success and of preservation."""
    found = [JUDGE(image, sample["metadata"]) for image, sample in zip(images, samples, strict=True)]
    return tuple(float(np.mean([verdict[name] for verdict in found])) for name in ("success", "preservation"))


def test_the_oracle_reads_targets_at_half_the_size_and_refuses_sources_and_other_targets(samples: list[Sample]) -> None:
    targets = [as_image(sample["target"]) for sample in samples]
    assert verdicts(samples, targets) == (1.0, 1.0)
    assert verdicts(samples, [as_image(sample["source"]) for sample in samples])[0] == 0.0
    halved = [F.avg_pool2d(torch.as_tensor(image), 2)[None] for image in targets]
    again = [F.interpolate(image, (64, 64), mode="bicubic").clamp(-1, 1)[0] for image in halved]
    assert verdicts(samples, again) == (1.0, 1.0)
    assert min(verdicts(samples, [*targets[4:], *targets[:4]])) <= 0.2  # of the next sample with the same prompt


def test_keys_differ_and_other_splits_are_refused(samples: list[Sample]) -> None:
    assert all(one["key"] < other["key"] for one, other in pairwise(samples))
    with pytest.raises(ValueError, match="expected one of train, val, test"):
        draw_prompt_sample(0, "removals", 0)


def test_the_limit_of_an_inversion_tells_source_and_target_apart_but_in_shape() -> None:
    protocol = yaml.safe_load(Path("configs/results/styleclip/latent.yaml").read_text(encoding="utf-8"))
    limit = protocol["editor"]["init_args"]["sampling"]["inversion_limit"]
    near = dict.fromkeys(PROMPTS, 0)
    for index in range(120):
        sample = draw_prompt_sample(0, "val", index)
        source, target = (np.float64(sample[name]) / 127.5 - 1 for name in ("source", "target"))
        near[sample["edit_type"]] += bool(np.square(source - target).mean() <= limit)
    assert near == {"red": 0, "circle": 7, "large": 0, "navy": 0}  # of 30 each

"""bench/sampling.py: both pipelines make the same images, and only ours is compiled."""

from __future__ import annotations

import pytest
import torch

from bench.sampling import Calls, main, random_parts, tiny_parts
from bench.stages.sizes import SMALL
from bench.tools.clock import in_turn


def test_both_make_the_same_images_which_are_not_the_given_ones() -> None:
    calls = Calls(*tiny_parts(), batch=2, steps=3)
    assert calls.largest_difference() <= 1
    edited, given = calls.call_ours()[0], calls.pictures[0]
    assert edited.size == given.size and edited.tobytes() != given.tobytes()
    calls.theirs.scheduler = calls.theirs.scheduler.from_config(calls.theirs.scheduler.config, beta_end=0.5)
    assert calls.largest_difference() > 1  # other work would be seen


def test_ours_is_compiled_whole_and_theirs_is_not() -> None:
    parts, resolution = random_parts(SMALL, "cpu", torch.float32)
    calls = Calls(parts, resolution, batch=1, steps=2, compiled="eager")
    assert calls.ours.unet._compiled_call_impl is not None and calls.theirs.unet._compiled_call_impl is None
    assert calls.largest_difference() <= 1


def test_who_comes_first_alternates_and_warming_up_does_not_count() -> None:
    order: list[str] = []
    pairs = in_turn(lambda: order.append("base"), lambda: order.append("own"), rounds=3, warm_up=1)
    assert order == ["base", "own", "own", "base", "base", "own", "own", "base"]
    assert len(pairs.base) == len(pairs.own) == 3


def test_a_line_is_printed_for_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--sizes", "tiny", "--rounds", "1", "--steps", "2", "--batch", "1"])
    assert capsys.readouterr().out.startswith("sampling/tiny ratio ")

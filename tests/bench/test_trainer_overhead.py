"""bench/trainer_overhead.py: both sides do the same work, and the figures are what the clocks said."""

from __future__ import annotations

import pytest
import torch

from bench.tools.clock import Pairs
from bench.tools.loops import Alternating, BareLoop, small_world
from bench.trainer_overhead import Denoiser, average_of, line, main, measure_stage

WARM_UP, STEPS = 1, 3


# the others have dropout, which the trainer seeds in its own way
@pytest.mark.parametrize("number", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_bare_loop_trains_and_averages_to_the_same_weights_as_the_trainer(number: int) -> None:
    times, loop, trainer = measure_stage(number, small_world(2, 2), STEPS, WARM_UP)
    assert len(times.base) == len(times.own) == STEPS - 1
    assert loop.taken == trainer.lightning_module.step == WARM_UP + STEPS
    trained = {name: p for name, p in trainer.lightning_module.named_parameters() if p.requires_grad}
    bare = {name: p for name, p in loop.module.named_parameters() if p.requires_grad}
    torch.testing.assert_close(bare, trained, rtol=0, atol=0)
    averages = {weight.data_ptr(): average for weight, average in zip(loop.weights, loop.averages, strict=True)}
    own = {name: averages[parameter.data_ptr()] for name, parameter in bare.items()}
    torch.testing.assert_close(own, average_of(trainer).shadow, rtol=0, atol=0)


def test_ratios_are_medians_over_pairs() -> None:
    times = Pairs(base=[(1.0, 1.0), (9.0, 1.0), (2.0, 1.0)], own=[(2.0, 1.0), (10.0, 4.0), (2.0, 2.0)])
    assert times.ratio(0) == 0.9 and times.ratio(1) == 0.5
    assert times.seconds(0) == (2.0, 2.0)
    assert line("a", times).startswith("a ratio 0.900 (goal >= 0.98; bare 2000.0 ms, Lightning 2000.0 ms")


def test_pairs_before_the_end_of_the_warm_up_do_not_count() -> None:
    loader = Alternating(small_world(2, 1), BareLoop(Denoiser(1), 6), steps=4, warm_up=2)
    assert len(list(loader)) == 6 and loader.loop.taken == 6
    times = loader.times()
    assert len(times.base) == len(times.own) == 3
    assert all(seconds > 0 for step in times.base for seconds in step)


@pytest.mark.slow
def test_a_line_is_printed_for_the_denoiser_and_each_stage_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--stages", "0", "2", "--steps", "2"])
    lines = [text for text in capsys.readouterr().out.splitlines() if " ratio " in text]
    assert [text.split()[:2] for text in lines] == [["trainer_overhead", "ratio"], ["trainer_overhead/stage2", "ratio"]]

"""bench/gpu.py at tiny sizes on the CPU: operations are those of the step, failures are lines, ratios are ratios."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu import Result, compared, lines_of, main, measure, measure_apart, parse
from bench.stages.build import STAGES, build_stage, random_batch
from bench.stages.count import Pieces, operations, step_operations
from bench.stages.seen import Seen
from bench.stages.sizes import SMALL
from bench.tools.devices import peak_of
from bench.tools.gpu_steps import JOBS, Setting, compile_regions
from bench.tools.loops import BareLoop
from tests import warm
from tests.marks import slow_but

CPU = torch.device("cpu")
QUICK = ("bare", "stage5", "instruct_pix2pix")
SETTING = Setting(SMALL, 2, CPU, torch.float32, backend="eager")
SMALL_ON_CPU = ["--device", "cpu", "--sizes", "small", "--resolution", "64", "--backend", "eager", "--steps", "1"]


@pytest.mark.parametrize("number", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_counted_operations_are_those_of_the_step(number: int) -> None:
    """Counted on the meta device from what was seen, against what a step really did; stage 5 decodes twice.

    Attention by plain products, for fused kernels compute their scores again in the backward pass.
    """
    stage, batch = build_stage(STAGES[number], SMALL, CPU, dtype=torch.float32), random_batch(2, SMALL)
    seen = Seen(stage)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        BareLoop(stage, 10).step(batch)
    load = seen.load(2)
    assert load.llm < 512 and load.response == 128
    meta = build_stage(STAGES[number], SMALL, "meta")
    pieces = Pieces(meta.mmig, SMALL, load)
    with torch.no_grad():
        again = load.captioned * operations(pieces.decoded) if number == 5 else 0
    assert counter.get_total_flops() / 2 - again == pytest.approx(step_operations(meta, pieces), rel=0.02)
    assert step_operations(meta, pieces) < 0.99 * step_operations(meta, Pieces(meta.mmig, SMALL))


@pytest.mark.parametrize("name", slow_but(QUICK, JOBS))
def test_each_job_takes_steps_that_are_timed_and_counted(name: str) -> None:
    result = measure(JOBS[name], SETTING, 1, warm_up=1)
    assert result.images == pytest.approx(2 / result.seconds) and result.peak is None and result.failure is None
    assert (result.rate is None) == (name in ("recipe", "instruct_pix2pix"))


def test_compiled_regions_change_nothing_but_speed() -> None:
    batch, weights = random_batch(2, SMALL), []
    for compiled in (False, True):
        torch.manual_seed(0)
        stage = build_stage(STAGES[3], SMALL, CPU, dtype=torch.float32)
        if compiled:
            compile_regions(stage.mmig.unet, "eager")
        BareLoop(stage, 10).step(batch)
        weights.append(dict(stage.mmig.unet.named_parameters()))
    torch.testing.assert_close(weights[0], weights[1])
    compiled_blocks = [m for m in stage.mmig.unet.modules() if m._compiled_call_impl is not None]
    assert len(compiled_blocks) > 5


def test_lines_say_what_was_measured_and_against_what() -> None:
    options = parse([])
    fast = Result(0.5, 8.0, 312e12 * 0.4, 60 * 10**9, "NVIDIA A100-SXM4-80GB")
    assert lines_of("stage3", fast, options)[0].startswith("gpu/stage3_mfu ratio 0.400 (goal > 0.3: 125 of 312 TFLOP/s")
    assert lines_of("stage5", fast, options)[1].startswith("gpu/stage5_memory ratio 0.750 (goal <= 1 at batch 4")
    unknown = Result(0.5, 8.0, 1e12, 10**9, "A new GPU")
    assert "peak of this device unknown, give --peak" in lines_of("stage3", unknown, options)[0]
    assert lines_of("stage3", unknown, parse(["--peak", "2"]))[0].startswith("gpu/stage3_mfu ratio 0.500")
    assert lines_of("stage5", Result(failure="too large"), options) == ["gpu/stage5 not measured: too large"]
    slow = Result(1.0, 4.0, 312e12 * 0.5, 10**9, "NVIDIA A100-SXM4-80GB")
    found = compared({"bare": slow, "stage3": fast, "recipe": slow, "instruct_pix2pix": fast})
    assert [line.split(" (")[0] for line in found] == [
        "gpu/stage3_to_bare ratio 0.800",
        "gpu/instruct_pix2pix_to_recipe ratio 2.000",
    ]
    assert compared({"bare": Result(failure="x"), "stage3": fast}) == []


def test_peaks_are_those_of_the_longest_fitting_name() -> None:
    names = ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA L4")
    assert [peak_of(name) for name in names] == [312e12, 989e12, 756e12, 989e12, None]


def test_a_job_that_fails_is_one_line_and_the_next_one_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", warm.python())
    failed = measure_apart("bare", parse([*SMALL_ON_CPU, "--batch", "-1"]), 100)
    assert failed.failure is not None and "\n" not in failed.failure and "Error" in failed.failure
    assert "stopped after" in measure_apart("bare", parse(SMALL_ON_CPU), 0.01).failure
    main([*SMALL_ON_CPU, "--jobs", "bare", "--peak", "1"])
    assert capsys.readouterr().out.startswith("gpu/bare_mfu ratio ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
def test_without_a_gpu_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert capsys.readouterr().out == (
        "gpu not measured: needs a CUDA device, found none (images/s, memory and MFU of all stages)\n"
    )

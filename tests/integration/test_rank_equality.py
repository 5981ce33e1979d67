"""Every stage on several ranks takes the steps that it takes on one: DDP and FSDP2, with and without accumulation."""

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import warm
from tests.integration.workspace import ROOT
from tests.mmig.methods.mmig.stages.support import seeing_backbones

Case = tuple[str, str, int]
STAGES = ("stage1", "stage2", "stage3", "stage4", "stage5")
TWICE = [(stage, strategy) for stage in STAGES for strategy in ("ddp", "fsdp2")]
"""Stages and strategies that run with whole batches and with micro-batches of one."""
CASES: list[Case] = [
    *((stage, strategy, size) for stage, strategy in TWICE for size in (0, 1)),
    ("stage5", "fsdp2-frozen", 0),
    ("stage3", "fsdp2-kept", 1),
]
IN_BFLOAT16: list[Case] = [("stage5", "fsdp2-bf16", 0)]
ON_FOUR: list[Case] = [("stage2", "hsdp", 0)]
QUICK = {("stage5", "ddp"), ("stage5", "fsdp2")}
"""Those that are not marked slow: stage 5 has the losses and parts of all others."""

pytestmark = pytest.mark.timeout(900)  # all cases of a group run within its first test


def marked(cases: Iterable[tuple]) -> list[Any]:
    """Cases, all but the quick ones marked slow."""
    return [pytest.param(*case, marks=[] if case[:2] in QUICK else [pytest.mark.slow]) for case in cases]


def run_cases(backbones: Path, out: Path, processes: int, cases: Iterable[Case]) -> None:
    """Run cases by torchrun, as a cluster would."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    names = [f"{stage}:{strategy}:{size}" for stage, strategy, size in cases]
    result = subprocess.run(
        [warm.python(), *launcher, "tests/integration/rank_cases.py", str(backbones), str(out), *names],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-5000:]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What a case left behind; all of a number of ranks run in the same processes, those that are marked slow apart."""
    backbones, done = tmp_path_factory.mktemp("backbones"), {}
    seeing_backbones(backbones)

    def find(stage: str, strategy: str, size: int) -> dict[str, Any]:
        slow = (stage, strategy) not in QUICK
        if slow not in done:
            done[slow] = tmp_path_factory.mktemp("outcomes")
            of_two = [*CASES, *IN_BFLOAT16]
            two, four = ([case for case in cases if (case[:2] not in QUICK) == slow] for cases in (of_two, ON_FOUR))
            alone = sorted({(stage, "one", 0) for stage, _, _ in two + four})
            for ranks, cases in ((1, alone), (2, two), (4, four)):
                if cases:
                    run_cases(backbones, done[slow], ranks, cases)
        return {
            "one": torch.load(done[slow] / f"{stage}:one:0.pt", weights_only=True),
            "more": torch.load(done[slow] / f"{stage}:{strategy}:{size}.pt", weights_only=True),
        }

    return find


@pytest.mark.parametrize(("stage", "strategy", "size"), marked([*CASES, *ON_FOUR]))
def test_ranks_together_take_the_steps_of_one(
    outcome: Callable[..., dict[str, Any]], stage: str, strategy: str, size: int
) -> None:
    """Also where the samples of one rank lack masks, captions, concepts, or everything but a text."""
    one, more = outcome(stage, strategy, size).values()
    assert more["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert more["weights"].keys() == one["weights"].keys()
    # all weights together: AdamW's first steps go by the sign of a gradient, also of one that is nothing but rounding
    weights = [torch.cat([value.flatten() for value in found["weights"].values()]) for found in (one, more)]
    assert (weights[1] - weights[0]).norm() <= 1e-4 * weights[0].norm()


@pytest.mark.parametrize(("stage", "strategy", "size"), marked(IN_BFLOAT16))
def test_mixed_precision_moves_bfloat16_and_keeps_float32(
    outcome: Callable[..., dict[str, Any]], stage: str, strategy: str, size: int
) -> None:
    one, mixed = outcome(stage, strategy, size).values()
    assert mixed["losses"] == pytest.approx(one["losses"], rel=1e-2)
    assert mixed["losses"] != one["losses"]
    assert {value.dtype for value in mixed["weights"].values()} == {torch.float32}


@pytest.mark.parametrize(("stage", "strategy"), marked(TWICE))
def test_accumulation_reduces_gradients_in_the_last_micro_batch_only(
    outcome: Callable[..., dict[str, Any]], stage: str, strategy: str
) -> None:
    whole, parts = (outcome(stage, strategy, size)["more"]["reduced"] for size in (0, 1))
    if strategy == "fsdp2" and stage not in ("stage1", "stage2"):
        # where gradients of earlier micro-batches wait, FSDP2 reduces a unit once for each of its two forwards
        assert 0 < parts < 2 * whole
    else:
        assert 0 < parts == whole

"""Every stage on several ranks takes the steps that it takes on one: DDP and FSDP2, with and without accumulation."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests import warm
from tests.integration.workspace import ROOT
from tests.mmig.methods.mmig.stages.support import seeing_backbones

STAGES = ("stage1", "stage2", "stage3", "stage4", "stage5")
CASES = [
    *((stage, strategy, size) for stage in STAGES for strategy in ("ddp", "fsdp2") for size in (0, 1)),
    ("stage5", "fsdp2-frozen", 0),
    ("stage3", "fsdp2-kept", 1),
]
IN_BFLOAT16 = [("stage5", "fsdp2-bf16", 0)]
ON_FOUR = [("stage2", "hsdp", 0)]


def run_cases(backbones: Path, out: Path, processes: int, cases: Sequence[str]) -> None:
    """Run cases by torchrun, as a cluster would."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    result = subprocess.run(
        [warm.python(), *launcher, "tests/integration/rank_cases.py", str(backbones), str(out), *cases],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-5000:]


pytestmark = pytest.mark.timeout(900)  # all cases run within the first test


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what every case left behind; all cases of a number of ranks run in the same processes."""
    folder, out = tmp_path_factory.mktemp("backbones"), tmp_path_factory.mktemp("outcomes")
    seeing_backbones(folder)
    run_cases(folder, out, 1, [f"{stage}:one:0" for stage in STAGES])
    for ranks, cases in ((2, CASES + IN_BFLOAT16), (4, ON_FOUR)):
        run_cases(folder, out, ranks, [f"{stage}:{strategy}:{size}" for stage, strategy, size in cases])
    return out


@pytest.mark.parametrize(("stage", "strategy", "size"), [*CASES, *ON_FOUR])
def test_ranks_together_take_the_steps_of_one(outcomes: Path, stage: str, strategy: str, size: int) -> None:
    """Also where the samples of one rank lack masks, captions, concepts, or everything but a text."""
    one = torch.load(outcomes / f"{stage}:one:0.pt", weights_only=True)
    more = torch.load(outcomes / f"{stage}:{strategy}:{size}.pt", weights_only=True)
    assert more["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert more["weights"].keys() == one["weights"].keys()
    # all weights together: AdamW's first steps go by the sign of a gradient, also of one that is nothing but rounding
    weights = [torch.cat([value.flatten() for value in found["weights"].values()]) for found in (one, more)]
    assert (weights[1] - weights[0]).norm() <= 1e-4 * weights[0].norm()


@pytest.mark.parametrize(("stage", "strategy", "size"), IN_BFLOAT16)
def test_mixed_precision_moves_bfloat16_and_keeps_float32(outcomes: Path, stage: str, strategy: str, size: int) -> None:
    one = torch.load(outcomes / f"{stage}:one:0.pt", weights_only=True)
    mixed = torch.load(outcomes / f"{stage}:{strategy}:{size}.pt", weights_only=True)
    assert mixed["losses"] == pytest.approx(one["losses"], rel=1e-2)
    assert mixed["losses"] != one["losses"]
    assert {value.dtype for value in mixed["weights"].values()} == {torch.float32}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("stage", STAGES)
def test_accumulation_reduces_gradients_in_the_last_micro_batch_only(outcomes: Path, stage: str, strategy: str) -> None:
    whole, parts = (
        torch.load(outcomes / f"{stage}:{strategy}:{size}.pt", weights_only=True)["reduced"] for size in (0, 1)
    )
    if strategy == "fsdp2" and stage not in ("stage1", "stage2"):
        # where gradients of earlier micro-batches wait, FSDP2 reduces a unit once for each of its two forwards
        assert 0 < parts < 2 * whole
    else:
        assert 0 < parts == whole

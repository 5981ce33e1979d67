"""What train.py's command line sets for a run, beside its options."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator

from mmig.run import cli


@pytest.fixture
def exact() -> Iterator[None]:
    """Exact products in float32, before and afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("accelerator", "precision", "expected"),
    [
        (CUDAAccelerator, "bf16-mixed", "high"),
        (CUDAAccelerator, "32-true", "highest"),
        (CPUAccelerator, "bf16-mixed", "highest"),
    ],
)
def test_tf32_is_for_mixed_precision_on_gpus_alone(
    accelerator: type[Accelerator], precision: str, expected: str
) -> None:
    cli._allow_tf32(SimpleNamespace(accelerator=accelerator(), precision=precision))
    assert torch.get_float32_matmul_precision() == expected

"""Precision "auto" of training and evaluation: bfloat16 where products of it are fast, and single elsewhere."""

import time
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator
from torch import Tensor

AUTO = "auto"
SINGLE, MIXED = "32-true", "bf16-mixed"
TURNS = 5
Precision = Literal["auto", "32-true", "bf16-mixed", "32", "bf16"] | Literal[32] | None


class Trainer(L.Trainer):
    """Lightning's trainer as train.py builds it.

    Args:
        accelerator: as Lightning's.
        precision: 32-true or bf16-mixed; "auto" is one of both, by the GPU or processor (see `chosen_precision`).
        others: as Lightning's.
    """

    def __init__(self, *, accelerator: str | Accelerator = AUTO, precision: Precision = None, **others: Any) -> None:
        super().__init__(accelerator=accelerator, precision=settled(precision, accelerator), **others)


def settled(precision: Any, accelerator: Any) -> Any:
    """A precision as it is, and for "auto" what that stands for on this machine."""
    return chosen_precision(accelerator) if precision == AUTO else precision


def chosen_precision(accelerator: Any) -> str:
    """What "auto" stands for on this machine: bf16-mixed on GPUs and processors that multiply it faster.

    On others bfloat16 is slower than float32 (`python bench/precision.py`).

    Args:
        accelerator: as in the section `trainer`; "auto" is a GPU where there is one.
    """
    on_gpu = accelerator in ("gpu", "cuda") or isinstance(accelerator, CUDAAccelerator)
    if on_gpu or (accelerator == AUTO and torch.cuda.is_available()):
        return MIXED if torch.cuda.is_available() and torch.cuda.is_bf16_supported(False) else SINGLE
    on_cpu = accelerator in (AUTO, "cpu") or isinstance(accelerator, CPUAccelerator)
    return MIXED if on_cpu and multiplies_bfloat16() else SINGLE


@cache
def multiplies_bfloat16() -> bool:
    """Whether this processor's products of bfloat16 are faster than those of float32.

    In matrix units (AMX) they are. With instructions alone (AVX512-BF16) they are four times as fast on some processors
    and three times as slow on others, so both are timed there, in turn, for another program may slow a moment down.
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    single = torch.full((256, 256), 0.01)
    half = single.bfloat16()
    turns = [(product_seconds(half), product_seconds(single)) for _ in range(TURNS)]
    return min(turn[0] for turn in turns) < min(turn[1] for turn in turns)


def product_seconds(matrix: Tensor, rounds: int = 5) -> float:
    """Least time of the product of a matrix [n,n] with itself."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def running(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """In which a model runs without gradients: under autocast for "bf16-mixed", as it is for "32-true"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == MIXED)


def suit_products(trainer: L.Trainer) -> None:
    """Let products in mixed precision run as they are fast; in single precision nothing changes.

    On GPUs what autocast leaves in float32 runs as TF32. On CPUs attention is two products and a softmax: the backward
    pass of torch's own attention takes half of a small denoiser's step in bfloat16 there.
    """
    mixed = trainer.precision.endswith("-mixed")
    if mixed and isinstance(trainer.accelerator, CUDAAccelerator):
        torch.set_float32_matmul_precision("high")
    attend_in_products(mixed and isinstance(trainer.accelerator, CPUAccelerator))


def attend_in_products(apart: bool) -> None:
    """Whether attention is two products and a softmax, or one kernel of torch's."""
    torch.backends.cuda.enable_flash_sdp(not apart)  # these two hold for CPUs too
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(apart)

"""Optimiser settings and the learning-rate schedule as a pure function of the step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass
class OptimizerConfig:
    """AdamW with clipping, warm-up and a constant or cosine schedule.

    Attributes:
        lr: peak learning rate.
        betas: AdamW's decay rates of the first and second moment.
        weight_decay: decoupled decay of matrices and convolution kernels; vectors (biases, norms) are not decayed.
        clip_norm: largest global gradient norm, None for no clipping.
        warmup_steps: optimiser steps of linear warm-up from 0.
        schedule: "constant" after warm-up, or "cosine" down to `final_lr_ratio` at `total_steps`.
        total_steps: end of the cosine in optimiser steps; None means the trainer's `max_steps`.
        final_lr_ratio: learning rate at the end of the cosine, as a part of `lr`.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    total_steps: int | None = None
    final_lr_ratio: float = 0.0


def lr_factor(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Learning rate of optimiser step `step` (0 = the first) as a part of `config.lr`, in [0, 1].

    Warm-up is (step + 1) / warmup_steps, so the first step already moves and step `warmup_steps - 1` has the full rate.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    span = max(1, total_steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def build_adamw(named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> torch.optim.AdamW:
    """Fused AdamW in two groups, decayed and not; raises ValueError where nothing is trainable."""
    trainable = [parameter for _, parameter in named_parameters if parameter.requires_grad]
    if not trainable:
        raise ValueError("the optimiser found no trainable parameter: check which parts this method or stage trains")
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True)


def state_by_name(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Key an optimiser's state_dict by parameter name; `names[i]` is the name of the optimiser's i-th parameter."""
    groups = [{**group, "params": [names[i] for i in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[i]: value for i, value in state["state"].items()}, "param_groups": groups}


def state_by_index(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Undo `state_by_name` for an optimiser that holds the parameters `names` in this order.

    Raises:
        ValueError: the saved state and the optimiser do not hold the same parameters.
    """
    saved = [name for group in state["param_groups"] for name in group["params"]]
    if sorted(saved) != sorted(names):
        missing, extra = sorted(set(names) - set(saved)), sorted(set(saved) - set(names))
        raise ValueError(
            f"the checkpoint's optimiser holds other parameters than this run trains: missing {missing[:3]}, "
            f"unexpected {extra[:3]}; use --init_from to start with a fresh optimiser"
        )
    index = {name: i for i, name in enumerate(names)}
    groups = [{**group, "params": [index[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {index[name]: value for name, value in state["state"].items()}, "param_groups": groups}

"""Optimiser settings, groups of parameters, and the learning-rate schedule as a pure function of the step."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from mmig.backbones.quantised import bitsandbytes
from mmig.training.muon import Muon
from mmig.training.sharding import full


@dataclass
class OptimizerGroup:
    """What differs for some parameters; what is None is that of the OptimizerConfig.

    Attributes:
        lr: peak learning rate; the schedule multiplies it.
        weight_decay: decoupled decay of matrices and convolution kernels.
        clip_norm: largest norm of this group's own gradient, infinity for no clipping (`.inf` in YAML).
        betas: AdamW's decay rates; adversarial training commonly takes (0.5, 0.9).
    """

    lr: float | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    betas: tuple[float, float] | None = None


@dataclass
class OptimizerConfig:
    """AdamW or Muon with clipping, warm-up and a constant or cosine schedule.

    Attributes:
        lr: peak learning rate; under `lr_rule` "scaled" that of one sample.
        lr_rule: "absolute": rates are what they say; "scaled": they are multiplied by the global batch size, as the
            latent diffusion of Rombach et al. (2022) does (samples a GPU x GPUs x nodes x accumulated batches).
        kind: "adamw" is torch's, fused; "adamw_8bit" keeps its moments in 8 bits, "paged_adamw_8bit" moves them to the
            host's memory too where the GPU's runs short (both of bitsandbytes, on NVIDIA GPUs). "muon" makes updates of
            matrices and kernels orthogonal (`mmig.training.muon`; not with FSDP): fewer steps, each a little longer.
        betas: AdamW's decay rates of the first and second moment.
        weight_decay: decoupled decay of matrices and convolution kernels; vectors (biases, norms) are not decayed.
        clip_norm: largest gradient norm, None for no clipping. It is the norm over all parameters that are in no
            group; each group is clipped to its own.
        warmup_steps: steps of linear warm-up.
        warmup_start: part of the peak in the first step, from which the rate rises to the whole at step `warmup_steps`
            (Rombach et al. 2022: 1e-6); None: 1 / warmup_steps, and the whole one step earlier.
        schedule: "constant" after warm-up, or "cosine" down to `final_lr_ratio` at `total_steps`.
        total_steps: end of the cosine in steps; None means the trainer's `max_steps`.
        final_lr_ratio: learning rate at the end of the cosine, as a part of the peak.
        groups: other settings by dotted prefix of the parameters' names ("mmig.unet"), of which the longest that fits
            wins, or by the name of a turn (`mmig.training.turns`) for all else that it moves.
    """

    lr: float = 1e-4
    lr_rule: Literal["absolute", "scaled"] = "absolute"
    kind: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    warmup_steps: int = 0
    warmup_start: float | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    total_steps: int | None = None
    final_lr_ratio: float = 0.0
    groups: dict[str, OptimizerGroup] = field(default_factory=dict)

    def group(self, prefix: str) -> OptimizerGroup:
        """Settings of the group `prefix`, all filled in; "" is the group of the parameters that are in no other."""
        own = self.groups.get(prefix, OptimizerGroup())
        return OptimizerGroup(
            self.lr if own.lr is None else own.lr,
            self.weight_decay if own.weight_decay is None else own.weight_decay,
            self.clip_norm if own.clip_norm is None else own.clip_norm,
            self.betas if own.betas is None else own.betas,
        )


def lr_factor(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Learning rate of step `step` (0 = the first) as a part of the peak, in [0, 1].

    Warm-up is (step + 1) / warmup_steps, so the first step already moves and step `warmup_steps - 1` has the full rate;
    with `warmup_start` it is the line from there at step 0 to 1 at step `warmup_steps`.
    """
    if step < config.warmup_steps and config.warmup_start is not None:
        return config.warmup_start + (1 - config.warmup_start) * step / config.warmup_steps
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    span = max(1, total_steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def trainable(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name (ValueError: there are none)."""
    found = {name: parameter for name, parameter in named_parameters if parameter.requires_grad}
    if not found:
        raise ValueError("the optimiser found no trainable parameter: check which parts this method or stage trains")
    return found


def parameters_by_group(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by the prefix of their group, in the order given; "" holds those that are in no group.

    Raises:
        ValueError: a group gets no parameter, or nothing is trainable.
    """
    return grouped_by_turn({"": trainable(named_parameters)}, config)[""]


def grouped_by_turn(
    parameters: Mapping[str, Mapping[str, nn.Parameter]], config: OptimizerConfig
) -> dict[str, dict[str, list[nn.Parameter]]]:
    """The parameters of each turn by their group, in the order given; "" holds those that are in no group.

    Args:
        parameters: that the turns move, by the turn's name and their own.
        config: its groups are prefixes of parameters' names, or names of turns.

    Raises:
        ValueError: a group gets no parameter.
    """
    grouped: dict[str, dict[str, list[nn.Parameter]]] = {turn: {} for turn in parameters}
    longest_first = sorted(config.groups, key=len, reverse=True)
    for turn, members in parameters.items():
        groups: dict[str, list[nn.Parameter]] = {group: [] for group in ("", *config.groups)}
        rest = turn if turn in config.groups else ""
        for name, parameter in members.items():
            groups[next((p for p in longest_first if f"{name}.".startswith(f"{p}.")), rest)].append(parameter)
        grouped[turn] = {group: found for group, found in groups.items() if found}
    for group in config.groups:
        if not any(group in groups for groups in grouped.values()):
            raise ValueError(_group_of_nothing(group, parameters))
    return grouped


def _group_of_nothing(group: str, parameters: Mapping[str, Mapping[str, nn.Parameter]]) -> str:
    names = [name for members in parameters.values() for name in members]
    some = ", ".join(names[:: math.ceil(len(names) / 4)])
    turns = f", or by the name of its turn ({', '.join(parameters)})" if len(parameters) > 1 else ""
    return (
        f"optimizer.groups: {group!r} gets no trainable parameter; this run trains {len(names)}, such as {some}. "
        f"List only what trains in this stage, by the beginning of its name up to a dot{turns}"
    )


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """The optimiser over all trainable parameters, in the groups of the config, see `optimizer_of`."""
    return optimizer_of(parameters_by_group(named_parameters, config), config)


def optimizer_of(grouped: Mapping[str, Sequence[nn.Parameter]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, fused or in 8 bits, or Muon; each group of parameters in two, decayed and not.

    Each of its `param_groups` keeps its peak learning rate as "initial_lr", as torch's schedulers do.

    Raises:
        ValueError: Muon for sharded parameters.
        MissingLibraryError: 8 bits without bitsandbytes or without a GPU.
    """
    groups = []
    for prefix, parameters in grouped.items():
        own = config.group(prefix)
        for decay, members in (
            (own.weight_decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        ):
            rates = {"lr": own.lr, "initial_lr": own.lr, "betas": own.betas}
            groups.append({"params": members, "weight_decay": decay, **rates})
    groups = [group for group in groups if group["params"]]
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    if config.kind == "muon":
        return Muon(groups, lr=config.lr, betas=config.betas)
    optimizers = bitsandbytes(f"optimizer.kind: {config.kind}", "take adamw").optim
    kinds = {"adamw_8bit": optimizers.AdamW8bit, "paged_adamw_8bit": optimizers.PagedAdamW8bit}
    return kinds[config.kind](groups, lr=config.lr, betas=config.betas)


def clip_grad_norm(parameters: list[nn.Parameter], max_norm: float | None) -> torch.Tensor:
    """Clip gradients to a norm (None: not at all) and return what it was, over all shards of sharded ones.

    Lightning's own clipping refuses fused AdamW.
    """
    limit = float("inf") if max_norm is None else max_norm
    return full(nn.utils.clip_grad_norm_(parameters, limit, foreach=True))


def state_by_name(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Key an optimiser's state_dict by parameter name; `names[i]` is the name of the optimiser's i-th parameter."""
    groups = [{**group, "params": [names[i] for i in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[i]: value for i, value in state["state"].items()}, "param_groups": groups}


def state_by_index(state: dict[str, Any], own: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Undo `state_by_name` for an optimiser that holds the parameters `names` in this order.

    Settings (learning rate, decay, groups) are the optimiser's own, as the configuration built it; what was saved is
    each parameter's state only.

    Args:
        state: what `state_by_name` made.
        own: `state_dict()` of the optimiser.
        names: names of its parameters.

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
    moments = {index[name]: value for name, value in state["state"].items()}
    return {"state": moments, "param_groups": own["param_groups"]}

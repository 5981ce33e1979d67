"""Schedule and optimiser state."""

import pytest
import torch
from torch import nn

from mmig.optim import OptimizerConfig, build_adamw, lr_factor, state_by_index, state_by_name


def test_warm_up_then_constant() -> None:
    config = OptimizerConfig(warmup_steps=4)
    assert [lr_factor(config, step, 10) for step in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 1.0]


def test_cosine_ends_at_the_final_ratio() -> None:
    config = OptimizerConfig(schedule="cosine", final_lr_ratio=0.1)
    assert lr_factor(config, 0, 100) == 1.0
    assert lr_factor(config, 50, 100) == pytest.approx(0.55)
    assert lr_factor(config, 100, 100) == lr_factor(config, 500, 100) == pytest.approx(0.1)


def test_vectors_are_not_decayed() -> None:
    optimizer = build_adamw(nn.Linear(2, 2).named_parameters(), OptimizerConfig(weight_decay=0.5))
    assert [(group["params"][0].ndim, group["weight_decay"]) for group in optimizer.param_groups] == [
        (2, 0.5),
        (1, 0.0),
    ]


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_adamw(nn.Linear(2, 2).requires_grad_(False).named_parameters(), OptimizerConfig())


def test_optimizer_state_by_name_comes_back_in_another_order() -> None:
    state = {
        "state": {0: {"step": torch.tensor(3.0)}, 1: {"step": torch.tensor(4.0)}},
        "param_groups": [{"params": [0, 1]}],
    }
    named = state_by_name(state, ["a", "b"])
    assert named["state"]["b"]["step"] == 4
    back = state_by_index(named, ["b", "a"])
    assert back["state"][0]["step"] == 4 and back["param_groups"][0]["params"] == [1, 0]


def test_optimizer_state_of_other_parameters_is_refused() -> None:
    named = state_by_name({"state": {}, "param_groups": [{"params": [0]}]}, ["a"])
    with pytest.raises(ValueError, match="missing \\['b'\\]"):
        state_by_index(named, ["b"])

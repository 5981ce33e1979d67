"""Schedule and optimiser state."""

import pytest
import torch
from torch import nn

from mmig.training.optim import (
    OptimizerConfig,
    OptimizerGroup,
    build_optimizer,
    lr_factor,
    state_by_index,
    state_by_name,
)


def test_warm_up_then_constant() -> None:
    config = OptimizerConfig(warmup_steps=4)
    assert [lr_factor(config, step, 10) for step in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 1.0]


def test_warm_up_as_rombach_et_al_have_it() -> None:
    """A line from 1e-6 in the first step to 1 in step 10,000."""
    config = OptimizerConfig(warmup_steps=10_000, warmup_start=1e-6)
    found = [lr_factor(config, step, 20_000) for step in (0, 5000, 9999, 10_000)]
    assert found == pytest.approx([1e-6, 0.5000005, 0.9999000001, 1.0], rel=1e-9)


def test_cosine_ends_at_the_final_ratio() -> None:
    config = OptimizerConfig(schedule="cosine", final_lr_ratio=0.1)
    assert lr_factor(config, 0, 100) == 1.0
    assert lr_factor(config, 50, 100) == pytest.approx(0.55)
    assert lr_factor(config, 100, 100) == lr_factor(config, 500, 100) == pytest.approx(0.1)


def test_vectors_are_not_decayed() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2).named_parameters(), OptimizerConfig(weight_decay=0.5))
    assert [(group["params"][0].ndim, group["weight_decay"]) for group in optimizer.param_groups] == [
        (2, 0.5),
        (1, 0.0),
    ]


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False).named_parameters(), OptimizerConfig())


def parts(**names: int) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(width, width) for name, width in names.items()})


def test_the_longest_prefix_wins_and_groups_inherit_what_they_leave_out() -> None:
    model = nn.ModuleDict({"unet": parts(down=1, downer=2, mid=3), "mmsm": parts(text=4), "head": nn.Linear(5, 5)})
    config = OptimizerConfig(
        lr=1e-4,
        weight_decay=0.3,
        groups={
            "unet": OptimizerGroup(lr=5e-6),
            "unet.down": OptimizerGroup(weight_decay=0.1),
            "mmsm.text.weight": OptimizerGroup(lr=2e-4, weight_decay=0.0),
        },
    )
    names = {id(p): name for name, p in model.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in build_optimizer(model.named_parameters(), config).param_groups
        for p in group["params"]
    }
    assert found == {
        "unet.down.weight": (1e-4, 0.1),
        "unet.down.bias": (1e-4, 0.0),
        "unet.downer.weight": (5e-6, 0.3),  # "unet.down" ends at a dot
        "unet.downer.bias": (5e-6, 0.0),
        "unet.mid.weight": (5e-6, 0.3),
        "unet.mid.bias": (5e-6, 0.0),
        "mmsm.text.weight": (2e-4, 0.0),
        "mmsm.text.bias": (1e-4, 0.0),
        "head.weight": (1e-4, 0.3),
        "head.bias": (1e-4, 0.0),
    }


@pytest.mark.parametrize("prefix", ["vae", "une", "frozen"])
def test_a_group_of_nothing_that_trains_is_named(prefix: str) -> None:
    model = parts(unet=1, mmsm=1, frozen=1)
    model["frozen"].requires_grad_(False)
    config = OptimizerConfig(groups={prefix: OptimizerGroup(lr=1.0)})
    with pytest.raises(ValueError, match=rf"'{prefix}' gets no trainable .* 4, such as unet\.weight, ") as caught:
        build_optimizer(model.named_parameters(), config)
    assert "\n" not in str(caught.value) and "List only what trains" in str(caught.value)


def test_optimizer_state_by_name_comes_back_in_another_order() -> None:
    state = {
        "state": {0: {"step": torch.tensor(3.0)}, 1: {"step": torch.tensor(4.0)}},
        "param_groups": [{"params": [0, 1]}],
    }
    named = state_by_name(state, ["a", "b"])
    assert named["state"]["b"]["step"] == 4
    own = {"state": {}, "param_groups": [{"params": [0], "lr": 1.0}, {"params": [1], "lr": 2.0}]}
    back = state_by_index(named, own, ["b", "a"])
    assert back["state"][0]["step"] == 4 and back["state"][1]["step"] == 3
    assert back["param_groups"] == own["param_groups"]  # settings are the run's own, never the checkpoint's


def test_optimizer_state_of_other_parameters_is_refused() -> None:
    named = state_by_name({"state": {}, "param_groups": [{"params": [0]}]}, ["a"])
    with pytest.raises(ValueError, match="missing \\['b'\\]"):
        state_by_index(named, {"state": {}, "param_groups": [{"params": [0]}]}, ["b"])

"""Groups of parameters while training: own learning rates, own clipping, exact resume."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from mmig.run.cli import MMIGCLI
from mmig.training.optim import OptimizerConfig, OptimizerGroup
from tests.toy import ToyModule, fit

FIRST, LAST = "net.0", "net.2"  # the two layers of the toy


def toy(**settings: object) -> ToyModule:
    torch.manual_seed(0)
    return ToyModule(OptimizerConfig(**settings))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def set_gradients(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter) * 10


def test_the_schedule_multiplies_each_groups_own_rate(tmp_path: Path) -> None:
    """The first step of Adam moves every weight by its learning rate, whatever the gradient."""
    groups = {LAST: OptimizerGroup(lr=1e-4), "net.0.bias": OptimizerGroup(lr=4e-4)}
    module = toy(lr=1e-2, warmup_steps=4, weight_decay=0.0, groups=groups)
    before = weights(module)
    fit(module, tmp_path, 1)
    moved = {name: (value - before[name]).abs().max().item() for name, value in weights(module).items()}
    expected = {"net.0.weight": 1e-2, "net.0.bias": 4e-4, "net.2.weight": 1e-4, "net.2.bias": 1e-4}
    assert moved == pytest.approx({name: rate / 4 for name, rate in expected.items()}, rel=1e-2)


def test_without_groups_clipping_is_torchs_bit_for_bit() -> None:
    module, twin = toy(clip_norm=0.5), toy()
    module.configure_optimizers()
    set_gradients(module)
    for parameter, other in zip(module.parameters(), twin.parameters(), strict=True):
        other.grad = parameter.grad.clone()
    norm = nn.utils.clip_grad_norm_(twin.parameters(), 0.5, foreach=True)
    assert torch.equal(module._clip_gradients(module._shares)["grad_norm"], norm)
    for parameter, other in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad)


@pytest.mark.parametrize("rest", [2.0, None])
def test_each_group_is_clipped_to_its_own_norm(rest: float | None) -> None:
    module = toy(clip_norm=rest, groups={LAST: OptimizerGroup(clip_norm=0.5)})
    module.configure_optimizers()
    set_gradients(module)
    flat = [torch.cat([p.grad.flatten() for p in module.net[i].parameters()]) for i in (0, 2)]
    norms = module._clip_gradients(module._shares)
    assert norms.keys() == {"grad_norm", f"grad_norm/{LAST}"}
    torch.testing.assert_close(norms["grad_norm"], torch.cat(flat).norm())
    torch.testing.assert_close(norms[f"grad_norm/{LAST}"], flat[1].norm())
    clipped = [torch.cat([p.grad.flatten() for p in module.net[i].parameters()]) for i in (0, 2)]
    torch.testing.assert_close(clipped[0], flat[0] * (rest or flat[0].norm()) / flat[0].norm(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(clipped[1], flat[1] * 0.5 / flat[1].norm(), rtol=1e-5, atol=1e-6)


def test_a_group_can_be_left_unclipped() -> None:
    module = toy(clip_norm=0.5, groups={LAST: OptimizerGroup(clip_norm=float("inf"))})
    module.configure_optimizers()
    set_gradients(module)
    before = module.net[2].weight.grad.clone()
    module._clip_gradients(module._shares)
    assert torch.equal(module.net[2].weight.grad, before)


def test_two_halves_with_groups_equal_one_whole_bit_for_bit(tmp_path: Path) -> None:
    def grouped(weight_decay: float = 0.2) -> ToyModule:
        groups = {LAST: OptimizerGroup(lr=3e-3, weight_decay=weight_decay, clip_norm=0.1)}
        return toy(lr=1e-2, clip_norm=1.0, groups=groups)

    whole, resumed, other = grouped(), grouped(), grouped(weight_decay=0.9)
    logged = fit(whole, tmp_path / "whole", 20).callback_metrics
    assert {"train/grad_norm", f"train/grad_norm/{LAST}"} <= logged.keys()
    fit(grouped(), tmp_path / "halves", 10)
    half = tmp_path / "halves" / "step-00000010.ckpt"
    fit(resumed, tmp_path / "halves", 20, resume=half)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    trainer = fit(other, tmp_path / "other", 12, resume=half)
    assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.01, 0.0, 0.9, 0.0]


class BuiltError(Exception):
    """Carries the module out of the command line once it is built."""


class BuildOnly(MMIGCLI):
    """train.py's command line up to the point where it would train."""

    def _run_subcommand(self, subcommand: str) -> None:
        raise BuiltError(self.model, self.resolved_config())


def test_groups_are_read_from_yaml_and_from_the_saved_configuration(tmp_path: Path) -> None:
    groups = {"net.2": {"lr": 5e-6, "clip_norm": 0.1, "betas": [0.5, 0.9]}, "net.0.bias": {"weight_decay": 0.02}}
    config = {
        "model": {"class_path": "tests.toy.ToyStage", "init_args": {"optimizer": {"lr": 1e-3, "groups": groups}}},
        "data": {"class_path": "tests.toy.ToyData"},
    }
    for _ in range(2):  # as written by hand, then as a run saves it
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        with pytest.raises(BuiltError) as caught:
            BuildOnly(["fit", "--config", str(file), "--name", "groups", "--runs", str(tmp_path)])
        module, config = caught.value.args
        assert module.optimizer_config == OptimizerConfig(
            lr=1e-3,
            groups={
                "net.2": OptimizerGroup(lr=5e-6, clip_norm=0.1, betas=(0.5, 0.9)),
                "net.0.bias": OptimizerGroup(weight_decay=0.02),
            },
        )


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_group_has_its_own_betas(kind: str) -> None:
    module = toy(kind=kind, betas=(0.8, 0.95), groups={LAST: OptimizerGroup(betas=(0.5, 0.9))})
    [optimizer] = module.configure_optimizers()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = {names[id(p)]: group["betas"] for group in optimizer.param_groups for p in group["params"]}
    assert found == {name: (0.5, 0.9) if name.startswith(LAST) else (0.8, 0.95) for name in names.values()}

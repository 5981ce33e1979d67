"""Muon: orthogonal updates checked against singular value decompositions, AdamW for vectors, and its state."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmig.training.muon import COEFFICIENTS, MOMENTUM, ROUNDS, orthogonalised
from mmig.training.optim import OptimizerConfig, build_optimizer, state_by_index, state_by_name


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    matrices = torch.stack([normal(*shape, seed=seed) for seed in range(4)]) * 1e-3
    for matrix, result in zip(matrices, orthogonalised(matrices), strict=True):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        core = left.mT @ result @ right.mT  # diagonal where the singular vectors are the same
        assert (core - core.diagonal().diag()).abs().max() < 1e-3
        assert core.diagonal().min() > 0.5 and core.diagonal().max() < 1.3


@pytest.mark.parametrize("shape", [(16, 16), (16, 100), (100, 16)])
def test_rounds_are_those_on_the_whole_matrix_even_where_singular_values_differ_much(shape: tuple[int, int]) -> None:
    left, values, right = torch.linalg.svd(normal(*shape).double(), full_matrices=False)
    matrix = left @ torch.logspace(0, -8, len(values), dtype=torch.float64).diag() @ right
    a, b, c = COEFFICIENTS
    expected = matrix / matrix.norm()
    for _ in range(ROUNDS):
        square = expected @ expected.mT
        expected = a * expected + b * square @ expected + c * square @ square @ expected
    assert (orthogonalised(matrix.float()[None])[0] - expected).abs().max() < 1e-3


def test_a_gradient_of_zeros_moves_nothing() -> None:
    assert torch.equal(orthogonalised(torch.zeros(1, 3, 5)), torch.zeros(1, 3, 5))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 5), nn.LayerNorm(5))


def muon(model: nn.Module, kind: str = "muon") -> torch.optim.Optimizer:
    return build_optimizer(model.named_parameters(), OptimizerConfig(lr=0.01, kind=kind, weight_decay=0.1))


def backward(model: nn.Module, seed: int) -> None:
    model.zero_grad()
    model(normal(6, 3, 4, 4, seed=seed)).square().sum().backward()


def test_a_step_is_orthogonal_momentum_of_the_size_of_adamws() -> None:
    model = network()
    optimizer, kernel = muon(model), model[0].weight
    gradients = []
    for seed in (1, 2):
        before = kernel.detach().clone()
        backward(model, seed)
        gradients.append(kernel.grad.clone())
        optimizer.step()
    momentum = MOMENTUM * gradients[0] + gradients[1]
    direction = nearest_orthogonal((gradients[1] + MOMENTUM * momentum).flatten(1))
    update = (before * (1 - 0.01 * 0.1) - kernel.detach()).flatten(1) / 0.01
    cosine = torch.nn.functional.cosine_similarity(update.flatten(), direction.flatten(), dim=0)
    assert cosine > 0.95
    assert update.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


def test_vectors_move_as_with_adamw() -> None:
    models = [network(), network()]
    for model, kind in zip(models, ("muon", "adamw"), strict=True):
        backward(model, 1)
        muon(model, kind).step()
    vectors = [[p for p in model.parameters() if p.ndim == 1] for model in models]
    assert all(torch.equal(a, b) for a, b in zip(*vectors, strict=True))
    assert not torch.equal(models[0][0].weight, models[1][0].weight)


def test_a_stored_state_goes_on_bit_for_bit() -> None:
    model = network()
    optimizer = muon(model)
    backward(model, 1)
    optimizer.step()
    other = copy.deepcopy(model)
    names = [
        name
        for group in optimizer.param_groups
        for p in group["params"]
        for name, q in model.named_parameters()
        if p is q
    ]
    stored, fresh = state_by_name(copy.deepcopy(optimizer.state_dict()), names), muon(other)
    fresh.load_state_dict(state_by_index(stored, fresh.state_dict(), names))
    for trained, chosen in ((model, optimizer), (other, fresh)):
        backward(trained, 2)
        chosen.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_part_without_gradient_stays() -> None:
    model = network()
    backward(model, 1)
    model[0].weight.grad = None
    before = model[0].weight.detach().clone()
    muon(model).step()
    assert torch.equal(model[0].weight, before)


def test_sharded_parameters_are_refused_in_one_line() -> None:
    from torch.distributed.tensor import distribute_module, init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        sharded = distribute_module(nn.Linear(2, 2), init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match=r"kind: muon needs whole matrices, this strategy shards them"):
            muon(sharded)
    finally:
        dist.destroy_process_group()


def test_neither_autocast_nor_a_choice_of_products_makes_it_coarse() -> None:
    matrices = normal(3, 48, 432)
    whole = orthogonalised(matrices)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # CPUs with units for it multiply in bfloat16 then
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(orthogonalised(matrices), whole)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert whole.dtype == torch.float32

"""Muon: momentum whose matrices are made orthogonal before each step (Jordan et al. 2024), AdamW for all else."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

MOMENTUM = 0.9
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd quintic that drives singular values towards 1, about 0.7 to 1.2 after five rounds (Jordan et al. 2024)."""
ROUNDS = 5
ADAM_RMS = 0.2
"""Root mean square of AdamW's usual update, to which every update is brought, so that the learning rates of both are
alike (Liu et al. 2025, eq 4)."""


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values near 1, singular vectors kept, [B,m,n].

    By Newton-Schulz rounds, in float32 at least: autocast around it and TF32 are left aside, for in fewer digits the
    rounds diverge. A matrix of zeros stays one. Every round multiplies by a polynomial of the Gram matrix, so that the
    rounds work on the small [m,m] alone and only their product meets the wide [m,n].
    """
    with _whole_products(matrices.device):
        return _orthogonalised(matrices)


def _orthogonalised(matrices: Tensor) -> Tensor:
    turned = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    values = turned / (torch.linalg.matrix_norm(turned, keepdim=True) + 1e-12)
    gram = values @ values.mT
    product = factor = _polynomial(gram)
    for _ in range(ROUNDS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        product = factor @ product
    result = product @ values
    return result.mT if turned is not matrices else result


@contextmanager
def _whole_products(device: torch.device) -> Iterator[None]:
    """Products of float32 in float32, whatever a training has chosen for its own."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _polynomial(gram: Tensor) -> Tensor:
    """What a round multiplies matrices by whose Gram matrices these are, [B,m,m]."""
    a, b, c = COEFFICIENTS
    return a * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device) + b * gram + c * gram @ gram


class Muon(torch.optim.AdamW):
    """Muon with Nesterov momentum for groups of matrices and kernels, torch's fused AdamW for those of vectors.

    A convolution kernel [out, in, h, w] is the matrix [out, in h w]. Matrices of one shape go through one batched
    product.

    Args:
        groups: parameter groups as of AdamW, none with both matrices and vectors.
        lr, betas: as of AdamW.

    Raises:
        ValueError: sharded parameters, of which no rank has a whole matrix.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, lr=lr, betas=betas, fused=True)
        if any(isinstance(parameter, DTensor) for group in self.param_groups for parameter in group["params"]):
            raise ValueError("optimizer.kind: muon needs whole matrices, this strategy shards them; take adamw, or DDP")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all groups."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not _of_matrices(group)]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for (rows, columns), members in self._directions().items():
            updates = orthogonalised(torch.stack([direction for _, _, direction in members]))
            size = ADAM_RMS * max(rows, columns) ** 0.5  # an orthogonal matrix has a mean square of 1 / max(m, n)
            for (group, parameter, _), update in zip(members, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * size)
        return loss

    def _directions(self) -> dict[torch.Size, list[tuple[dict[str, Any], nn.Parameter, Tensor]]]:
        """(group, parameter, gradient with momentum as a matrix) of everything that is made orthogonal, by shape."""
        found = defaultdict(list)
        for group in filter(_of_matrices, self.param_groups):
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())  # unused, but AdamW looks for it in whatever it loads
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(MOMENTUM).add_(parameter.grad)
                direction = (parameter.grad + MOMENTUM * state["momentum"]).flatten(1)
                found[direction.shape].append((group, parameter, direction))
        return found


def _of_matrices(group: dict[str, Any]) -> bool:
    return group["params"][0].ndim > 1

"""Gradients of turns: each reaches its own parameters alone, is reduced over ranks once a step, and only then weighed.

A computed weight is a ratio of gradients of the whole global batch. Therefore a term that has one keeps its gradient
apart, over all micro-batches and ranks, until both norms are known.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmig.training.terms import LossTerm, total_loss
from mmig.training.turns import Share


class Descent:
    """The gradient of the weighted sum of some terms by some parameters, added up over micro-batches.

    Args:
        parameters: that it reaches.
        weights: of its terms, by name.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weights: Mapping[str, float]) -> None:
        self.parameters, self.weights = parameters, weights
        self.gradients: list[Tensor | None] = [None] * len(parameters)

    def add(
        self,
        terms: Mapping[str, LossTerm],
        counts: Mapping[str, Tensor],
        backward: Callable[..., None],
        retain_graph: bool,
    ) -> None:
        """Add the gradient of a micro-batch; leaves `grad` of every parameter None.

        Args:
            terms: of the micro-batch, by name.
            counts: of the global batch, scalars by name.
            backward: takes the loss and the arguments of `Tensor.backward`.
            retain_graph: another backward of this micro-batch follows.
        """
        # of its own terms only, for through the others zeros would run, which an infinite slope makes NaN
        sums = torch.stack([(terms[name].values * terms[name].counts).sum() for name in self.weights])
        counted = torch.stack([counts[name] for name in self.weights])
        loss = total_loss(sums, counted, sums.new_tensor(list(self.weights.values())))
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        backward(loss, inputs=self.parameters, retain_graph=retain_graph)
        self.gradients = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None

    def filled(self) -> list[Tensor]:
        """The gradients; zeros, the same on every rank, where no term reaches a parameter."""
        pairs = zip(self.parameters, self.gradients, strict=True)
        self.gradients = [torch.zeros_like(p) if gradient is None else gradient for p, gradient in pairs]
        return self.gradients


class TurnDescents:
    """All gradients of one turn in one step: of its terms of fixed weight together, of each other term by itself.

    Args:
        share: of the turn.
        weights: fixed weights of the terms that are computed in this step, by name.
    """

    def __init__(self, share: Share, weights: Mapping[str, float]) -> None:
        self.share = share
        own = {name: weights[name] for name in share.losses if name in weights}
        parameters = list(share.parameters.values())
        self.fixed = Descent(parameters, {n: w for n, w in own.items() if n not in share.turn.computed_weights})
        self.weighed = {n: Descent(parameters, {n: 1.0}) for n in own if n in share.turn.computed_weights}
        self._weights = own

    def descents(self) -> list[Descent]:
        """Those that have terms in this step."""
        return [descent for descent in (self.fixed, *self.weighed.values()) if descent.weights]

    def join(self) -> dict[str, Tensor]:
        """Weigh the gradients, once they are those of the global batch, and put their sum into `grad`.

        Returns:
            The computed weights, scalars by the name of the term.
        """
        total, names, found = self.fixed.filled(), list(self.share.parameters), {}
        for name, descent in self.weighed.items():
            rule = self.share.turn.computed_weights[name]
            place = names.index(rule.parameter)
            found[name] = rule.of(self._weights[name], total[place], descent.filled()[place])
        for name, descent in self.weighed.items():
            torch._foreach_mul_(descent.filled(), found[name])
            torch._foreach_add_(total, descent.filled())
        for parameter, gradient in zip(self.fixed.parameters, total, strict=True):
            parameter.grad = gradient
        return found


def sum_over_ranks(descents: Iterable[Descent]) -> None:
    """Add up the gradients of all ranks in place, in one message a dtype; every rank must call it with the same ones.

    DDP's reducer cannot: it takes each parameter for ready once a step, after a single backward.
    """
    gradients = [gradient for descent in descents for gradient in descent.filled()]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        members = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in members])
        dist.all_reduce(flat)
        pieces = flat.split([gradient.numel() for gradient in members])
        torch._foreach_copy_(members, [piece.view(own.shape) for piece, own in zip(pieces, members, strict=True)])

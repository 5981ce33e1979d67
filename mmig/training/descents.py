"""Gradients of turns: each reaches its own parameters alone, is reduced over ranks once a step, and only then weighed.

A computed weight is a ratio of gradients of the whole global batch. Where a rank's part is one micro-batch, the two
gradients by one parameter are computed and reduced first, which is cheap near the end of a network; one backward
follows. Otherwise the term keeps its whole gradient apart until the last micro-batch.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmig.training.terms import LossTerm, total_loss
from mmig.training.turns import Share

Reduce = Callable[[Sequence[Tensor]], None]


class Descent:
    """The gradient of the weighted sum of some terms by some parameters, added up over micro-batches.

    Args:
        parameters: that it reaches.
        weights: of its terms, by name.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weights: Mapping[str, float]) -> None:
        self.parameters, self.weights = parameters, weights
        self.gradients: list[Tensor | None] = [None] * len(parameters)

    def loss(self, terms: Mapping[str, LossTerm], counts: Mapping[str, Tensor]) -> Tensor:
        """What a micro-batch adds to the sum, a scalar.

        Args:
            terms: of the micro-batch, by name.
            counts: of the global batch, scalars by name.
        """
        # of its own terms only, for through the others zeros would run, which an infinite slope makes NaN
        sums = torch.stack([(terms[name].values * terms[name].counts).sum() for name in self.weights])
        counted = torch.stack([counts[name] for name in self.weights])
        return total_loss(sums, counted, sums.new_tensor(list(self.weights.values())))

    def add(self, loss: Tensor, backward: Callable[..., None], retain_graph: bool) -> None:
        """Add the gradient of a loss; leaves `grad` of every parameter None.

        Args:
            loss: a scalar.
            backward: takes the loss and the arguments of `Tensor.backward`.
            retain_graph: another backward through the same graph follows.
        """
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
    """All gradients of one turn in one step.

    Args:
        share: of the turn.
        weights: fixed weights of the terms that are computed in this step, by name.
        whole: the rank's part of the batch is one micro-batch.
        reduce: adds up tensors over ranks in place, as `sum_over_ranks`.

    Attributes:
        computed: the weights that were computed, scalars by the name of the term.
        kept: gradients that add up over micro-batches.
    """

    def __init__(self, share: Share, weights: Mapping[str, float], whole: bool, reduce: Reduce) -> None:
        self.share, self.reduce = share, reduce
        self.weights = {name: weights[name] for name in share.losses if name in weights}
        self.computed: dict[str, Tensor] = {}
        parameters, rules = list(share.parameters.values()), share.turn.computed_weights
        self.fixed = Descent(parameters, {n: weight for n, weight in self.weights.items() if n not in rules})
        self.weighed = {n: Descent(parameters, {n: 1.0}) for n in self.weights if n in rules}
        self.weighs_first = whole and bool(self.weighed)
        self.kept = [self.fixed, *([] if self.weighs_first else self.weighed.values())]

    def losses(self, terms: Mapping[str, LossTerm], counts: Mapping[str, Tensor]) -> list[tuple[Descent, Tensor]]:
        """The losses of a micro-batch to go backward from, and where to add their gradients; see `Descent.loss`."""
        descents = (self.fixed, *self.weighed.values())
        losses = {descent: descent.loss(terms, counts) for descent in descents if descent.weights}
        return [(self.fixed, self._weighed(losses))] if self.weighs_first else list(losses.items())

    def join(self) -> None:
        """Put the gradients, which are those of the global batch by now, into `grad`, those of computed weight too."""
        total, names = self.fixed.filled(), list(self.share.parameters)
        if not self.weighs_first:
            found = {name: descent.filled() for name, descent in self.weighed.items()}
            places = {name: names.index(rule.parameter) for name, rule in self.share.turn.computed_weights.items()}
            self._compute({name: (total[places[name]], own[places[name]]) for name, own in found.items()})
            for name, own in found.items():
                torch._foreach_mul_(own, self.computed[name])
                torch._foreach_add_(total, own)
        for parameter, gradient in zip(self.fixed.parameters, total, strict=True):
            parameter.grad = gradient

    def _weighed(self, losses: Mapping[Descent, Tensor]) -> Tensor:
        """The sum of the whole batch's losses, with weights that are computed here."""
        pairs = {}
        for name, descent in self.weighed.items():
            parameter = self.share.parameters[self.share.turn.computed_weights[name].parameter]
            pairs[name] = tuple(_gradient(losses.get(each), parameter) for each in (self.fixed, descent))
        self.reduce([gradient for pair in pairs.values() for gradient in pair])
        self._compute(pairs)
        weighed = [self.computed[name] * losses[descent] for name, descent in self.weighed.items()]
        return torch.stack([*weighed, *([losses[self.fixed]] if self.fixed in losses else [])]).sum()

    def _compute(self, gradients: Mapping[str, tuple[Tensor, ...]]) -> None:
        """Compute the weights from (gradient of the others, the term's own) by the parameter of each rule."""
        for name, (others, own) in gradients.items():
            self.computed[name] = self.share.turn.computed_weights[name].of(self.weights[name], others, own)


def _gradient(loss: Tensor | None, parameter: nn.Parameter) -> Tensor:
    if loss is None:
        return torch.zeros_like(parameter)
    return torch.autograd.grad(loss, parameter, retain_graph=True, materialize_grads=True)[0]


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Add up over all ranks in place, in one message a dtype; every rank must call it with tensors of the same shapes.

    DDP's reducer cannot do it: it takes each parameter for ready after a single backward a step.
    """
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        members = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in members])
        dist.all_reduce(flat)
        pieces = flat.split([tensor.numel() for tensor in members])
        torch._foreach_copy_(members, [piece.view(own.shape) for piece, own in zip(pieces, members, strict=True)])

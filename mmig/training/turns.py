"""Turns: which parameters move down which loss terms, in which steps, each turn with an optimiser of its own.

Most methods have one turn that moves all parameters down all terms in every step. Adversarial training has two, and
what alternates between two sets of weights has two that are due in different steps.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

NAME = "main"
"""Of the turn of a module that declares none."""


@dataclass(frozen=True)
class ComputedWeight:
    """Weight that brings a term's gradient to the size of the others' (Esser et al. 2021, eq 7).

    It is the term's fixed weight times min(|g| / (|h| + eps), maximum): g the gradient of those of the turn's terms
    whose weights are fixed, h that of this term, of the whole global batch, both by one parameter.

    Attributes:
        parameter: its full name, commonly the kernel of the last layer that the turn moves, such as
            "vae.decoder.conv_out.weight".
        eps, maximum: see above.
    """

    parameter: str
    eps: float = 1e-4
    maximum: float = 1e4

    def of(self, fixed: float, others: Tensor, own: Tensor) -> Tensor:
        """The weight, a scalar that carries no gradient.

        Args:
            fixed: the term's fixed weight.
            others: g, of the parameter's shape.
            own: h, of that shape too.
        """
        ratio = others.float().norm() / (own.float().norm() + self.eps)  # (7)
        return fixed * ratio.clamp(max=self.maximum)


@dataclass(frozen=True)
class Turn:
    """One optimiser: what it moves, down which loss terms, and in which steps.

    Turns that are due in the same step share one forward, and move from the weights before it.

    Attributes:
        name: addresses it in `optimizer.groups` and in logs.
        parts: dotted prefixes of the names of the parameters that it moves; () = all that no other turn names.
        losses: names of the terms whose weighted sum it descends; () = all that no other turn names. A term may be in
            several turns.
        start: first step in which it is due, the run's first being 0; its learning rates count from there.
        every, offset: it is due where the step leaves `offset` when divided by `every`.
        computed_weights: of some of its terms, by name.

    Raises:
        ValueError: an impossible name or schedule.
    """

    name: str = NAME
    parts: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    start: int = 0
    every: int = 1
    offset: int = 0
    computed_weights: Mapping[str, ComputedWeight] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("./ "):
            raise ValueError(f"turn {self.name!r}: expected a name without dots, slashes and spaces")
        if self.start < 0 or not 0 <= self.offset < self.every:
            raise ValueError(
                f"turn {self.name!r}: expected start >= 0 and 0 <= offset < every, found start {self.start}, offset "
                f"{self.offset}, every {self.every}"
            )

    def due(self, step: int) -> bool:
        """Whether it acts in a step, the first being 0."""
        return step >= self.start and step % self.every == self.offset


def keeps_apart(turns: Sequence[Turn]) -> bool:
    """Whether gradients must be kept apart until the step's end, which takes a backward for each."""
    return len(turns) > 1 or any(turn.computed_weights for turn in turns)


class Share(NamedTuple):
    """What a turn got.

    Attributes:
        turn: the declaration.
        parameters: that it moves, by full name.
        losses: names of its terms.
    """

    turn: Turn
    parameters: dict[str, nn.Parameter]
    losses: tuple[str, ...]


def share_out(turns: Sequence[Turn], parameters: Mapping[str, nn.Parameter], losses: Sequence[str]) -> list[Share]:
    """Give every trainable parameter to one turn, and every loss term to one or more.

    Args:
        turns: as declared.
        parameters: that require a gradient, by full name.
        losses: names of all terms.

    Raises:
        ValueError: a parameter or term is nobody's, a parameter is moved by two turns, a turn gets nothing to move or
            to descend, it names what is not there, two have one name, or there are steps in which none is due.
    """
    names = [turn.name for turn in turns]
    if not turns or len(set(names)) < len(names):
        raise ValueError(f"turns: expected one or more with different names, found {', '.join(names) or 'none'}")
    owners = _owners(turns, parameters)
    descended = _losses(turns, losses)
    shares = []
    for turn in turns:
        own = {name: parameter for name, parameter in parameters.items() if owners[name] == turn.name}
        if not own or not descended[turn.name]:
            lacks = "a loss term to descend" if own else "a trainable parameter to move"
            raise ValueError(f"turn {turn.name!r}: expected {lacks}, found none: the other turns name them all")
        shares.append(Share(turn, own, descended[turn.name]))
    _check_weights(shares)
    for step in range(math.lcm(*(turn.every for turn in turns))):
        if not any(turn.due(step) for turn in turns):  # later steps have more turns than this one, never fewer
            raise ValueError(
                f"turns: none is due in step {step}; expected every step to have one: mend start or offset"
            )
    return shares


def _owners(turns: Sequence[Turn], parameters: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Name of each parameter's turn."""
    for turn, part in ((each, part) for each in turns for part in each.parts):
        if not any(within(name, (part,)) for name in parameters):
            raise ValueError(
                f"turn {turn.name!r}: no trainable parameter in {part!r}; this run trains {_some(parameters)}"
            )
    rest = [turn.name for turn in turns if not turn.parts]
    owners = {}
    for name in parameters:
        claims = [turn.name for turn in turns if within(name, turn.parts)] or rest
        if len(claims) != 1:
            found = f"{' and '.join(map(repr, claims))} both do" if claims else f"of {_quoted(turns)} none does"
            raise ValueError(f"turns: expected one turn to move parameter {name}, found that {found}: mend their parts")
        owners[name] = claims[0]
    return owners


def _losses(turns: Sequence[Turn], losses: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Names of each turn's terms, in the order of `losses`."""
    named = {name: turn.name for turn in turns for name in turn.losses}
    unknown = [name for name in named if name not in losses]
    if unknown:
        raise ValueError(f"turn {named[unknown[0]]!r}: no loss {unknown[0]!r}; loss_weights names {', '.join(losses)}")
    rest = tuple(name for name in losses if name not in named)
    if rest and all(turn.losses for turn in turns):
        raise ValueError(
            f"turns: loss {rest[0]!r} is in none of {_quoted(turns)}; every term needs a turn to descend it"
        )
    return {turn.name: tuple(name for name in losses if name in turn.losses) if turn.losses else rest for turn in turns}


def _check_weights(shares: Sequence[Share]) -> None:
    for turn, parameters, losses in shares:
        for loss, weight in turn.computed_weights.items():
            where = f"turn {turn.name!r}: computed weight of {loss!r}"
            if sum(loss in share.losses for share in shares) != 1 or loss not in losses:
                raise ValueError(f"{where}: expected a term of this turn alone, which has {', '.join(losses)}")
            if weight.parameter not in parameters:
                raise ValueError(
                    f"{where}: no parameter {weight.parameter!r} in this turn; it moves {_some(parameters)}"
                )
        if set(losses) <= turn.computed_weights.keys():
            raise ValueError(
                f"turn {turn.name!r}: all weights are computed; expected a term of fixed weight to compare with"
            )


def within(name: str, parts: Iterable[str]) -> bool:
    """Whether a parameter is in one of the parts, dotted prefixes of names."""
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return f"{len(names)}, such as {', '.join(names[:: math.ceil(len(names) / 4)])}"


def _quoted(turns: Sequence[Turn]) -> str:
    return ", ".join(repr(turn.name) for turn in turns)

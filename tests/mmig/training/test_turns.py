"""Declarations of turns: who moves what down which terms and when; what is impossible is named in one line."""

from typing import Any

import pytest
import torch
from torch import nn

from mmig.training.optim import OptimizerConfig, OptimizerGroup, grouped_by_turn
from mmig.training.turns import ComputedWeight, Turn, keeps_apart, share_out

PARAMETERS = {
    name: nn.Parameter(torch.zeros(1)) for name in ("coder.down", "coder.up", "coder_two.up", "critic.a", "critic.b")
}
LOSSES = ("rec", "gan", "hinge")


def shared(*turns: Turn) -> dict[str, tuple[list[str], tuple[str, ...]]]:
    return {turn.name: (list(members), losses) for turn, members, losses in share_out(turns, PARAMETERS, LOSSES)}


def test_a_single_turn_has_everything() -> None:
    assert shared(Turn()) == {"main": (list(PARAMETERS), LOSSES)}
    assert not keeps_apart([Turn()])


def test_what_no_turn_names_goes_to_the_one_that_names_nothing() -> None:
    found = shared(Turn("rest"), Turn("critic", ("critic",), ("hinge",)))
    assert found == {
        "rest": (["coder.down", "coder.up", "coder_two.up"], ("rec", "gan")),
        "critic": (["critic.a", "critic.b"], ("hinge",)),
    }
    assert keeps_apart([Turn("a"), Turn("b")]) and keeps_apart([Turn(computed_weights={"a": ComputedWeight("b")})])


def test_prefixes_end_at_a_dot_and_two_turns_may_descend_one_term() -> None:
    found = shared(Turn("one", ("coder",), LOSSES, every=2), Turn("two", losses=LOSSES, every=2, offset=1))
    assert found["one"] == (["coder.down", "coder.up"], LOSSES)
    assert found["two"] == (["coder_two.up", "critic.a", "critic.b"], LOSSES)


def test_schedules_keep_their_phase_whenever_they_start() -> None:
    turn = Turn(start=5, every=3, offset=1)
    assert [step for step in range(14) if turn.due(step)] == [7, 10, 13]


CRITIC = Turn("critic", ("critic",), ("hinge",))
BAD: dict[str, tuple[tuple[Turn, ...], str]] = {
    "none": ((), "one or more with different names, found none"),
    "twice one name": ((Turn("a", ("coder",)), Turn("a")), "different names, found a, a"),
    "no such part": (
        (Turn("a"), Turn("b", ("coder.dow",))),
        "turn 'b': no trainable parameter in 'coder.dow'; .* 5, such",
    ),
    "a part owned twice": (
        (Turn("a", ("critic", "coder", "coder_two")), Turn("b", ("critic.a",))),
        "one turn to move parameter critic.a, found that 'a' and 'b' both do",
    ),
    "the rest owned twice": ((Turn("a"), Turn("b")), "parameter coder.down, found that 'a' and 'b' both do"),
    "nobody's parameter": (
        (Turn("a", ("coder",)), CRITIC),
        "parameter coder_two.up, found that of 'a', 'critic' none does",
    ),
    "nothing to move": (
        (Turn("a", ("coder", "coder_two", "critic")), Turn("b")),
        "turn 'b': expected a trainable parameter to move, found none",
    ),
    "nothing to descend": (
        (Turn("a", ("coder", "coder_two"), LOSSES), Turn("b", ("critic",))),
        "turn 'b': expected a loss term to descend, found none",
    ),
    "no such loss": ((Turn("a"), Turn("b", ("critic",), ("hing",))), "turn 'b': no loss 'hing'; .*rec, gan, hinge"),
    "nobody's loss": ((Turn("a", losses=("rec",)), CRITIC), "loss 'gan' is in none of 'a', 'critic'"),
    "a weight by an unknown parameter": (
        (Turn("a", computed_weights={"gan": ComputedWeight("coder.middle")}), CRITIC),
        "computed weight of 'gan': no parameter 'coder.middle' in this turn; it moves 3, such as coder.down",
    ),
    "a weight by another turn's parameter": (
        (Turn("a", computed_weights={"gan": ComputedWeight("critic.a")}), CRITIC),
        "no parameter 'critic.a' in this turn",
    ),
    "a weight of another turn's term": (
        (Turn("a", computed_weights={"hinge": ComputedWeight("coder.up")}), CRITIC),
        "computed weight of 'hinge': expected a term of this turn alone, which has rec, gan",
    ),
    "a weight of a term of two turns": (
        (Turn("a", losses=LOSSES, computed_weights={"hinge": ComputedWeight("coder.up")}), CRITIC),
        "expected a term of this turn alone",
    ),
    "nothing to compare with": (
        (Turn("a", losses=("gan",), computed_weights={"gan": ComputedWeight("coder.up")}), Turn("b", ("critic",))),
        "turn 'a': all weights are computed",
    ),
    "idle steps": ((Turn("a", every=2), Turn("b", ("critic",), ("hinge",), every=4)), "none is due in step 1"),
    "idle at first": ((Turn(start=3),), "none is due in step 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_declaration_that_cannot_be_is_refused_in_one_line(case: str) -> None:
    turns, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        shared(*turns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"name": ""}, {"name": "a.b"}, {"start": -1}, {"every": 0}, {"offset": 1}])
def test_an_impossible_turn_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"turn '.*': expected"):
        Turn(**settings)


def test_the_computed_weight_is_equation_7_and_has_a_largest_value() -> None:
    rule = ComputedWeight("any", eps=0.5, maximum=10.0)
    others, own = torch.tensor([[3.0], [4.0]]), torch.tensor([[0.0], [2.0]])
    assert rule.of(0.8, others, own).item() == pytest.approx(0.8 * 5.0 / 2.5)
    assert rule.of(0.8, 100 * others, own).item() == pytest.approx(0.8 * 10.0)
    assert rule.of(0.8, others, 0 * own).item() == pytest.approx(0.8 * 10.0)
    assert rule.of(0.8, 0 * others, 0 * own).item() == 0.0


def grouped(*names: str) -> dict[str, dict[str, int]]:
    turns = {turn.name: members for turn, members, _ in share_out((Turn("rest"), CRITIC), PARAMETERS, LOSSES)}
    found = grouped_by_turn(turns, OptimizerConfig(groups={name: OptimizerGroup() for name in names}))
    return {turn: {name: len(members) for name, members in groups.items()} for turn, groups in found.items()}


def test_groups_are_named_by_prefix_or_turn_and_the_prefix_wins() -> None:
    assert grouped() == {"rest": {"": 3}, "critic": {"": 2}}
    assert grouped("rest", "coder.up") == {"rest": {"rest": 2, "coder.up": 1}, "critic": {"": 2}}
    assert grouped("critic") == {"rest": {"": 3}, "critic": {"critic": 2}}


def test_a_group_of_no_turn_and_no_parameter_is_named_with_the_turns() -> None:
    with pytest.raises(ValueError, match=r"'critics' gets no .* 5, such as coder.down.* its turn \(rest, critic\)"):
        grouped("critics")

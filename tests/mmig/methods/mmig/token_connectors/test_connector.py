"""What every kind of connector promises: masked states say nothing, rows without text pass, the size is matched."""

import pytest
import torch

from mmig.base.settings import RefusedSettingsError, instantiate
from mmig.diffusion.conditioning import Conditioning
from mmig.language.sequences import ResponseStates
from mmig.methods.mmig.token_connectors.connector import ConnectorSettings
from mmig.methods.mmig.token_connectors.queries import LearnedQueries
from mmig.methods.mmig.token_connectors.refiner import Refiner
from mmig.methods.mmig.token_connectors.scale import match_scale, square_sums
from tests.mmig.methods.mmig.token_connectors.support import KINDS, TEXT_DIM, TOKEN_DIM, inputs, make

EVERY = pytest.mark.parametrize("kind", KINDS)
MODULE = "mmig.methods.mmig.token_connectors"


def text(batch: int = 3, length: int = 6) -> torch.Tensor:
    return torch.randn(batch, length, TOKEN_DIM, generator=torch.Generator().manual_seed(2))


@EVERY
@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
def test_masked_states_have_no_influence(kind: str, garbage: float) -> None:
    states, mask, timesteps = inputs()
    connector = make(kind)
    clean = connector(states, mask, timesteps)
    dirty = connector(states.masked_fill(~mask.unsqueeze(-1), garbage), mask, timesteps)
    assert all(torch.equal(before, after) for before, after in zip(clean, dirty, strict=True))


@EVERY
def test_a_sample_depends_on_neither_its_batch_nor_padding(kind: str) -> None:
    states, mask, timesteps = inputs()
    connector = make(kind)
    tokens, counts = connector(states, mask, timesteps)
    alone, own = connector(states[1:2, :2], mask[1:2, :2], timesteps[1:2])
    torch.testing.assert_close(alone[own], tokens[1:2][counts[1:2]], rtol=0, atol=1e-5)


@EVERY
def test_of_a_row_without_text_no_token_counts_and_nothing_is_left(kind: str) -> None:
    states, mask, timesteps = inputs()
    mask[1] = False
    tokens, counts = make(kind)(states, mask, timesteps)
    assert counts.any(dim=1).tolist() == [True, False, True]
    assert not tokens[1].any() and tokens.isfinite().all() and tokens[0].any()


@EVERY
@pytest.mark.parametrize("place", ["replace", "append"])
def test_rows_without_text_or_switched_off_keep_their_condition(kind: str, place: str) -> None:
    states, mask, timesteps = inputs()
    mask[1] = False
    connector, own = make(kind, place=place), text()
    active = torch.tensor([True, True, False])
    found = connector.condition(Conditioning(own), ResponseStates(states, mask), timesteps, active)
    for row in (1, 2):
        assert torch.equal(found.tokens[row][found.mask[row]], own[row])
    tokens, counts = connector(states, mask, timesteps)
    kept = [own[0]] if place == "append" else []
    assert torch.equal(found.tokens[0][found.mask[0]], torch.cat([*kept, tokens[0][counts[0]]]))


def test_a_mask_of_the_text_is_kept() -> None:
    states, mask, timesteps = inputs()
    shown = torch.arange(6).expand(3, -1) < 4
    for place in ("replace", "append"):
        connector = make("uniworld", place=place)
        condition = Conditioning(text(), mask=shown)
        found = connector.condition(condition, ResponseStates(states, mask), timesteps, torch.zeros(3))
        assert found.mask.sum(dim=1).tolist() == [4, 4, 4]


@EVERY
def test_a_batch_without_text_gives_zero_gradients_not_none(kind: str) -> None:
    states, mask, timesteps = inputs()
    connector = make(kind)
    condition = connector.condition(Conditioning(text()), ResponseStates(states, mask & False), timesteps)
    condition.tokens.square().sum().backward()
    for name, parameter in connector.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


@EVERY
def test_the_size_is_that_of_the_text_states_once_it_is_matched(kind: str) -> None:
    states, mask, timesteps = inputs()
    connector, own = make(kind), 3 * text()
    shown = torch.ones(3, 6, dtype=torch.bool)
    made, counts = connector(states, mask, timesteps)
    match_scale(connector, (square_sums(made, counts), square_sums(own, shown)), lambda part: part)
    tokens, counts = connector(states, mask, timesteps)
    size = tokens[counts].square().mean().sqrt()
    assert abs(size / made[counts].square().mean().sqrt() - 1) > 0.1
    torch.testing.assert_close(size, own.square().mean().sqrt(), rtol=1e-5, atol=0)


def test_sums_go_over_the_ranks_and_nothing_to_measure_leaves_the_size() -> None:
    states, mask, timesteps = inputs()
    whole, halves = make("uniworld"), make("uniworld")
    tokens, counts = whole(states, mask, timesteps)
    shown = torch.ones(3, 6, dtype=torch.bool)
    match_scale(whole, (square_sums(tokens, counts), square_sums(text(), shown)), lambda part: part)
    first = (square_sums(tokens[:1], counts[:1]), square_sums(text()[:1], shown[:1]))
    second = iter((square_sums(tokens[1:], counts[1:]), square_sums(text()[1:], shown[1:])))
    match_scale(halves, first, lambda part: part + next(second))
    torch.testing.assert_close(halves.scale, whole.scale)
    before, nothing = halves.scale.clone(), square_sums(tokens, counts & False)
    match_scale(halves, (nothing, nothing), lambda part: part)
    assert torch.equal(halves.scale, before)


@EVERY
def test_settings_are_what_their_section_says(kind: str) -> None:
    section = KINDS[kind].as_section()
    assert instantiate(ConnectorSettings, section) == KINDS[kind]
    built = KINDS[kind].build(TEXT_DIM, TOKEN_DIM)
    assert built.settings is KINDS[kind]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"class_path": f"{MODULE}.mlp.MLP", "init_args": {"hiden": 3}}, "hiden"),
        ({"class_path": f"{MODULE}.mlp.MLP", "init_args": {"place": "beside"}}, "place"),
        ({"class_path": f"{MODULE}.mlp.Mlp"}, "Mlp"),
        ({"class_path": "torch.nn.Linear"}, "Linear"),
    ],
)
def test_a_section_that_cannot_be_used_is_refused_in_a_line(section: dict, said: str) -> None:
    with pytest.raises(RefusedSettingsError, match=said) as caught:
        instantiate(ConnectorSettings, section)
    assert "\n" not in str(caught.value)


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"connector\.heads: expected a divisor of connector\.dim = 30, found 4"):
        Refiner(dim=30, heads=4)
    with pytest.raises(ValueError, match=r"connector\.number: expected a whole number of at least 1, found 0"):
        LearnedQueries(number=0)
    with pytest.raises(ValueError, match=r"connector\.hidden: expected a whole number of at least 1"):
        instantiate(ConnectorSettings, {"class_path": f"{MODULE}.mlp.MLP", "init_args": {"hidden": 0}})

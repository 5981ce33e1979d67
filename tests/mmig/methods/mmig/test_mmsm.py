"""MMSM: the numeric checks of the equations, and what a text mask promises."""

import pytest
import torch
from torch import Tensor

from mmig.methods.mmig.mmsm import MMSM, alignment_loss, num_groups

TEXT_DIM, CHANNELS, DIM = 24, 64, 16


def make(seed: int = 0, *, trained: bool = False) -> MMSM:
    """A small module; `trained` gives the zero-initialised last layer some weights."""
    torch.manual_seed(seed)
    mmsm = MMSM(TEXT_DIM, CHANNELS, DIM, heads=4)
    if trained:
        torch.nn.init.normal_(mmsm.feature_decoder[-1].weight, std=0.1)
    return mmsm


def inputs(batch: int = 3, length: int = 7, height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Feature map, text states and a mask of rows with 1, 2, ... valid tokens."""
    generator = torch.Generator().manual_seed(1)
    feature_map = torch.randn(batch, CHANNELS, height, width, generator=generator)
    text_states = torch.randn(batch, length, TEXT_DIM, generator=generator)
    mask = torch.arange(length) <= torch.arange(batch).unsqueeze(1)
    return feature_map, text_states, mask


def test_parameter_count_at_the_published_sizes() -> None:
    with torch.device("meta"):
        mmsm = MMSM(4096, 1280, 768, 8)
    assert sum(parameter.numel() for parameter in mmsm.parameters()) == 18_699_776


def test_a_new_module_changes_nothing() -> None:
    feature_map, text_states, mask = inputs()
    mixed = make()(feature_map, text_states, mask).feature_map
    assert torch.equal(mixed, feature_map)


def test_a_trained_module_changes_the_feature_map() -> None:
    feature_map, text_states, mask = inputs()
    mixed = make(trained=True)(feature_map, text_states, mask).feature_map
    assert (mixed - feature_map).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_attention_is_torchs_after_the_two_norms() -> None:
    """Eq 11: features ask and text answers; the last row's padding is hidden."""
    mmsm, mask = make(trained=True), torch.tensor([[True] * 7, [True] * 7, [True] * 3 + [False] * 4])
    ours, theirs = mmsm.cross_attention, torch.nn.MultiheadAttention(DIM, 4, batch_first=True)
    with torch.no_grad():
        for norm in (ours.query_norm, ours.text_norm):
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
        projections = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in projections]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in projections]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    source = torch.Generator().manual_seed(3)
    features, text = torch.randn(3, 12, DIM, generator=source), torch.randn(3, 7, DIM, generator=source)
    told = ours.text_norm(text)
    expected, _ = theirs(ours.query_norm(features), told, told, key_padding_mask=~mask)
    torch.testing.assert_close(ours(features, text, mask), expected, rtol=0, atol=1e-6)


def test_what_is_added_is_the_decoded_answer() -> None:
    """Eq 9-12 one after the other: e6 - e1 = DD(e4) with e4 on the grid of e2."""
    feature_map, text_states, mask = inputs(2, 7, 6, 10)
    mmsm = make(trained=True)
    e6 = mmsm(feature_map, text_states, mask).feature_map
    for row in range(2):
        e3 = mmsm.text_encoder(text_states[row : row + 1, mask[row]])
        e2 = mmsm.feature_encoder(feature_map[row : row + 1]).flatten(2).transpose(1, 2)
        e4 = mmsm.cross_attention(e2, e3, torch.ones(1, e3.shape[1], dtype=torch.bool))
        change = mmsm.feature_decoder(e4.transpose(1, 2).reshape(1, DIM, 6, 10))
        torch.testing.assert_close(e6[row] - feature_map[row], change[0], rtol=0, atol=1e-5)
        assert change.abs().max() > 1e-3


def test_the_text_decides_the_change() -> None:
    feature_map, text_states, mask = inputs()
    mmsm = make(trained=True)
    mixed = mmsm(feature_map, text_states, mask).feature_map
    shuffled = mmsm(feature_map, text_states.roll(1, dims=0), mask).feature_map
    assert (mixed - shuffled).abs().max() > 1e-4


@pytest.mark.parametrize("garbage", [0.0, 1e4, float("nan"), float("inf")])
def test_masked_positions_have_no_influence(garbage: float) -> None:
    feature_map, text_states, mask = inputs()
    mmsm = make(trained=True)
    clean = mmsm(feature_map, text_states, mask)
    dirty = mmsm(feature_map, text_states.masked_fill(~mask.unsqueeze(-1), garbage), mask)
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before, after)


def test_more_padding_on_either_side_changes_nothing() -> None:
    feature_map, text_states, mask = inputs()
    mmsm = make(trained=True)
    expected = mmsm(feature_map, text_states, mask)
    for pad in ((0, 5), (5, 0)):
        longer = torch.nn.functional.pad(text_states, (0, 0, *pad), value=3.0)
        found = mmsm(feature_map, longer, torch.nn.functional.pad(mask, pad))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_equation_13_with_numbers() -> None:
    text, features = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 2.0, 5.0]])
    torch.testing.assert_close(0.5 * (text - features).square(), torch.tensor([[0.5, 0.0, 2.0]]))
    torch.testing.assert_close(alignment_loss(text, features), torch.tensor([2.5 / 3]))


def test_the_loss_is_equation_13_of_pooled_encodings() -> None:
    feature_map, text_states, mask = inputs()
    mmsm = make()
    loss = mmsm(feature_map, text_states, mask).alignment_loss
    features = mmsm.feature_encoder(feature_map).mean(dim=(2, 3))
    for row in range(len(mask)):
        text = mmsm.text_encoder(text_states[row, mask[row]]).mean(dim=0)
        torch.testing.assert_close(loss[row], (text - features[row]).square().mean() / 2)


def test_the_pooled_encodings_are_what_the_loss_compares() -> None:
    output = make()(*inputs())
    torch.testing.assert_close(output.alignment_loss, alignment_loss(output.pooled_text, output.pooled_map))


def test_the_loss_is_float32_under_bf16_autocast() -> None:
    feature_map, text_states, mask = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        loss = make()(feature_map, text_states, mask).alignment_loss
    assert loss.dtype == torch.float32


def test_a_half_precision_denoiser_keeps_its_type() -> None:
    feature_map, text_states, mask = inputs()
    mixed, loss, *_ = make(trained=True)(feature_map.bfloat16(), text_states.bfloat16(), mask)
    assert (mixed.dtype, loss.dtype) == (torch.bfloat16, torch.float32)


def test_a_row_without_text_passes_unchanged_with_loss_zero() -> None:
    feature_map, text_states, mask = inputs()
    mask[1] = False
    mixed, loss, *_ = make(trained=True)(feature_map, text_states, mask)
    assert torch.equal(mixed[1], feature_map[1])
    assert loss[1] == 0
    assert loss[0] > 0
    assert not torch.equal(mixed[0], feature_map[0])


def test_a_batch_without_text_gives_zero_gradients_not_none() -> None:
    feature_map, text_states, mask = inputs()
    mmsm = make(trained=True)
    mixed, loss, *_ = mmsm(feature_map, text_states, torch.zeros_like(mask))
    (mixed.square().mean() + loss.mean()).backward()
    for name, parameter in mmsm.named_parameters():
        assert parameter.grad is not None, name
        assert torch.equal(parameter.grad, torch.zeros_like(parameter)), name


def test_the_alignment_loss_alone_trains_neither_attention_nor_decoder() -> None:
    mmsm = make(trained=True)
    mmsm(*inputs()).alignment_loss.mean().backward()
    for part in (mmsm.cross_attention, mmsm.feature_decoder):
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in part.parameters())
    for part in (mmsm.text_encoder, mmsm.feature_encoder):
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())


def test_gradients_reach_text_states_and_feature_map() -> None:
    feature_map, text_states, mask = inputs()
    feature_map.requires_grad_()
    text_states.requires_grad_()
    mixed, loss, *_ = make(trained=True)(feature_map, text_states, mask)
    (mixed.square().mean() + loss.mean()).backward()
    assert feature_map.grad.abs().min() > 0
    reached = text_states.grad.abs().sum(dim=-1) > 0
    assert torch.equal(reached, mask)


@pytest.mark.parametrize("length", [1, 77])
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (1, 1)])
def test_any_text_length_and_any_size(length: int, size: tuple[int, int]) -> None:
    feature_map, text_states, mask = inputs(2, length, *size)
    mixed, loss, *_ = make()(feature_map, text_states, mask)
    assert mixed.shape == feature_map.shape
    assert loss.shape == (2,)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    feature_map, text_states, mask = inputs()
    mmsm = make(trained=True)
    mixed, loss, *_ = mmsm(feature_map, text_states, mask)
    alone, alone_loss, *_ = mmsm(feature_map[1:2], text_states[1:2], mask[1:2])
    torch.testing.assert_close((alone[0], alone_loss[0]), (mixed[1], loss[1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(1280, 32), (64, 32), (48, 24), (40, 20), (7, 7)])
def test_narrow_features_take_fewer_groups(channels: int, groups: int) -> None:
    assert num_groups(channels) == groups


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"mmsm.heads: expected a divisor of mmsm.dim = 10, found 4"):
        MMSM(8, 8, 10, 4)

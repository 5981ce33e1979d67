"""MMSMs attached to a real (tiny, random) diffusers UNet by module path."""

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from mmig.diffusion.injection import InjectionError, inject
from mmig.methods.mmig.mmsm import MMSM

TEXT_DIM, COND_DIM = 24, 16


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=COND_DIM,
        attention_head_dim=16,
    )
    return model.requires_grad_(False).eval()


@pytest.fixture
def mmsm() -> MMSM:
    torch.manual_seed(1)
    return MMSM(TEXT_DIM, 64, 32, heads=4)


def trained(mmsm: MMSM) -> MMSM:
    nn.init.normal_(mmsm.feature_decoder[-1].weight, std=0.1)
    return mmsm


def draw(batch: int = 3, size: tuple[int, int] = (16, 16)) -> tuple[Callable[[nn.Module], Tensor], Tensor, Tensor]:
    """A call of the UNet with fixed inputs, text states and their mask."""
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(batch, 4, *size, generator=generator)
    tokens = torch.randn(batch, 5, COND_DIM, generator=generator)
    text_states = torch.randn(batch, 7, TEXT_DIM, generator=generator)
    mask = torch.arange(7) <= torch.arange(batch).unsqueeze(1)
    return lambda model: model(latents, 500, tokens).sample, text_states, mask


def test_a_new_module_changes_nothing(unet: UNet2DConditionModel, mmsm: MMSM) -> None:
    call, text_states, mask = draw()
    expected = call(unet)
    with inject(unet, {"mid_block": mmsm}, text_states, mask):
        found = call(unet)
    assert torch.equal(found, expected)


def test_a_trained_module_reaches_the_output(unet: UNet2DConditionModel, mmsm: MMSM) -> None:
    call, text_states, mask = draw()
    expected = call(unet)
    with inject(unet, {"mid_block": trained(mmsm)}, text_states, mask) as result:
        found = call(unet)
    assert (found - expected).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    assert result.alignment_loss.shape == (3,)
    (output,) = result.outputs.values()
    assert output.pooled_text.shape == output.pooled_map.shape == (3, 32)


def test_inactive_rows_pass_unchanged(unet: UNet2DConditionModel, mmsm: MMSM) -> None:
    call, text_states, mask = draw()
    expected = call(unet)
    active = torch.tensor([True, False, True])
    with inject(unet, {"mid_block": trained(mmsm)}, text_states, mask, active) as result:
        found = call(unet)
    assert torch.equal(found[1], expected[1])
    assert not torch.equal(found[0], expected[0])
    assert result.alignment_loss[1] == 0


def test_nothing_stays_attached_after_the_block_or_an_error(unet: UNet2DConditionModel, mmsm: MMSM) -> None:
    call, text_states, mask = draw()
    expected = call(unet)
    with pytest.raises(RuntimeError, match="inside"), inject(unet, {"mid_block": trained(mmsm)}, text_states, mask):
        raise RuntimeError("inside")
    assert torch.equal(call(unet), expected)


def test_both_losses_train_every_parameter_within_two_steps_and_none_of_the_unet(
    unet: UNet2DConditionModel, mmsm: MMSM
) -> None:
    call, text_states, mask = draw()
    optimizer = torch.optim.SGD(mmsm.parameters(), lr=1.0)
    reached: set[str] = set()
    for _ in range(2):
        with inject(unet, {"mid_block": mmsm}, text_states, mask) as result:
            loss = (call(unet) - 1).square().mean() + result.alignment_loss.mean()
        optimizer.zero_grad()
        loss.backward()
        reached |= {name for name, parameter in mmsm.named_parameters() if parameter.grad.any()}
        optimizer.step()
    # A key's bias shifts all scores of a query alike: its true gradient is zero, by the softmax.
    assert reached | {"cross_attention.key.bias"} == {name for name, _ in mmsm.named_parameters()}
    assert all(parameter.grad is None for parameter in unet.parameters())


def test_gradient_checkpointing_calls_the_module_once_and_changes_no_gradient(
    unet: UNet2DConditionModel, mmsm: MMSM
) -> None:
    call, text_states, mask = draw()
    calls: list[int] = []
    trained(mmsm).register_forward_hook(lambda *_: calls.append(1))

    def gradients() -> list[Tensor]:
        mmsm.zero_grad()
        with inject(unet, {"mid_block": mmsm}, text_states, mask) as result:
            loss = call(unet).square().mean() + result.alignment_loss.mean()
        loss.backward()
        return [parameter.grad.clone() for parameter in mmsm.parameters()]

    plain = gradients()
    unet.enable_gradient_checkpointing()
    unet.train()
    torch.testing.assert_close(gradients(), plain)
    assert len(calls) == 2


def test_several_locations_average_their_losses(unet: UNet2DConditionModel, mmsm: MMSM) -> None:
    call, text_states, mask = draw()
    modules = {"mid_block": mmsm, "down_blocks.1": MMSM(TEXT_DIM, 64, 32, 4), "up_blocks.0": MMSM(TEXT_DIM, 64, 32, 4)}
    with inject(unet, modules, text_states, mask) as result:
        call(unet)
    losses = torch.stack([output.alignment_loss for output in result.outputs.values()])
    assert set(result.outputs) == set(modules)
    torch.testing.assert_close(result.alignment_loss, losses.mean(dim=0))


def test_other_latent_sizes(unet: UNet2DConditionModel, mmsm: MMSM) -> None:
    call, text_states, mask = draw(2, (12, 20))
    with inject(unet, {"mid_block": mmsm}, text_states, mask):
        assert call(unet).shape == (2, 4, 12, 20)


class TokenBlock(nn.Module):
    """Stands for a block of a diffusion transformer: tokens in, tokens out."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens


@pytest.mark.parametrize(("num_tokens", "grid"), [(16, None), (24, (4, 6))])
def test_token_features_are_mixed_on_their_grid(mmsm: MMSM, num_tokens: int, grid: tuple[int, int] | None) -> None:
    model = nn.ModuleDict({"block": TokenBlock()})
    tokens, text_states = torch.randn(2, num_tokens, 64), torch.randn(2, 3, TEXT_DIM)
    mask = torch.ones(2, 3)
    with inject(model, {"block": trained(mmsm)}, text_states, mask, grid=grid) as result:
        found = model["block"](tokens)
    feature_map = tokens.transpose(1, 2).unflatten(2, grid or (4, 4))
    expected, loss, *_ = mmsm(feature_map, text_states, mask)
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2))
    torch.testing.assert_close(result.alignment_loss, loss)


def test_pooled_std_sees_a_collapse_and_ignores_inactive_rows(unet: UNet2DConditionModel, mmsm: MMSM) -> None:
    call, text_states, mask = draw()
    with inject(unet, {"mid_block": mmsm}, text_states, mask, torch.tensor([True, False, True])) as result:
        call(unet)
    rows = torch.tensor([0, 2])
    text_std, features_std = result.pooled_std()
    torch.testing.assert_close(text_std, result.outputs["mid_block"].pooled_text[rows].std(dim=0).mean())
    torch.testing.assert_close(features_std, result.outputs["mid_block"].pooled_map[rows].std(dim=0).mean())
    nn.init.zeros_(mmsm.text_encoder[-1].weight)
    with inject(unet, {"mid_block": mmsm}, text_states, mask) as result:
        call(unet)
    assert result.pooled_std()[0] < 1e-6


def test_pooled_std_of_one_row_is_unknown(unet: UNet2DConditionModel, mmsm: MMSM) -> None:
    call, text_states, mask = draw(1)
    with inject(unet, {"mid_block": mmsm}, text_states, mask) as result:
        call(unet)
    assert result.pooled_std()[0].isnan()


def test_a_wrong_location_names_the_parts(unet: UNet2DConditionModel, mmsm: MMSM) -> None:
    _, text_states, mask = draw()
    message = (
        r"mmsm location 'middle': UNet2DConditionModel has no such module; the nearest is 'mid_block' "
        r"\(its parts are conv_in.*mid_block"
    )
    with pytest.raises(InjectionError, match=message), inject(unet, {"middle": mmsm}, text_states, mask):
        pass


@pytest.mark.parametrize(
    ("module", "rows", "message"),
    [
        (MMSM(TEXT_DIM, 32, 32, 4), 3, "channels of the feature map: expected 32, found 64"),
        (MMSM(TEXT_DIM + 1, 64, 32, 4), 3, "width of the text states: expected 25, found 24"),
        (MMSM(TEXT_DIM, 64, 32, 4), 2, "rows of text states for the denoiser's batch: expected 3, found 2"),
    ],
)
def test_what_does_not_fit_is_named(unet: UNet2DConditionModel, module: MMSM, rows: int, message: str) -> None:
    call, text_states, mask = draw()
    with (
        pytest.raises(InjectionError, match=f"mmsm location 'mid_block': {message}"),
        inject(unet, {"mid_block": module}, text_states[:rows], mask[:rows]),
    ):
        call(unet)


def test_results_before_a_forward_pass_are_an_error(unet: UNet2DConditionModel, mmsm: MMSM) -> None:
    _, text_states, mask = draw()
    with (
        inject(unet, {"mid_block": mmsm}, text_states, mask) as result,
        pytest.raises(InjectionError, match="no location was reached yet"),
    ):
        _ = result.alignment_loss


def test_tokens_that_fit_no_grid_are_an_error(mmsm: MMSM) -> None:
    model = nn.ModuleDict({"block": TokenBlock()})
    with (
        inject(model, {"block": mmsm}, torch.randn(1, 3, TEXT_DIM), torch.ones(1, 3)),
        pytest.raises(InjectionError, match=r"24 tokens are no 4x4 grid; give `grid` as \(h, w\)"),
    ):
        model["block"](torch.randn(1, 24, 64))

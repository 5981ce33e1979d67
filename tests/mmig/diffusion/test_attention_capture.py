"""Cross-attention taken from running UNets: the small world's sizes with random weights, and Stable Diffusion's."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from mmig.diffusion.attention import AttentionError, capture_attention
from tests.mmig.diffusion.tiny_attention import LENGTH, TEXT_DIM, Inputs, build_unet

# the UNet of the small world attends at 16x16 and 8x8
AT_16 = tuple(
    f"{block}.transformer_blocks.0.attn2"
    for block in ("down_blocks.0.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1")
)
AT_8 = tuple(
    f"{block}.transformer_blocks.0.attn2"
    for block in (
        "down_blocks.1.attentions.0",
        "mid_block.attentions.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    )
)


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return build_unet()


def through_heads(layer: nn.Module, probabilities: Tensor, values: Tensor) -> Tensor:
    """Output of an attention layer from its probabilities: what SDPA leads to."""
    split = layer.to_v(values).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    return layer.to_out[0]((probabilities @ split).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("resolution", "expected"), [((16, 16), AT_16), ((8, 8), AT_8)])
def test_only_the_layers_of_one_resolution_are_captured(
    unet: UNet2DConditionModel, resolution: tuple[int, int], expected: tuple[str, ...]
) -> None:
    with capture_attention(unet, resolution) as capture:
        Inputs()(unet)
    assert capture.layers == expected
    positions = resolution[0] * resolution[1]
    probabilities = capture.probabilities()
    assert {tuple(value.shape) for value in probabilities.values()} == {(2, 4, positions, LENGTH)}
    for value in probabilities.values():
        torch.testing.assert_close(value.sum(dim=-1), torch.ones(2, 4, positions), atol=3e-7, rtol=0)


def test_the_trained_tiny_unet_has_layers_at_both_resolutions(root: Path) -> None:
    config = UNet2DConditionModel.load_config(root / "assets/tiny/stable-diffusion/unet")
    model = UNet2DConditionModel.from_config(config)
    tokens = torch.randn(1, 77, config["cross_attention_dim"])
    for resolution, down, up in (((16, 16), 0, 2), ((8, 8), 1, 1)):
        blocks = (f"down_blocks.{down}.attentions.0", f"up_blocks.{up}.attentions.0", f"up_blocks.{up}.attentions.1")
        expected = tuple(f"{block}.transformer_blocks.0.attn2" for block in blocks)
        with torch.no_grad(), capture_attention(model, resolution) as capture:
            model(torch.randn(1, 4, 16, 16), 10, tokens)
        assert capture.layers == expected


def test_stable_diffusion_has_five_layers_at_16x16() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            layers_per_block=2,
            attention_head_dim=8,
            cross_attention_dim=768,
        )
        assert sum(name.endswith("attn2") for name, _ in unet.named_modules()) == 16
        with torch.no_grad(), capture_attention(unet, (16, 16)) as capture:
            unet(torch.empty(1, 4, 64, 64), torch.empty(1), torch.empty(1, 77, 768))
    places = [f"down_blocks.2.attentions.{n}" for n in range(2)] + [f"up_blocks.1.attentions.{n}" for n in range(3)]
    assert capture.layers == tuple(f"{place}.transformer_blocks.0.attn2" for place in places)


def test_probabilities_lead_to_what_sdpa_computes(unet: UNet2DConditionModel) -> None:
    inputs, outputs = Inputs(), {}
    handles = [
        unet.get_submodule(name).register_forward_hook(lambda _m, _i, output, name=name: outputs.update({name: output}))
        for name in AT_16
    ]
    with capture_attention(unet, (16, 16)) as capture:
        inputs(unet)
    for handle in handles:
        handle.remove()
    for name, probabilities in capture.probabilities().items():
        found = through_heads(unet.get_submodule(name), probabilities, inputs.tokens)
        assert outputs[name].abs().mean() > 1e-2
        torch.testing.assert_close(found, outputs[name], atol=1e-6, rtol=0)


def test_probabilities_equal_those_of_the_explicit_processor(unet: UNet2DConditionModel) -> None:
    inputs = Inputs()
    inputs.mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1, 1]]).bool()
    scores: list[Tensor] = []

    class Explicit(AttnProcessor):
        """Diffusers' own processor without SDPA, listening to what it computes."""

        def __call__(self, attn: nn.Module, hidden_states: Tensor, **named: Tensor) -> Tensor:
            original = attn.get_attention_scores

            def listen(*args: Tensor) -> Tensor:
                scores.append(original(*args))
                return scores[-1]

            attn.get_attention_scores = listen
            result = super().__call__(attn, hidden_states, **named)
            del attn.get_attention_scores
            return result

    for name in AT_16:
        unet.get_submodule(name).set_processor(Explicit())
    with capture_attention(unet, (16, 16)) as capture:  # whatever processor is there
        inputs(unet)
    for expected, found in zip(scores, capture.probabilities().values(), strict=True):
        torch.testing.assert_close(found.flatten(0, 1), expected, atol=1e-6, rtol=0)


def test_tokens_outside_the_mask_get_nothing(unet: UNet2DConditionModel) -> None:
    inputs = Inputs()
    inputs.mask = torch.arange(LENGTH).expand(2, -1) < torch.tensor([[3], [LENGTH]])
    with capture_attention(unet, (16, 16)) as capture:
        inputs(unet)
    average = capture.average()
    assert average[0, 3:].abs().max() == 0
    torch.testing.assert_close(average[0, :3].sum(dim=0), torch.ones(16, 16))
    assert average[1].amin(dim=(1, 2)).min() > 0


def test_the_average_is_over_layers_and_heads(unet: UNet2DConditionModel) -> None:
    with capture_attention(unet, (16, 16)) as capture:
        Inputs()(unet)
    layers = [value.detach().numpy() for value in capture.probabilities().values()]
    expected = sum(value.mean(axis=1) for value in layers) / len(layers)
    average = capture.average()
    assert average.shape == (2, LENGTH, 16, 16)
    for token, y, x in ((0, 0, 0), (3, 2, 11), (6, 15, 1)):
        assert average[1, token, y, x].item() == pytest.approx(expected[1, 16 * y + x, token], abs=1e-7)


def test_oblong_images(unet: UNet2DConditionModel) -> None:
    with capture_attention(unet, (6, 8)) as capture:
        Inputs(size=(12, 16))(unet)
    assert capture.layers == AT_8
    assert capture.average().shape == (2, LENGTH, 6, 8)


def test_rows_of_a_batch_are_apart(unet: UNet2DConditionModel) -> None:
    inputs = Inputs(batch=3)
    with capture_attention(unet, (16, 16)) as capture:
        inputs(unet)
        together = capture.average()
        inputs(unet, slice(1, 2))
    torch.testing.assert_close(together[1:2], capture.average(), atol=1e-6, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_guidance_takes_the_rows_of_the_conditional_branch(unet: UNet2DConditionModel) -> None:
    inputs = Inputs(batch=4)
    with capture_attention(unet, (16, 16)) as capture:
        inputs(unet)
    assert torch.equal(capture.average(slice(2, 4)), capture.average()[2:4])
    assert all(value.shape[0] == 2 for value in capture.probabilities(slice(0, 2)).values())


def test_the_output_is_the_same_to_the_bit_inside_and_after(unet: UNet2DConditionModel) -> None:
    inputs = Inputs()
    before, processors = inputs(unet), {name: type(value) for name, value in unet.attn_processors.items()}
    with capture_attention(unet, (16, 16)):
        inside = inputs(unet)
    assert torch.equal(inside, before)
    assert torch.equal(inputs(unet), before)
    assert {name: type(value) for name, value in unet.attn_processors.items()} == processors
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_hooks_go_when_the_forward_pass_fails(unet: UNet2DConditionModel) -> None:
    with pytest.raises(RuntimeError), capture_attention(unet, (16, 16)):
        unet(torch.randn(1, 4, 16, 16), 1, torch.randn(1, LENGTH, TEXT_DIM + 1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_the_last_forward_pass_counts_and_nothing_grows(unet: UNet2DConditionModel) -> None:
    inputs = Inputs()
    with torch.no_grad(), capture_attention(unet, (16, 16)) as capture:
        inputs(unet)
        first = capture.average()
        for _ in range(9):
            inputs.tokens = inputs.tokens + 0.5
            inputs(unet)
        assert len(capture.layers) == 3
        assert (capture.average() - first).abs().max() > 1e-3
        # another size: nothing of the pass before is left
        inputs.latents = inputs.latents[..., :8, :8]
        inputs(unet)
        with pytest.raises(AttentionError, match=r"16x16: .* 256 queries; .* 16 \(4 layers\), 64 \(3 layers\)"):
            capture.average()


def test_half_precision_forward_gives_float32_maps(unet: UNet2DConditionModel) -> None:
    inputs = Inputs()
    with capture_attention(unet, (16, 16)) as capture:
        inputs(unet)
        expected = capture.average()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inputs(unet)
            found = capture.average()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 16, 16), atol=1e-6, rtol=0)
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_what_cannot_be_captured_is_named(unet: UNet2DConditionModel) -> None:
    with capture_attention(unet, (16, 16)) as capture, pytest.raises(AttentionError, match="run the denoiser first"):
        capture.average()
    plain = UNet2DModel(
        block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), layers_per_block=1
    )
    with pytest.raises(AttentionError, match="UNet2DModel has no cross-attention layer named attn2"):
        capture_attention(plain, (16, 16)).__enter__()


def test_fused_projections_are_refused(unet: UNet2DConditionModel) -> None:
    unet.fuse_qkv_projections()
    with capture_attention(unet, (16, 16)), pytest.raises(AttentionError, match="FusedAttnProcessor2_0 does not call"):
        Inputs()(unet)

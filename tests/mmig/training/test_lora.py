"""Low-rank updates: where they go, that fresh ones change nothing, that hooks still work, and that merging is exact."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmig.backbones.diffusion import load_unet
from mmig.diffusion.attention import capture_attention
from mmig.training.lora import (
    LLM_TARGETS,
    UNET_TARGETS,
    LoRAConfig,
    LoRAError,
    add_lora,
    as_named_in,
    merge_lora,
)
from tests.tiny_fixtures import build_all

EVERY_LAYER = [*UNET_TARGETS, "conv1", "conv2", "proj_in", "net.2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_all(tmp_path_factory.mktemp("tiny")).instruct_pix2pix


def unet_with(folder: Path, config: LoRAConfig | None, trained: bool = False) -> nn.Module:
    unet = load_unet(folder)
    if config is not None:
        torch.manual_seed(0)
        add_lora(unet, config, UNET_TARGETS, "lora.unet")
    if trained:
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    return unet


def output(unet: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    channels, width = unet.config.in_channels, unet.config.cross_attention_dim
    noisy = torch.randn(2, channels, 16, 16, generator=generator)
    text = torch.randn(2, 5, width, generator=generator)
    with torch.no_grad():
        return unet(noisy, torch.tensor([3, 700]), encoder_hidden_states=text).sample


def test_fresh_updates_change_nothing_and_only_they_train(folder: Path) -> None:
    unet = unet_with(folder, LoRAConfig(4))
    assert torch.equal(output(unet), output(unet_with(folder, None)))
    trained = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
    assert trained and all(".lora_A.default." in name or ".lora_B.default." in name for name in trained)
    assert {name.split(".lora_")[0].split(".", 1)[0] for name in trained} >= {"down_blocks", "up_blocks"}
    attentions = sum(name.endswith(("attn1", "attn2")) for name, _ in unet.named_modules())
    assert len(trained) == 2 * len(UNET_TARGETS) * attentions


def test_the_update_is_alpha_over_rank_times_b_a(folder: Path) -> None:
    unet = unet_with(folder, LoRAConfig(4, alpha=2.0, targets=["attn2.to_q"]), trained=True)
    layer = next(module for name, module in unet.named_modules() if name.endswith("attn2.to_q"))
    hidden = torch.randn(3, layer.in_features)
    update = 2.0 / 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = nn.functional.linear(hidden, layer.base_layer.weight + update, layer.base_layer.bias)
    assert torch.allclose(layer(hidden), expected, atol=1e-6)


def test_merged_it_computes_the_same_in_plain_layers_of_the_old_names(folder: Path) -> None:
    plain = unet_with(folder, None)
    unet = unet_with(folder, LoRAConfig(4, targets=EVERY_LAYER), trained=True)
    before = output(unet)
    assert not torch.allclose(before, output(plain), atol=1e-3)
    merge_lora(unet)
    assert torch.allclose(output(unet), before, atol=1e-5)
    assert set(unet.state_dict()) == set(plain.state_dict())
    assert {type(module) for module in unet.modules()} == {type(module) for module in plain.modules()}


def test_attention_is_captured_with_its_update(folder: Path) -> None:
    unet = unet_with(folder, LoRAConfig(4), trained=True)
    with capture_attention(unet, (16, 16)) as capture:
        output(unet)
        with_updates = capture.average()
    merge_lora(unet)
    with capture_attention(unet, (16, 16)) as capture:
        output(unet)
        merged = capture.average()
    with capture_attention(plain := unet_with(folder, None), (16, 16)) as capture:
        output(plain)
        without = capture.average()
    assert torch.allclose(with_updates, merged, atol=1e-6) and not torch.allclose(with_updates, without, atol=1e-4)


def test_weights_of_layers_with_and_without_update_find_each_other(folder: Path) -> None:
    plain, updated = unet_with(folder, None).state_dict(), unet_with(folder, LoRAConfig(2)).state_dict()
    assert set(as_named_in(updated, plain)) == {name for name in updated if "lora_" not in name}
    assert set(as_named_in(plain, updated)) - set(plain) == {name for name in updated if "lora_" in name}
    assert as_named_in(plain, {"other": torch.zeros(1)}).keys() == {"other"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            LoRAConfig(4, targets=["to_qq"]),
            r"lora.unet.targets: no layer of UNet2DConditionModel ends in 'to_qq'; .*conv",
        ),
        (LoRAConfig(4, targets=[]), r"lora.unet.targets: expected at least one"),
        (LoRAConfig(-1), r"lora.unet: expected rank >= 1"),
        (LoRAConfig(4, dropout=1.0), r"lora.unet: .* found 4 and 1.0"),
    ],
)
def test_updates_that_do_not_fit_are_refused_in_one_line(folder: Path, config: LoRAConfig, message: str) -> None:
    with pytest.raises(LoRAError, match=message) as caught:
        add_lora(load_unet(folder), config, UNET_TARGETS, "lora.unet")
    assert "\n" not in str(caught.value)


def test_the_usual_targets_of_a_language_model_are_its_attention() -> None:
    assert LLM_TARGETS == ("q_proj", "k_proj", "v_proj", "o_proj")

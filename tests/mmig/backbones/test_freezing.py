"""Frozen parts: no gradient for weights, gradient for inputs, checkpointing that really saves memory, no dropout."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmig.backbones.blip2 import load_blip2
from mmig.backbones.clip import load_clip_vision
from mmig.backbones.diffusion import load_text_encoder, load_unet, load_vae
from mmig.backbones.llm import load_llm
from tests.tiny_fixtures import TinyBackbones

Run = Callable[[nn.Module, Tensor], Tensor]

# part -> (loader, folder of TinyBackbones, input shape, scalar of the input)
PARTS: dict[str, tuple[Callable[..., nn.Module], str, tuple[int, ...], Run]] = {
    "llm": (load_llm, "llama", (4, 64, 48), lambda m, x: m(inputs_embeds=x).logits),
    "clip_vision": (load_clip_vision, "clip_vision", (4, 3, 64, 64), lambda m, x: m(x).last_hidden_state),
    "vae": (load_vae, "stable_diffusion", (2, 4, 16, 16), lambda m, x: m.decode(x).sample),
    "unet": (
        load_unet,
        "stable_diffusion",
        (2, 4, 16, 16),
        lambda m, x: m(x, torch.tensor([3, 500]), torch.ones(2, 7, 32)).sample,
    ),
}


def _saved_bytes_and_gradient(model: nn.Module, run: Run, shape: tuple[int, ...]) -> tuple[int, Tensor]:
    """Bytes that autograd keeps of one forward, weights apart, and the gradient of the input."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    seen: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return value

    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        out = run(model, inputs)
    total = sum(seen.values())
    out.square().mean().backward()
    return total, inputs.grad


@pytest.mark.parametrize("part", PARTS)
def test_checkpointing_a_frozen_part_saves_memory_and_keeps_the_gradient(tiny: TinyBackbones, part: str):
    load, name, shape, run = PARTS[part]
    path: Path = getattr(tiny, name)
    plain, gradient = _saved_bytes_and_gradient(load(path), run, shape)
    less, same = _saved_bytes_and_gradient(load(path, gradient_checkpointing=True), run, shape)
    assert less < 0.7 * plain
    # recomputed sums are rounded otherwise on some processors: small entries by what the largest ones lose
    torch.testing.assert_close(same, gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("part", PARTS)
def test_a_frozen_part_passes_the_gradient_and_keeps_none(tiny: TinyBackbones, part: str):
    load, name, shape, run = PARTS[part]
    model = load(getattr(tiny, name))
    _, gradient = _saved_bytes_and_gradient(model, run, shape)
    assert gradient.abs().sum() > 0
    assert all(weight.grad is None and not weight.requires_grad for weight in model.parameters())


def test_a_frozen_part_is_in_eval_mode_unless_checkpointed(tiny: TinyBackbones):
    assert not load_llm(tiny.llama).training
    assert load_llm(tiny.llama, gradient_checkpointing=True).training


def test_a_checkpointed_frozen_captioner_has_no_dropout(tiny: TinyBackbones):
    model = load_blip2(tiny.blip2, gradient_checkpointing=True)
    assert model.training
    ids = torch.full((2, 10), 5)
    ids[:, : model.config.num_query_tokens] = model.config.image_token_id
    pixels = torch.ones(2, 3, 64, 64)
    first, second = (model(pixels, ids).logits for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, model.eval()(pixels, ids).logits)


def test_a_trainable_captioner_keeps_its_published_dropout(tiny: TinyBackbones):
    model = load_blip2(tiny.blip2, frozen=False)
    assert {module.p for module in model.qformer.modules() if isinstance(module, nn.Dropout)} == {0.1}


def test_weights_of_a_trainable_part_get_their_gradient_with_checkpointing(tiny: TinyBackbones):
    model = load_text_encoder(tiny.stable_diffusion, frozen=False, gradient_checkpointing=True)
    model(torch.tensor([[1, 2, 3]])).last_hidden_state.square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())

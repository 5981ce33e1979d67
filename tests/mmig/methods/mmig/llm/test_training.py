"""What trains: every adapter and nothing else; copies; published sizes."""

import copy

import pytest
import torch

from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.llm.multimodal import MultimodalLLM
from tests.mmig.methods.mmig.llm.tiny import (
    BLOCKS,
    HAS_IMAGE,
    INSTRUCTIONS,
    LAYERS,
    RESPONSES,
    VISION_WIDTH,
    WIDTH,
    images,
    mllm,
    randomise,
    shared_tokenizer,
)


def _adapter_size(dim, rank=4):
    return (dim * rank + rank) + 2 * (dim * rank // 2 + dim) + (2 * dim + 2)


def test_one_step_changes_every_adapter_weight_and_nothing_else():
    model = mllm()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(INSTRUCTIONS, RESPONSES, images(), HAS_IMAGE).loss_sums.sum().backward()
    optimizer.step()
    changed = {name: (value != before[name]).sum().item() for name, value in model.state_dict().items()}
    assert sum(count for name, count in changed.items() if not name.startswith("adapters.")) == 0
    expected = LAYERS * _adapter_size(WIDTH) + BLOCKS * _adapter_size(VISION_WIDTH)
    expected += VISION_WIDTH * 10 + 10 + 10 * WIDTH + WIDTH + 2 * WIDTH
    assert sum(changed.values()) == expected == sum(p.numel() for p in model.adapters.parameters())


def test_text_only_batches_use_every_adapter():
    """DDP raises where a trainable parameter has no place in the graph of some rank's batch."""
    model = mllm()
    model(INSTRUCTIONS, RESPONSES, None).loss_sums.sum().backward()
    assert all(p.grad is not None for p in model.adapters.parameters())
    assert not any(p.grad.any() for p in model.adapters["projector"].parameters())
    assert model.adapters["modality"].weight.grad[0].any()
    assert not model.adapters["modality"].weight.grad[1].any()


def test_a_deep_copy_has_adapters_of_its_own():
    model = mllm()
    batch = (INSTRUCTIONS, RESPONSES, images(), HAS_IMAGE)
    expected = model(*batch).loss_sums
    other = copy.deepcopy(model)
    randomise(other.adapters, seed=8)
    assert torch.equal(model(*batch).loss_sums, expected)
    assert (other(*batch).loss_sums - expected).abs().min() > 1e-3


@pytest.mark.parametrize(
    ("layers", "width", "inner", "heads", "temperature", "count"),
    [(32, 4096, 11008, 32, 10.0, 3_781_296), (40, 5120, 13824, 40, 5.0, 5_390_080)],
)
def test_published_sizes(layers, width, inner, heads, temperature, count):
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    llama = LlamaConfig(
        vocab_size=32000,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    vit = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
    )
    with torch.device("meta"):
        llm = LlamaForCausalLM(llama).requires_grad_(False)
        vision = CLIPVisionModel(vit).requires_grad_(False)
        model = MultimodalLLM(llm, shared_tokenizer(), vision, MultimodalConfig(temperature=temperature))
    assert model.depths == (4, 8, 12, 16, 20, 24)
    assert sum(p.numel() for p in vision.parameters()) == 303_179_776
    if width == 4096:
        assert sum(p.numel() for p in llm.parameters()) == 6_738_415_616
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    assert sum(p.numel() for p in model.adapters.parameters()) == count

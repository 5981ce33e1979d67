"""The LLM's adapters merged into q, k and v for one modality."""

import pytest
import torch

from mmig.language.responses import prompt_ids, response_ids
from mmig.methods.mmig.llm.multimodal import MultimodalLLM
from tests.mmig.methods.mmig.llm.by_hand import generate_response_ids, response_states
from tests.mmig.methods.mmig.llm.tiny import (
    INSTRUCTIONS,
    RESPONSES,
    images,
    llm,
    mllm,
    prompt_by_hand,
    shared_tokenizer,
)


def _relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("kind", "route_from"), [("llama", "embedding"), ("qwen2", "hidden"), ("qwen3", "embedding")])
def test_merged_copies_do_what_the_adapted_model_does(kind, route_from):
    model = mllm(kind, route_from=route_from, scale=0.5)
    weights = model.llm.state_dict(keep_vars=True)

    merged = model.merge("text")
    prompts = prompt_ids(model.tokenizer, INSTRUCTIONS)
    answers = response_ids(model.tokenizer, RESPONSES, 128)
    adapted = model.states_of_ids(INSTRUCTIONS, answers).states
    assert _relative_error(response_states(merged, prompts, answers).states, adapted) < 1e-5
    assert _relative_error(response_states(llm(kind), prompts, answers).states, adapted) > 0.01

    merged_image = model.merge("image")
    sequence = prompt_by_hand(model, INSTRUCTIONS[0], images()[0])[None]
    routing = model.mixture_weights()[[1]]
    expected = model.llm.model(inputs_embeds=sequence, adapter_routing=routing).last_hidden_state
    assert _relative_error(merged_image.model(inputs_embeds=sequence).last_hidden_state, expected) < 1e-5
    assert _relative_error(merged.model(inputs_embeds=sequence).last_hidden_state, expected) > 1e-3

    for name, value in merged.state_dict(keep_vars=True).items():  # all but q, k, v are the same tensors
        assert (name in weights and value is weights[name]) != any(f".{part}_proj." in name for part in "qkv"), name
    assert all(layer.self_attn.q_proj.bias is not None for layer in merged.model.layers)


def test_the_model_itself_keeps_its_adapters_and_modes():
    model = mllm()
    model.adapters.train()
    before = model(INSTRUCTIONS, RESPONSES, images()).loss_sums
    merged = model.merge("image")
    assert torch.equal(model(INSTRUCTIONS, RESPONSES, images()).loss_sums, before)
    assert model.adapters["llm"][0].training
    assert not any(p.requires_grad for p in merged.parameters())
    MultimodalLLM(merged, shared_tokenizer())  # takes adapters: none are left on it


def test_merged_generation_equals_the_adapted_one():
    model = mllm()
    ids = generate_response_ids(model.merge("text"), model.tokenizer, prompt_ids(model.tokenizer, INSTRUCTIONS), 6)
    assert ids == model.generate(INSTRUCTIONS, max_tokens=6)


def test_unknown_modality():
    with pytest.raises(ValueError, match="merge: expected one of text, image, found 'audio'"):
        mllm().merge("audio")

"""Who computes the LLM's mixture weights, and whether they reach every layer, also of a checkpointed forward."""

import pytest
import torch

from mmig.backbones.loading import prepare
from mmig.language.sequences import prompt_ids
from tests.mmig.methods.mmig.llm.tiny import HAS_IMAGE, INSTRUCTIONS, LAYERS, RESPONSES, images, llm, mllm

MODALITY_0 = torch.zeros(1, dtype=torch.bool)


def _seen_weights(model, *batch):
    """Mixture weights that each layer's adapter gets in a forward, [B,layers,2]."""
    seen = []
    handles = [a.register_forward_pre_hook(lambda _m, args: seen.append(args[1])) for a in model.adapters["llm"]]
    model(*batch)
    for handle in handles:
        handle.remove()
    return torch.stack(seen[-LAYERS:], dim=1)


@pytest.mark.parametrize("route_from", ["embedding", "hidden"])
def test_weights_depend_on_the_modality_and_not_on_the_text(route_from):
    model = mllm(route_from=route_from)
    weights = _seen_weights(model, INSTRUCTIONS, RESPONSES, images(), HAS_IMAGE)
    other = _seen_weights(model, INSTRUCTIONS[::-1], RESPONSES[::-1], images(seed=9), HAS_IMAGE)
    assert torch.equal(weights, other)
    assert torch.equal(weights[0], weights[2])
    assert (weights[0] - weights[1]).abs().min() > 1e-3
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, LAYERS))


def _reference_hidden_routing(model, modality, ids):
    """The reference implementation's layout written out: t_m at position 0 of the sequence, seen by no other position;
    each layer routed by its normalised state there. Returns the text's states and the weights of each layer."""
    bare, adapters, weights = llm(), model.adapters["llm"], []

    def adapt(layer):
        def hook(_module, _inputs, normed):
            adapter = adapters[layer]
            pair = torch.softmax(adapter.router(normed[:, 0]) / adapter.temperature, dim=-1)
            weights.append(pair)
            return adapter(normed, pair)

        return hook

    for number, layer in enumerate(bare.model.layers):
        layer.input_layernorm.register_forward_hook(adapt(number))
    token = model.adapters["modality"].weight[modality][None, None]
    sequence = torch.cat([token, bare.get_input_embeddings()(ids)], dim=1)
    allowed = torch.ones(sequence.shape[1], sequence.shape[1]).tril().bool()
    allowed[1:, 0] = False
    states = bare.model(inputs_embeds=sequence, attention_mask=allowed[None, None]).last_hidden_state[:, 1:]
    return states, torch.stack(weights, dim=1)


@pytest.mark.parametrize("modality", [0, 1])
def test_hidden_routing_equals_a_modality_token_in_the_sequence(modality):
    model = mllm(route_from="hidden")
    ids = torch.tensor(prompt_ids(model.tokenizer, INSTRUCTIONS[:1]))
    expected, weights = _reference_hidden_routing(model, modality, ids)
    routing = model.mixture_weights()[[modality]]
    torch.testing.assert_close(routing, weights, atol=1e-6, rtol=1e-5)
    found = model.llm.model(input_ids=ids, adapter_routing=routing).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    embedded = mllm(route_from="embedding").mixture_weights()[[modality]]
    assert (embedded - weights).abs().max() > 1e-3


def test_embedding_routing_is_the_formula_of_equation_6():
    model = mllm(temperature=3.0)
    for layer, adapter in enumerate(model.adapters["llm"]):
        logits = model.adapters["modality"].weight @ adapter.router.weight.T + adapter.router.bias
        torch.testing.assert_close(model.mixture_weights()[:, layer], (logits / 3.0).softmax(dim=-1))


def _gradients(kind, route_from, checkpointing):
    """Gradients after one backward of two forwards of different modality, and how often each LLM adapter ran."""
    model, calls = mllm(kind, route_from=route_from), [0]
    for part in (model.llm, model.vision):
        prepare(part, frozen=True, gradient_checkpointing=checkpointing)
    model.adapters.train()
    model.adapters["llm"][0].register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    with_images = model(INSTRUCTIONS, RESPONSES, images(), torch.ones(3, dtype=torch.bool))
    text_only = model(INSTRUCTIONS[:1], RESPONSES[:1], None, MODALITY_0)
    loss = with_images.losses.mean() + 3 * text_only.losses.mean() + with_images.states.states.square().mean()
    before = calls[0]
    loss.backward()
    return {name: p.grad for name, p in model.adapters.named_parameters()}, calls[0] - before


@pytest.mark.parametrize(("kind", "route_from"), [("llama", "embedding"), ("llama", "hidden"), ("qwen3", "embedding")])
def test_checkpointing_does_not_change_the_gradients(kind, route_from):
    plain, ran_again = _gradients(kind, route_from, checkpointing=False)
    assert ran_again == 0
    checkpointed, ran_again = _gradients(kind, route_from, checkpointing=True)
    assert ran_again >= 2  # it really happens: layers of both forwards were computed again
    for name, gradient in plain.items():
        assert gradient.any(), name
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-4, msg=name)

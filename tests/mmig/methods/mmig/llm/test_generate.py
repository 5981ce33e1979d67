"""Generation with a KV cache, and e0 of what was generated."""

import torch

from mmig.backbones.loading import prepare
from mmig.language.sequences import left_padded_ids, prompt_ids, until_end
from tests.mmig.methods.mmig.llm.by_hand import generate_response_ids, response_states
from tests.mmig.methods.mmig.llm.tiny import (
    HAS_IMAGE,
    INSTRUCTIONS,
    images,
    llm,
    mllm,
    prompt_by_hand,
    routing_by_hand,
)

END = 2


def _singles():
    """Instruction and image (or None) of each sample of the mixed batch."""
    pictures = images()
    return [(text, pictures[i] if HAS_IMAGE[i] else None) for i, text in enumerate(INSTRUCTIONS)]


@torch.no_grad()
def _greedy(model, instruction, image, steps):
    """Greedy ids of one sample without cache and padding: the whole sequence again for each token."""
    sequence, ids = prompt_by_hand(model, instruction, image), []
    routing = routing_by_hand(model, image)
    while len(ids) < steps:
        hidden = model.llm.get_decoder()(inputs_embeds=sequence[None], adapter_routing=routing).last_hidden_state
        token = model.llm.lm_head(hidden[0, -1]).argmax()
        if token == END:
            break
        ids.append(token.item())
        sequence = torch.cat([sequence, model.llm.get_input_embeddings()(token)[None]])
    return ids


def _model_that_ends(**options):
    """A model whose second sample ends after three tokens: the end token gets a little more than the fourth one's
    logit."""
    model = mllm(**options)
    fourth = _greedy(model, *_singles()[1], steps=4)[3]
    with torch.no_grad():
        model.llm.lm_head.weight[END] = 1.01 * model.llm.lm_head.weight[fourth]
    return model


def test_generated_ids_are_the_argmax_of_every_whole_forward():
    for kind in ("llama", "qwen2"):
        model = _model_that_ends(kind=kind, max_response_tokens=8)
        expected = [_greedy(model, *single, steps=8) for single in _singles()]
        found = model.generate(INSTRUCTIONS, images(), HAS_IMAGE)
        assert found == expected
        assert len(expected[1]) <= 3 < len(expected[0])
        assert expected[0] != expected[2]


def test_greedy_is_greedy_whatever_the_checkpoint_says():
    """A generation_config as published chat models have it."""
    model = mllm(kind="qwen2", max_response_tokens=12)
    with torch.no_grad():
        model.llm.lm_head.weight[50:] = 0  # few words, which come again and again
    expected = [_greedy(model, *single, steps=12) for single in _singles()]
    model.llm.generation_config.update(
        repetition_penalty=1.3, no_repeat_ngram_size=2, min_new_tokens=13, num_beams=2, do_sample=True, temperature=0.7
    )
    own = model.llm.generation_config.to_dict()
    assert model.generate(INSTRUCTIONS, images(), HAS_IMAGE) == expected
    assert model.llm.generation_config.to_dict() == own


def test_states_of_generated_ids_are_those_that_generated_them():
    """e0 at inference against the states that the decoder put out, token by token, while generating with its cache."""
    model, seen = _model_that_ends(max_response_tokens=8), []
    handle = model.llm.model.norm.register_forward_hook(lambda _m, _i, out: seen.append(out[:, -1]))
    ids = model.generate(INSTRUCTIONS, images(), HAS_IMAGE)
    handle.remove()
    states = model.states_of_ids(INSTRUCTIONS, ids, images(), HAS_IMAGE)
    assert states.mask.sum(dim=1).tolist() == [len(row) for row in ids]
    while_generating = torch.stack(seen[1:], dim=1)  # the first call reads the prompt
    for row, tokens in enumerate(ids):
        read = min(len(tokens), while_generating.shape[1])  # the very last token is never read
        assert read > 0
        torch.testing.assert_close(states.states[row, :read], while_generating[row, :read], atol=1e-4, rtol=1e-4)


def test_fresh_text_only_generates_what_stage_1_does():
    model = mllm(fresh=True, max_response_tokens=6)
    prompts = prompt_ids(model.tokenizer, INSTRUCTIONS)
    expected = generate_response_ids(llm(), model.tokenizer, prompts, 6)
    found = model.generate(INSTRUCTIONS)
    assert found == expected
    states = response_states(llm(), prompts, expected)
    assert torch.equal(model.states_of_ids(INSTRUCTIONS, found).states, states.states)


def test_generation_is_the_same_in_training_mode_with_checkpointing_and_dropout():
    model = mllm(dropout=0.5, max_response_tokens=5)
    expected = model.generate(INSTRUCTIONS, images(), HAS_IMAGE)
    prepare(model.llm, frozen=True, gradient_checkpointing=True)
    model.adapters.train()
    modes = [part.training for part in model.modules()]
    assert model.generate(INSTRUCTIONS, images(), HAS_IMAGE) == expected
    assert [part.training for part in model.modules()] == modes
    assert model.llm.training
    assert not model.vision.training


def test_hidden_routing_generates_with_the_weights_of_the_prompt():
    model = mllm(route_from="hidden", max_response_tokens=5)
    ids = model.generate(INSTRUCTIONS, images(), HAS_IMAGE)
    states = model.states_of_ids(INSTRUCTIONS, ids, images(), HAS_IMAGE).states
    following = model.llm.lm_head(states).argmax(dim=-1)
    for row, tokens in enumerate(ids):
        assert len(tokens) > 1
        assert following[row, : len(tokens) - 1].tolist() == tokens[1:]


def test_left_padding_and_the_end():
    ids, mask = left_padded_ids([[5, 6, 7], [-1, 8]])
    assert ids.tolist() == [[5, 6, 7], [0, -1, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert until_end(torch.tensor([[4, END, END], [END, 3, 4], [5, 6, 7]]), END) == [[4], [], [5, 6, 7]]


def test_decoded_texts_have_no_special_tokens():
    model = mllm()
    ids = model.tokenizer("a red star.", add_special_tokens=False)["input_ids"]
    assert model.decode([ids, [*ids, END], []]) == ["a red star.", "a red star.", ""]

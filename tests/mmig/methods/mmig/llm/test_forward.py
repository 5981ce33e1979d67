"""The teacher-forced forward of the multimodal LLM: what it reads, the response loss and e0."""

import pytest
import torch

from mmig.language.sequences import (
    IGNORED,
    VISUAL_TOKEN,
    encode_responses,
    mixed_prompt_ids,
    prompt_ids,
    response_ids,
    teacher_forced_ids,
)
from mmig.methods.mmig.llm.multimodal import MultimodalLLM
from tests.mmig.methods.mmig.llm.by_hand import response_states
from tests.mmig.methods.mmig.llm.tiny import (
    HAS_IMAGE,
    INSTRUCTIONS,
    RESPONSES,
    images,
    llm,
    mllm,
    prompt_by_hand,
    routing_by_hand,
    shared_tokenizer,
    vision,
)

TEXT_ONLY = torch.zeros(3, dtype=torch.bool)


def _manual(model, instruction, response, image):
    """Loss sum, count and e0 of one sample alone, the sequence put together by hand."""
    answer = model.tokenizer(response, add_special_tokens=False)["input_ids"]
    prompt = prompt_by_hand(model, instruction, image)
    sequence = torch.cat([prompt, model.llm.get_input_embeddings()(torch.tensor(answer))])[None]
    decoder = model.llm.get_decoder()
    hidden = decoder(inputs_embeds=sequence, adapter_routing=routing_by_hand(model, image)).last_hidden_state[0]
    log_p = model.llm.lm_head(hidden[len(prompt) - 1 :]).log_softmax(dim=-1)
    target = [*answer, model.tokenizer.eos_token_id]
    return -sum(log_p[i, t] for i, t in enumerate(target)), len(target), hidden[len(prompt) :]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_mixed_batch_equals_each_sample_by_hand(kind):
    model, pictures = mllm(kind), images()
    output = model(INSTRUCTIONS, RESPONSES, pictures, HAS_IMAGE)
    for row, (instruction, response) in enumerate(zip(INSTRUCTIONS, RESPONSES, strict=True)):
        loss, count, states = _manual(model, instruction, response, pictures[row] if HAS_IMAGE[row] else None)
        torch.testing.assert_close(output.loss_sums[row], loss, rtol=1e-4, atol=1e-4)
        assert output.token_counts[row] == count
        torch.testing.assert_close(output.losses[row], loss / count, rtol=1e-4, atol=1e-4)
        assert output.states.mask[row].sum() == len(states) == count - 1  # the end token has no state in e0
        torch.testing.assert_close(output.states.states[row, : len(states)], states, rtol=1e-4, atol=1e-4)
        assert not output.states.states[row, len(states) :].any()


@pytest.mark.parametrize("with_vision", [True, False])
def test_fresh_text_only_equals_the_states_of_stage_1(with_vision):
    model = mllm(with_vision=with_vision, fresh=True).train()
    expected = response_states(
        llm(), prompt_ids(model.tokenizer, INSTRUCTIONS), response_ids(model.tokenizer, RESPONSES, 128)
    )
    found = model(INSTRUCTIONS, RESPONSES, images() if with_vision else None, TEXT_ONLY)
    assert torch.equal(found.states.mask, expected.mask)
    assert torch.equal(found.states.states, expected.states)


def test_loss_equals_transformers_own():
    model, tokenizer = mllm(with_vision=False, fresh=True), shared_tokenizer()
    output = model(INSTRUCTIONS, RESPONSES)
    for row, (instruction, response) in enumerate(zip(INSTRUCTIONS, RESPONSES, strict=True)):
        prompt = prompt_ids(tokenizer, [instruction])[0]
        answer = [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        labels = torch.tensor([[IGNORED] * len(prompt) + answer])
        loss = llm()(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
        torch.testing.assert_close(output.losses[row], loss)


def test_layout_of_ids_and_targets():
    tokenizer = shared_tokenizer()
    prompts = mixed_prompt_ids(tokenizer, ["go {left} {image}", "x"], [True, False], 6)
    assert prompts[0].count(VISUAL_TOKEN) == 6
    assert prompts[0][0] == prompts[1][0] == tokenizer.bos_token_id
    assert VISUAL_TOKEN not in prompts[1]
    assert "go {left} {image}" in tokenizer.decode([i for i in prompts[0] if i >= 0])

    end = tokenizer.eos_token_id
    batch = teacher_forced_ids([[1, 5, 6], [1]], [[7, 8], [9]], [[7, 8, end], [9, end]])
    assert batch.ids.tolist() == [[1, 5, 6, 7, 8], [1, 9, 0, 0, 0]]
    assert batch.attention.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.targets.tolist() == [[7, 8, end], [9, end, IGNORED]]
    assert batch.places.tolist() == [[2, 3, 4], [0, 1, 2]]
    assert batch.mask.int().tolist() == [[1, 1], [1, 0]]


def test_cut_and_missing_responses():
    tokenizer = shared_tokenizer()
    whole = tokenizer(RESPONSES[0], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    exact = encode_responses(tokenizer, [RESPONSES[0]], len(whole))
    cut = encode_responses(tokenizer, [RESPONSES[0]], len(whole) - 1)
    assert exact.targets == [[*whole, end]]
    assert cut.ids == cut.targets == [whole[:-1]]

    model = mllm(max_response_tokens=len(whole) - 1)
    output = model(INSTRUCTIONS, [RESPONSES[0], "", RESPONSES[1]], images(), HAS_IMAGE)
    assert output.token_counts.tolist() == [len(whole) - 1, 0, len(whole) - 1]
    targets = model.encode([RESPONSES[0], "", RESPONSES[1]]).targets
    assert [len(row) for row in targets] == output.token_counts.tolist()
    assert output.loss_sums[1] == output.losses[1] == 0
    assert not output.states.mask[1].any()
    assert output.losses.isfinite().all()


def test_only_absent_responses():
    output = mllm()(INSTRUCTIONS, ["", "", ""])
    assert output.states.states.shape == (3, 1, 32)
    assert not output.states.mask.any()
    assert not output.loss_sums.any()


def test_an_absent_image_is_never_looked_at():
    model, pictures = mllm(), images()
    output = model(INSTRUCTIONS, RESPONSES, pictures, HAS_IMAGE)
    pictures[1] = torch.nan
    again = model(INSTRUCTIONS, RESPONSES, pictures, HAS_IMAGE)
    assert torch.equal(output.loss_sums, again.loss_sums)
    assert torch.equal(output.states.states, again.states.states)
    pictures[0] = -pictures[0]
    other = model(INSTRUCTIONS, RESPONSES, pictures, HAS_IMAGE)
    assert (other.loss_sums != output.loss_sums).tolist() == [True, False, False]


def test_states_of_ids_and_of_texts_are_the_same():
    model, pictures = mllm(), images()
    ids = response_ids(model.tokenizer, RESPONSES, 128)
    from_text = model(INSTRUCTIONS, RESPONSES, pictures, HAS_IMAGE).states
    from_ids = model.states_of_ids(INSTRUCTIONS, ids, pictures, HAS_IMAGE)
    assert torch.equal(from_text.states, from_ids.states)
    assert torch.equal(from_text.mask, from_ids.mask)


def test_frozen_bfloat16_backbones_with_float32_adapters():
    torch.manual_seed(0)
    model = MultimodalLLM(llm().bfloat16(), shared_tokenizer(), vision().bfloat16())
    output = model(INSTRUCTIONS, RESPONSES, images(), HAS_IMAGE)
    assert output.states.states.dtype == torch.bfloat16
    assert output.loss_sums.dtype == torch.float32
    output.loss_sums.sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.adapters.parameters())


def test_the_llm_alone_stays_bare():
    model, ids = mllm(), torch.tensor([[1, 7, 9, 30]])
    torch.testing.assert_close(model.llm(ids).logits, llm()(ids).logits, rtol=0, atol=0)
    assert model.llm.state_dict().keys() == llm().state_dict().keys()
    assert model.vision.state_dict().keys() == vision().state_dict().keys()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_fresh_adapters_change_nothing(kind):
    """Error 0 at the start, in training mode with dropout, for the image path too."""
    model, pixels = mllm(kind, fresh=True, dropout=0.5), torch.randn(2, 3, 16, 16)
    model.adapters.train()
    found = model.vision(pixel_values=pixels).last_hidden_state
    assert torch.equal(found, vision()(pixel_values=pixels).last_hidden_state)
    sequence = prompt_by_hand(model, INSTRUCTIONS[0], images()[0])[None]
    found = model.llm.model(inputs_embeds=sequence, adapter_routing=model.mixture_weights()[[1]]).last_hidden_state
    assert torch.equal(found, llm(kind).model(inputs_embeds=sequence).last_hidden_state)


def test_bad_batches():
    model, text_only = mllm(), mllm(with_vision=False)
    with pytest.raises(ValueError, match="3 samples have an image, but there is no vision tower"):
        text_only(INSTRUCTIONS, RESPONSES, images())
    with pytest.raises(ValueError, match="2 samples have an image, but images are None"):
        model(INSTRUCTIONS, RESPONSES, None, HAS_IMAGE)
    with pytest.raises(ValueError, match="responses: expected one for each of 3 instructions, found 2"):
        model(INSTRUCTIONS, RESPONSES[:2], images())
    with pytest.raises(ValueError, match="a batch of 3 instructions"):
        model(INSTRUCTIONS, RESPONSES, images(count=2))
    with pytest.raises(ValueError, match="a batch of 0 instructions"):
        model([], [])
    with pytest.raises(ValueError, match=r"expected \{image\} before \{instruction\}, found 'Do"):
        mllm(image_prompt_template="Do {instruction}")(INSTRUCTIONS, RESPONSES, images())


def test_bad_models_and_settings():
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=2))
    with pytest.raises(ValueError, match=r"expected a LLaMA-shaped model.*found GPT2LMHeadModel"):
        MultimodalLLM(gpt2, shared_tokenizer())
    with pytest.raises(ValueError, match="route_from: expected 'embedding' or 'hidden', found 'x'"):
        mllm(route_from="x")
    with pytest.raises(ValueError, match="max_response_tokens: expected at least 1, found 0"):
        mllm(max_response_tokens=0)
    with pytest.raises(ValueError, match="expected a CLIPVisionModel"):
        MultimodalLLM(language := llm(), shared_tokenizer(), torch.nn.Linear(1, 1))
    MultimodalLLM(language, shared_tokenizer())  # nothing was attached by the failed one
    taken = mllm()
    with pytest.raises(ValueError, match="has adapters already; share the MultimodalLLM"):
        MultimodalLLM(taken.llm, shared_tokenizer())


def test_loss_is_minus_log_of_the_product_of_probabilities():
    """Equation 8 on a uniform LLM: each of S+1 tokens has probability 1/V."""
    model = mllm()
    with torch.no_grad():
        model.llm.lm_head.weight.zero_()
    output = model(INSTRUCTIONS, RESPONSES, images(), HAS_IMAGE)
    expected = output.token_counts * torch.tensor(float(model.llm.config.vocab_size)).log()
    torch.testing.assert_close(output.loss_sums, expected)

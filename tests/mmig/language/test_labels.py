"""What counts in L_MMT (eq 7, 8): the response's own tokens and the end, whatever stands before them."""

import torch

from mmig.language.sequences import IGNORED, encode_responses
from tests.mmig.methods.mmig.llm.tiny import mllm, shared_tokenizer

INSTRUCTIONS = ["x", "turn the whole picture into night, then remove the large blue square in the centre: 3 of them"]


def labels(model, response):
    """Kept targets of one response after two very different instructions."""
    encoded = encode_responses(model.tokenizer, [response] * 2, 128)
    targets = model._teacher_forced(INSTRUCTIONS, encoded, None, torch.zeros(2, dtype=torch.bool))[2]
    return [[token for token in row if token != IGNORED] for row in targets.tolist()]


def test_the_instruction_does_not_change_the_labels():
    model = mllm(with_vision=False)
    for response in ("the star is red.", ", with fog", "a"):
        alone = model.tokenizer(response, add_special_tokens=False)["input_ids"]
        assert labels(model, response) == [[*alone, model.tokenizer.eos_token_id]] * 2


def test_a_seam_that_would_melt_stays_a_seam():
    """Tokenised as one text, prompt and response have other ids at their seam than apart."""
    model, tokenizer, response = mllm(with_vision=False), shared_tokenizer(), "the star is red."

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    prompt = model.config.prompt_template.format(instruction=INSTRUCTIONS[0])
    joint = ids(prompt + response)
    assert joint != ids(prompt) + ids(response)
    assert joint[-len(ids(response)) :] != ids(response)
    assert labels(model, response)[0] == [*ids(response), tokenizer.eos_token_id]

"""Responses of the LLM: the text z_d and its states e0 (eq 1, 2).

e0 are the LLM's last hidden states (after the final norm) at the positions whose input is a token of the response,
end-of-sequence excluded. In training the response is the data's (teacher forcing); at inference it is what the LLM
generated, and the states belong to the generated ids, never to re-tokenised text.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

PROMPT_TEMPLATE = "Image: N/A\nInstruction: {instruction}\nResponse:"
"""What the LLM reads before the response; the image's tokens come before it from stage 2 on."""


class ResponseStates(NamedTuple):
    """States e0 of a batch of responses.

    Attributes:
        states: [B,L,D], zeros where there is no token.
        mask: bool [B,L], True at the tokens of the response.
    """

    states: Tensor
    mask: Tensor


def prompt_ids(tokenizer: Any, instructions: Sequence[str], template: str = PROMPT_TEMPLATE) -> list[list[int]]:
    """Ids of the prompts with the begin-of-sequence token; prompt and response are tokenised apart."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    texts = [template.format(instruction=instruction) for instruction in instructions]
    return [bos + ids for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def response_ids(tokenizer: Any, responses: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Ids of the responses without special tokens, cut to `max_tokens`; an empty response has none."""
    return [ids[:max_tokens] for ids in tokenizer(list(responses), add_special_tokens=False)["input_ids"]]

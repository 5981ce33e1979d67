"""Responses of the LLM: the text z_d and its states e0 (eq 1, 2).

e0 are the LLM's last hidden states (after the final norm) at the positions whose input is a token of the response,
end-of-sequence excluded. In training the response is the data's (teacher forcing); at inference it is what the LLM
generated, and the states belong to the generated ids, never to re-tokenised text.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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


def response_states(llm: Any, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> ResponseStates:
    """States e0 of given response ids after their prompts, by one forward of the LLM.

    Args:
        llm: causal language model of transformers.
        prompts: ids of each prompt, at least one.
        responses: ids of each response; an empty one gets a row without valid tokens.
    """
    device = llm.device
    rows = [torch.tensor(p + r, dtype=torch.int64) for p, r in zip(prompts, responses, strict=True)]
    lengths = torch.tensor([len(row) for row in rows])
    ids = pad_sequence(rows, batch_first=True)
    attention = torch.arange(ids.shape[1]) < lengths[:, None]
    hidden = llm.get_decoder()(input_ids=ids.to(device), attention_mask=attention.to(device)).last_hidden_state
    longest = max(1, max(len(r) for r in responses))
    offsets = torch.arange(longest)
    mask = (offsets < torch.tensor([len(r) for r in responses])[:, None]).to(device)
    places = (torch.tensor([len(p) for p in prompts])[:, None] + offsets).clamp(max=ids.shape[1] - 1).to(device)
    states = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
    return ResponseStates(states * mask[..., None], mask)


@torch.no_grad()
def generate_response_ids(llm: Any, tokenizer: Any, prompts: Sequence[list[int]], max_tokens: int) -> list[list[int]]:
    """Greedy responses, as ids without the end-of-sequence token."""
    longest = max(len(p) for p in prompts)
    end = tokenizer.eos_token_id
    ids = torch.tensor([[end] * (longest - len(p)) + p for p in prompts], device=llm.device)
    attention = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=llm.device)
    output = llm.generate(
        input_ids=ids, attention_mask=attention, max_new_tokens=max_tokens, do_sample=False, pad_token_id=end
    )
    generated = [row.tolist() for row in output[:, longest:]]
    return [row[: row.index(end)] if end in row else row for row in generated]

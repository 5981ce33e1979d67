"""What the multimodal LLM must equal: the plain LLM, one forward for the states, one `generate` for the ids."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from mmig.language.sequences import ResponseStates


def response_states(llm: Any, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> ResponseStates:
    """States e0 of response ids after their prompts, from one forward of padded rows."""
    rows = [torch.tensor(p + r) for p, r in zip(prompts, responses, strict=True)]
    lengths = torch.tensor([len(row) for row in rows])
    ids = pad_sequence(rows, batch_first=True)
    attention = torch.arange(ids.shape[1]) < lengths[:, None]
    hidden = llm.get_decoder()(input_ids=ids, attention_mask=attention).last_hidden_state
    own = [states[len(p) : len(p) + len(r)] for states, p, r in zip(hidden, prompts, responses, strict=True)]
    mask = [torch.ones(len(r), dtype=torch.bool) for r in responses]
    return ResponseStates(pad_sequence(own, batch_first=True), pad_sequence(mask, batch_first=True))


@torch.no_grad()
def generate_response_ids(llm: Any, tokenizer: Any, prompts: Sequence[list[int]], max_tokens: int) -> list[list[int]]:
    """Greedy responses without the end-of-sequence token, one prompt at a time, without padding."""
    end = tokenizer.eos_token_id
    rows = [
        llm.generate(torch.tensor([prompt]), max_new_tokens=max_tokens, do_sample=False, pad_token_id=end)[0].tolist()
        for prompt in prompts
    ]
    found = [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
    return [row[: row.index(end)] if end in row else row for row in found]

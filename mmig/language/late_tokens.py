"""Hidden states where only the last tokens of each text are trained: what stands before them needs no gradient.

A causal decoder's states of a token depend on nothing behind it. So where all trained rows stand at the end, as MGIE's
[IMG] tokens do, the long rest (prompt, picture and text) runs without a graph, and only the last tokens run backward.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

ANY_ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def states_with_late_gradient(
    decoder: Any, embedded: Tensor, attention: Tensor, starts: Tensor, number: int, told: dict[str, Any]
) -> Tensor:
    """Last hidden states [B,T,D] of a frozen decoder, with gradient at `number` tokens of each row alone.

    Values are those of one forward. The gradient is exact where nothing before those tokens is trained. Memory for the
    backward grows with `number`, not with T; keys and values of all T tokens are kept.

    Args:
        decoder: a causal decoder of transformers, none of whose weights train.
        embedded: input embeddings [B,T,D].
        attention: [B,T], 0 at padding.
        starts: int64 [B], where the tokens with gradient begin; they are the last before the padding.
        number: of them in each row.
        told: other arguments of the decoder, such as `position_ids` [B,T] or [3,B,T].
    """
    from transformers import DynamicCache

    late = starts[:, None] + torch.arange(number, device=starts.device)
    before = torch.arange(embedded.shape[1], device=starts.device) < starts[:, None]
    cache = DynamicCache(config=decoder.config)
    with torch.no_grad(), sdpa_kernel(ANY_ATTENTION):  # only the backward of flash attention can be slow
        found = decoder(inputs_embeds=embedded, attention_mask=attention, past_key_values=cache, use_cache=True, **told)
    places = told.get("position_ids", torch.arange(embedded.shape[1], device=starts.device).expand(len(starts), -1))
    spread = late[..., None].expand(-1, -1, embedded.shape[-1])
    again = decoder(
        inputs_embeds=embedded.gather(1, spread),
        attention_mask=torch.cat([before & attention.bool(), torch.ones_like(late, dtype=torch.bool)], dim=1),
        position_ids=places.gather(-1, late.expand(*places.shape[:-1], -1)),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    hidden = found.last_hidden_state
    return hidden.scatter(1, spread.to(hidden.device), again.to(hidden.dtype))

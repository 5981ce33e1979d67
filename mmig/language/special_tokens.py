"""New tokens of a frozen LLM: only their own rows train. And the states read out at them.

MGIE's [IMG0] ... [IMG7] and InstructAny2Pix's [base], [gen] are such tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class SpecialTokens(nn.Module):
    """Adds tokens to a tokenizer and an LLM, with trainable rows of the input embedding and of the output layer.

    The LLM's own tables are frozen; they grow, if they must, by rows whose content is never used. The rows here take
    their place by hooks, so the names of the LLM's weights stay. Where the LLM ties its two tables, one row serves
    both. Rows start at the mean of the LLM's rows. Building it on a saved and loaded tokenizer gives the same ids.

    Args:
        llm: causal language model of transformers.
        tokenizer: its tokenizer; gets the tokens that it does not have yet.
        tokens: texts of the new tokens, for example "[IMG0]".

    Raises:
        ValueError: no token, one twice, one that means something already (<s>, </s>), or an LLM that has such tokens
            and would have to grow again.
    """

    ids: Tensor

    def __init__(self, llm: Any, tokenizer: Any, tokens: Sequence[str]) -> None:
        super().__init__()
        ids = _added(llm, tokenizer, tokens)
        embedding, head = llm.get_input_embeddings(), llm.get_output_embeddings()
        self.tied = head.weight is embedding.weight
        self.register_buffer("ids", torch.tensor(ids, device=embedding.weight.device), persistent=False)
        self.rows = nn.Parameter(_mean_rows(embedding, ids))
        if not self.tied:
            self.head_rows = nn.Parameter(_mean_rows(head, ids))
        for table in (embedding, head):
            table.weight.requires_grad_(False)
        embedding.register_forward_hook(_EmbeddingHook(self))
        head.register_forward_hook(_HeadHook(self))

    def input_rows(self) -> Tensor:
        """Rows of the input embedding, [n,D]."""
        return self.rows

    def output_rows(self) -> Tensor:
        """Rows of the output layer, [n,D]."""
        return self.output_parameter()

    def output_parameter(self) -> nn.Parameter:
        """What trains of the output layer; shared with the input embedding where they are tied."""
        return self.rows if self.tied else self.head_rows

    @torch.no_grad()
    def write_into(self, llm: Any) -> None:
        """Copy the rows into the tables of an LLM with these tokens, so that it can be saved as an ordinary one."""
        for table, rows in (
            (llm.get_input_embeddings(), self.rows),
            (llm.get_output_embeddings(), self.output_rows()),
        ):
            table.weight[self.ids] = rows.to(table.weight.dtype)


class TrainedTables(nn.Module):
    """Adds tokens to a tokenizer and an LLM, and lets both tables of the LLM train whole, in float32, as MGIE does.

    So the rows of all other tokens move too; weight decay would draw those that no text uses towards 0. The tables
    belong to the LLM, under its own names; what goes in and out keeps the LLM's dtype. Rows of tokens that the
    tokenizer did not have start at the mean of the others, those of known ones stay.

    Args:
        llm, tokenizer, tokens: see `SpecialTokens`.

    Raises:
        ValueError: as there.
    """

    ids: Tensor

    def __init__(self, llm: Any, tokenizer: Any, tokens: Sequence[str]) -> None:
        super().__init__()
        known = tokenizer.get_vocab()
        ids = _added(llm, tokenizer, tokens)
        fresh = [number for token, number in zip(tokens, ids, strict=True) if token not in known]
        embedding, head = llm.get_input_embeddings(), llm.get_output_embeddings()
        dtype = embedding.weight.dtype
        self.register_buffer("ids", torch.tensor(ids, device=embedding.weight.device), persistent=False)
        self.tied = head.weight is embedding.weight
        self._tables = (embedding, head)  # in a tuple: they are no parts of this module
        for table in self._tables[: 1 if self.tied else 2]:
            if fresh:
                table.weight.data[fresh] = _mean_rows(table, fresh).to(dtype)
            table.weight.data = table.weight.data.float()
            table.weight.requires_grad_(True)
        embedding.register_forward_hook(_CastOutput(dtype))
        head.register_forward_pre_hook(_cast_to_weight)

    def input_rows(self) -> Tensor:
        """Rows of the input embedding, [n,D]."""
        return self._tables[0].weight[self.ids]

    def output_rows(self) -> Tensor:
        """Rows of the output layer, [n,D]."""
        return self.output_parameter()[self.ids]

    def output_parameter(self) -> nn.Parameter:
        """What trains of the output layer; shared with the input embedding where they are tied."""
        return self._tables[1].weight

    def write_into(self, llm: Any) -> None:
        """Nothing to do: the rows are in the tables."""


class TokenStates(NamedTuple):
    """States read out at special tokens.

    Attributes:
        states: [B,n,D], zeros where a token is missing.
        found: bool [B,n], whether the token occurs (and has a state to read).
    """

    states: Tensor
    found: Tensor


def states_at(hidden: Tensor, ids: Tensor, token_ids: Tensor, *, predicting: bool = False) -> TokenStates:
    """States of the LLM at the first occurrence of each given token.

    Args:
        hidden: [B,T,D].
        ids: the tokens that these states belong to as inputs, int64 [B,T]; negative at padding.
        token_ids: int64 [n].
        predicting: the state before the token, from which it was predicted (MGIE, InstructAny2Pix), instead of the one
            whose input it is; a token at position 0 has none and counts as missing.

    Raises:
        ValueError: ids of another shape than the states.
    """
    if ids.shape != hidden.shape[:2]:
        raise ValueError(f"states_at: expected ids {tuple(hidden.shape[:2])}, found {tuple(ids.shape)}")
    hits = ids[:, None] == token_ids.to(ids.device)[:, None]
    places = hits.int().argmax(dim=2) - int(predicting)
    found = hits.any(dim=2) & (places >= 0)
    states = hidden.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, hidden.shape[-1]))
    return TokenStates(states * found[..., None], found)


class _EmbeddingHook:
    """Puts the trainable rows where their ids stand. An object, so that a deep copy takes its rows."""

    def __init__(self, tokens: SpecialTokens) -> None:
        self.tokens = tokens

    def __call__(self, _module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        hits = args[0][..., None] == self.tokens.ids
        rows = self.tokens.rows.to(output.dtype)[hits.int().argmax(dim=-1)]
        return torch.where(hits.any(dim=-1, keepdim=True), rows, output)


class _HeadHook:
    """Puts the logits of the trainable rows in their columns."""

    def __init__(self, tokens: SpecialTokens) -> None:
        self.tokens = tokens

    def __call__(self, _module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        logits = args[0] @ self.tokens.output_rows().to(args[0].dtype).T
        return output.index_copy(-1, self.tokens.ids, logits.to(output.dtype))


class _CastOutput:
    """Gives what follows a table in another precision its own one. An object, so that it can be copied and saved."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, _module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        return output.to(self.dtype)


def _cast_to_weight(module: nn.Module, args: tuple) -> tuple:
    return (args[0].to(module.weight.dtype), *args[1:])


def _added(llm: Any, tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Add the tokens to the tokenizer, and rows to the LLM's tables where they need some; the tokens' ids."""
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token}
    if not tokens or len(set(tokens)) < len(tokens) or used & set(tokens):
        raise ValueError(f"special tokens: expected new, different texts, found {list(tokens)}")
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    if max(ids) >= llm.get_input_embeddings().num_embeddings:
        if any(isinstance(hook, _HeadHook) for hook in llm.get_output_embeddings()._forward_hooks.values()):
            raise ValueError("special tokens: this LLM has some already and cannot grow again; add all at once")
        llm.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    return ids


def _mean_rows(table: Any, ids: Sequence[int]) -> Tensor:
    """Mean of a table's rows before the new ones, once for each new token, float32 [n,D]."""
    return table.weight.detach()[: min(ids)].float().mean(dim=0).expand(len(ids), -1).clone()

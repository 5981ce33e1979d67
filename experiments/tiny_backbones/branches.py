"""One prompt with several answers as one row of tokens: what the prompts share is read once.

A row is the beginning that its prompts share, then for each of them the rest of it (its cue) with its answer. Each
branch sees the shared beginning and itself alone, at the positions that it has behind that beginning, so that all is
computed as if each prompt stood in a row of its own.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from mmig.language.token_loss import IGNORED

Branch = tuple[list[int], list[int]]
"""Ids of a whole prompt, and of its answer with end of sequence."""


class BranchedRows(NamedTuple):
    """Rows padded on the right, all [B,L] but the mask.

    Attributes:
        ids: int64.
        positions: int64, of the rotary embedding.
        mask: bool [B,1,L,L], True where a token (third axis) sees another (fourth).
        branches: int64, 0 for the shared beginning, k for the k-th branch, -1 for padding.
        targets: int64, the answer's token that each position foretells; `IGNORED` where there is none.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    branches: Tensor
    targets: Tensor


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many ids prompts have in common from their beginning; one at least is left to each of them as its cue."""
    shortest = min(map(len, prompts)) - 1
    alike = (len(set(ids)) == 1 for ids in zip(*prompts, strict=False))
    return next((place for place, same in enumerate(alike) if not same or place == shortest), shortest)


def row_length(row: Sequence[Branch]) -> int:
    """Tokens of a row."""
    shared = shared_length([prompt for prompt, _ in row])
    return shared + sum(len(prompt) - shared + len(answer) for prompt, answer in row)


def branched_rows(rows: Sequence[Sequence[Branch]], pad: int) -> BranchedRows:
    """Rows of one branch or more each; `pad` is the id of padding."""
    size = len(rows), max(map(row_length, rows))
    ids, positions = torch.full(size, pad), torch.zeros(size, dtype=torch.int64)
    branches, targets = torch.full(size, -1), torch.full(size, IGNORED)
    for place, row in enumerate(rows):
        shared = shared_length([prompt for prompt, _ in row])
        cues = [prompt[shared:] for prompt, _ in row]
        parts = [row[0][0][:shared], *(cue + answer for cue, (_, answer) in zip(cues, row, strict=True))]
        foretold = [[IGNORED] * (len(cue) - 1) + answer + [IGNORED] for cue, (_, answer) in zip(cues, row, strict=True)]
        end = sum(map(len, parts))
        ids[place, :end] = torch.tensor([*chain(*parts)])
        targets[place, :end] = torch.tensor([IGNORED] * shared + [*chain(*foretold)])
        branches[place, :end] = torch.tensor([number for number, part in enumerate(parts) for _ in part])
        starts = [0] + [shared] * len(row)
        positions[place, :end] = torch.tensor(
            [start + step for start, part in zip(starts, parts, strict=True) for step in range(len(part))]
        )
    seen = branches[:, None, :]
    visible = ((seen == 0) | (seen == branches[:, :, None])).tril()
    return BranchedRows(ids, positions, visible[:, None], branches, targets)

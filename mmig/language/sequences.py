"""From texts to padded ids and states: prompts with places for visual tokens, responses z_d, and what follows where.

e0 are the LLM's last hidden states (after the final norm) at the positions whose input is a token of the response,
end-of-sequence excluded (eq 1, 2). In training the response is the data's (teacher forcing); at inference it is what
the LLM generated, and the states belong to the generated ids, never to re-tokenised text.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmig.language.token_loss import IGNORED

PROMPT_TEMPLATE = "Image: N/A\nInstruction: {instruction}\nResponse:"
"""What the LLM reads before the response; the image's tokens come before it from stage 2 on."""

IMAGE_PROMPT_TEMPLATE = "Image: {image}\nInstruction: {instruction}\nResponse:"
"""What the LLM reads before the response where there is an image; its visual tokens stand at {image}."""

VISUAL_TOKEN = -1
"""Stands in a list of ids for one visual token."""


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


def mixed_prompt_ids(
    tokenizer: Any,
    instructions: Sequence[str],
    has_image: Sequence[bool],
    num_visual_tokens: int,
    template: str = PROMPT_TEMPLATE,
    image_template: str = IMAGE_PROMPT_TEMPLATE,
) -> list[list[int]]:
    """Ids of the prompts with the begin-of-sequence token; `VISUAL_TOKEN` at the places of visual tokens.

    What stands before and after the image is tokenised apart. Prompts without image are those of `prompt_ids`.

    Raises:
        ValueError: an image template without {image} before {instruction}.
    """
    before, found, after = image_template.partition("{image}")
    if not found or "{instruction}" not in after:
        raise ValueError(f"image_prompt_template: expected {{image}} before {{instruction}}, found {image_template!r}")
    start = prompt_ids(tokenizer, [""], before)[0]
    ends = tokenizer([after.format(instruction=text) for text in instructions], add_special_tokens=False)["input_ids"]
    bare = prompt_ids(tokenizer, instructions, template)
    image = [VISUAL_TOKEN] * num_visual_tokens
    return [start + image + end if seen else without for seen, end, without in zip(has_image, ends, bare, strict=True)]


class EncodedResponses(NamedTuple):
    """Responses as the LLM writes them.

    Attributes:
        ids: of each response, cut to the longest that is allowed.
        targets: `ids` and the end token; without it where the response was cut, nothing where there is none.
    """

    ids: list[list[int]]
    targets: list[list[int]]


def encode_responses(tokenizer: Any, responses: Sequence[str], max_tokens: int) -> EncodedResponses:
    """Tokenise responses for teacher forcing. An empty one is a missing one: it has no target, not even the end.

    A cut response is followed by no end token: the LLM would learn to stop in the middle of a sentence.
    """
    whole = tokenizer(list(responses), add_special_tokens=False)["input_ids"] if responses else []
    end = tokenizer.eos_token_id
    ids = [row[:max_tokens] for row in whole]
    return EncodedResponses(ids, [[*row, end] if 0 < len(row) <= max_tokens else row[:max_tokens] for row in whole])


class TeacherForcedIds(NamedTuple):
    """A batch of prompts and responses, right-padded: T positions, responses of at most L tokens.

    Attributes:
        ids: int64 [B,T]; `VISUAL_TOKEN` where a visual token goes.
        attention: bool [B,T], False at padding.
        places: int64 [B,L+1], positions from each prompt's last token on.
        targets: int64 [B,L+1], what follows at `places`; `IGNORED` where nothing counts.
        mask: bool [B,L], True where the input at `places[:, 1:]` is a token of the response.
    """

    ids: Tensor
    attention: Tensor
    places: Tensor
    targets: Tensor
    mask: Tensor


def teacher_forced_ids(
    prompts: Sequence[list[int]], responses: Sequence[list[int]], targets: Sequence[list[int]]
) -> TeacherForcedIds:
    """Put each response behind its prompt (eq 7, 8); the end token is predicted, never read."""
    rows = [torch.tensor(p + r, dtype=torch.int64) for p, r in zip(prompts, responses, strict=True)]
    ids = pad_sequence(rows, batch_first=True)
    offsets = torch.arange(max(1, max(len(r) for r in responses)) + 1)
    expected = torch.full((len(rows), len(offsets)), IGNORED)
    for row, target in zip(expected, targets, strict=True):
        row[: len(target)] = torch.tensor(target, dtype=torch.int64)
    return TeacherForcedIds(
        ids=ids,
        attention=torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None],
        places=(torch.tensor([len(p) for p in prompts])[:, None] - 1 + offsets).clamp(max=ids.shape[1] - 1),
        targets=expected,
        mask=offsets[:-1] < torch.tensor([len(r) for r in responses])[:, None],
    )


def left_padded_ids(prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Prompts for generation: ids int64 [B,T] and attention mask int64 [B,T], padding on the left."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def until_end(rows: Tensor, end: int) -> list[list[int]]:
    """Generated ids [B,T] as lists without the end token and what follows it."""
    lists = rows.tolist()
    return [row[: row.index(end)] if end in row else row for row in lists]


def check_room(
    config: Any, texts: Sequence[str], prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> None:
    """Refuse a text with which a language model would read more positions than it has: it would write rubbish.

    Args:
        config: of the model; without `max_position_embeddings` it has no limit.
        texts: what the prompts were made of.
        prompts, responses: ids; of a response those that are given.

    Raises:
        ValueError: naming the first such text.
    """
    room = getattr(config, "max_position_embeddings", None)
    for text, prompt, response in zip(texts, prompts, responses, strict=True):
        if room is not None and len(prompt) + len(response) >= room:
            raise ValueError(
                f"instruction {text[:30]!r} ...: {len(prompt)} tokens with its prompt and {len(response)} of a given "
                f"response, but the language model reads fewer than {room} in all; shorten it"
            )

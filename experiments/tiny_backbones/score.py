"""Measure the exported CLIP, language models or captioner on held-out samples: what assets/tiny/README.md reports.

`python -m experiments.tiny_backbones.score clip|clip-eval|lm|captioner --data configs/data/plain.yaml --split test`
`python -m experiments.tiny_backbones.score llava --data configs/tiny/llava.yaml --split test` (see `score_llava`)
`python -m experiments.tiny_backbones.score imagebind --data configs/tiny/imagebind.yaml --split test`
(see `score_imagebind`)

Texts are judged by meaning, through a function of the data set that is handed in by its path; nothing here knows how a
scene is described.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.schema import Batch
from experiments.tiny_backbones.clip_model import normalise_images
from experiments.tiny_backbones.prompt import TEMPLATES, encode_all, format_prompt, padded_rows
from experiments.tiny_backbones.score_imagebind import score_imagebind
from experiments.tiny_backbones.score_llava import EditJudge, score_llava
from experiments.tiny_backbones.scoring import (
    ASSETS,
    Scores,
    held_out,
    load_function,
    options,
    print_scores,
    retrieval,
)
from mmig.base.commands import one_line_errors
from mmig.language.token_loss import token_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_NEW_TOKENS = 80
JUDGE = "datamodules.tinyworld.grammar.judge_text"
EDIT_JUDGE = "datamodules.tinyworld.edit_grammar.leads_to"
NAME_JUDGE = "datamodules.tinyworld.edit_grammar.names"
KINDS = ("literal", "inferable", "visual")


class Verdict(Protocol):
    """What a judge says about a text: each part of the description is right, and all of it."""

    objects: bool
    colours: bool
    count: bool
    places: bool
    correct: bool


Judge = Callable[[str, Any], Verdict]
"""(text, scene of the metadata) -> verdict."""


@torch.no_grad()
def score_clip(folder: Path, batches: Iterable[Batch]) -> Scores:
    """Caption retrieval of the target images, and how often an image is nearer to its caption than to its sibling's."""
    from mmig.backbones.clip import load_open_clip

    clip = load_open_clip(folder)
    images, texts, others, captions = [], [], [], []
    for batch in batches:
        images.append(clip.model.encode_image(normalise_images(batch["target"])))
        texts.append(clip.model.encode_text(clip.tokenizer(batch["target_caption"])))
        others.append(clip.model.encode_text(clip.tokenizer(batch["source_caption"])))
        captions += batch["target_caption"]
    features, own, sibling = (F.normalize(torch.cat(part), dim=-1) for part in (images, texts, others))
    nearer = (features * own).sum(1) > (features * sibling).sum(1)
    return retrieval(features, own, captions) | {"own_before_sibling": nearer.float().mean().item()}


@torch.no_grad()
def score_language(root: Path, batches: Iterable[Batch], judge: Judge, edit_judge: EditJudge) -> Scores:
    """Share of right answers (greedy, the source caption given): "response/literal", "expressive/inferable", ...

    By task and kind of instruction, and within a kind by edit type; samples of each kind; and the perplexity, a token,
    of the given responses to literal instructions.
    """
    from mmig.backbones.llm import load_llm, load_llm_tokenizer

    model, tokenizer = load_llm(root / "llama"), load_llm_tokenizer(root / "llama")
    right: dict[str, list[bool]] = {}
    loss_sum, tokens = 0.0, 0
    for batch in batches:
        kinds = [_kind(batch, row) for row in range(len(batch["key"]))]
        for task, template in TEMPLATES.items():
            rows = zip(batch["instruction"], batch["source_caption"], strict=True)
            prompts = [format_prompt(order, caption, template) for order, caption in rows]
            pairs = encode_all(tokenizer, prompts, batch[task])
            if task == "response" and "literal" in kinds:
                literal = [pair for pair, kind in zip(pairs, kinds, strict=True) if kind == "literal"]
                loss, counted = _loss_of(model, literal, tokenizer.pad_token_id)
                loss_sum, tokens = loss_sum + loss, tokens + counted
            answers = generate_left_padded(model, [prompt for prompt, _ in pairs], tokenizer.pad_token_id)
            for row, text in enumerate(tokenizer.batch_decode(answers, skip_special_tokens=True)):
                scenes = [batch["metadata"][row][f"{name}_scene"] for name in ("source", "target")]
                verdict = judge(text, scenes[1]).correct if task == "response" else edit_judge(text, *scenes)
                for name in (f"{task}/{kinds[row]}", f"{task}/{kinds[row]}/{batch['edit_type'][row]}"):
                    right.setdefault(name, []).append(verdict)
    counts = {f"samples/{kind}": len(right[f"response/{kind}"]) for kind in KINDS if f"response/{kind}" in right}
    shares = {name: sum(verdicts) / len(verdicts) for name, verdicts in sorted(right.items())}
    return {"perplexity": math.exp(loss_sum / max(tokens, 1)), **counts, **shares}


def _kind(batch: Batch, row: int) -> str:
    """The kind of a sample's instruction; samples of older shards do not say it."""
    kind: str = batch["metadata"][row].get("kind", "visual" if batch["edit_type"][row] == "visual" else "literal")
    return kind


def _loss_of(model: "PreTrainedModel", pairs: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[float, int]:
    """Sum of the cross-entropy of all answers' tokens, and how many these are."""
    ids, mask, labels = padded_rows(pairs, pad)
    loss = token_loss(model(input_ids=ids, attention_mask=mask).logits[:, :-1], labels[:, 1:])
    return loss.sums.sum().item(), int(loss.counts.sum())


def generate_left_padded(model: "PreTrainedModel", prompts: Sequence[list[int]], pad: int) -> Tensor:
    """Greedy continuations of prompts of different lengths, ids [B,L] without the prompts."""
    length = max(map(len, prompts))
    ids = torch.tensor([[pad] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=MAX_NEW_TOKENS, pad_token_id=pad
    )
    return output[:, length:]


@torch.no_grad()
def score_captioner(root: Path, batches: Iterable[Batch], judge: Judge) -> Scores:
    """Share of captions (greedy, of source and target images) that are right in objects, colours and count; in all."""
    from mmig.backbones.blip2 import load_blip2, load_blip2_processor

    model, tokenizer = load_blip2(root / "blip2"), load_blip2_processor(root / "blip2").tokenizer
    verdicts: list[Verdict] = []
    for batch in batches:
        for field in ("source", "target"):
            output = model.generate(
                pixel_values=normalise_images(batch[field]), do_sample=False, max_new_tokens=MAX_NEW_TOKENS
            )
            captions = tokenizer.batch_decode(output, skip_special_tokens=True)
            scenes = [metadata[f"{field}_scene"] for metadata in batch["metadata"]]
            verdicts += [judge(text.strip(), scene) for text, scene in zip(captions, scenes, strict=True)]
    count = len(verdicts)
    named = sum(verdict.objects and verdict.colours and verdict.count for verdict in verdicts)
    parts = {
        name: sum(getattr(verdict, name) for verdict in verdicts) / count
        for name in ("objects", "colours", "count", "places", "correct")
    }
    return {"object_colour_count": named / count, **parts, "texts": count}


def main(args: Sequence[str] | None = None) -> None:
    """Score one exported part and print its figures."""
    parser = options(__doc__)
    parser.add_argument("part", choices=("clip", "clip-eval", "lm", "captioner", "llava", "imagebind"))
    parser.add_argument("--assets", type=Path, default=ASSETS, help="root of the tiny backbones")
    parser.add_argument("--judge", default=JUDGE, help="function (text, scene) -> verdict")
    parser.add_argument("--edit-judge", default=EDIT_JUDGE, help="function (text, source, target) -> right (lm, llava)")
    parser.add_argument("--name-judge", default=NAME_JUDGE, help="function (text, object, source) -> named (llava)")
    arguments = parser.parse_args(args)
    with one_line_errors():
        scores = _score(arguments, held_out(arguments))
    print_scores(scores)


def _score(arguments: argparse.Namespace, batches: Iterable[Batch]) -> Scores:
    if arguments.part in ("clip", "clip-eval"):
        return score_clip(arguments.assets / arguments.part, batches)
    if arguments.part == "imagebind":
        return score_imagebind(arguments.assets / "imagebind", batches)
    if arguments.part == "llava":
        judges = load_function(arguments.edit_judge), load_function(arguments.name_judge)
        return score_llava(arguments.assets / "llava", batches, *judges)
    judge = load_function(arguments.judge)
    if arguments.part == "captioner":
        return score_captioner(arguments.assets, batches, judge)
    return score_language(arguments.assets, batches, judge, load_function(arguments.edit_judge))


if __name__ == "__main__":
    main()

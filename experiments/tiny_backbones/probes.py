"""Measure what the tiny CLIP's frozen states tell: nine queries learn in 300 steps to read shape and colour by place.

`python -m experiments.tiny_backbones.probes --assets assets/tiny --data configs/data/plain.yaml`

A fresh `SceneReader` (width 128, four heads) learns from samples of the training split, is scored on held-out ones, and
reads what the methods read: of the text encoder the final states, 77 tokens each ("text_encoder": source captions and
responses; "edit_before" and "edit_after": expressive edits, of which it tells the object before and after the edit); of
the vision tower the last states of its 64 patches, and its six class tokens, of source and target images.

Of the places that hold an object, "shape", "colour" and "size" are the fractions whose value is told right, left out
where it shows nowhere (colours of line drawings); "empty" is the fraction of the other places that are told to be
empty. Figures are percent.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from experiments.tiny_backbones.clip_model import normalise_images
from experiments.tiny_backbones.scene_reader import (
    ATTRIBUTES,
    EMPTY,
    SceneReader,
    edit_labels,
    reading_losses,
    scene_labels,
)
from experiments.tiny_backbones.scoring import ASSETS, held_out, options
from mmig.base.commands import one_line_errors
from mmig.methods.mmig.llm.visual_tokens import class_tokens, depths
from mmig.training.optim import OptimizerConfig, build_optimizer, clip_grad_norm, lr_factor

MOMENTS = ("before", "after")
STEPS, BATCH_SIZE = 300, 64
OPTIMIZER = OptimizerConfig(lr=3e-3, betas=(0.9, 0.98), warmup_steps=20, schedule="cosine")


class Readable(NamedTuple):
    """What a reader learns from or is scored on.

    Attributes:
        states: float16 [N,L,W].
        labels: of the N scenes, int64 [N,9,3].
    """

    states: Tensor
    labels: Tensor


@torch.no_grad()
def frozen_states(root: Path, batches: Iterable[Batch]) -> dict[str, Readable]:
    """What the exported towers make of samples with both images, source caption, response and scene graphs, by part.

    Args:
        root: of the tiny backbones.
        batches: without expressive texts in them the parts that read these are left out.
    """
    from mmig.backbones.clip import load_clip_vision
    from mmig.backbones.diffusion import load_text_encoder, load_tokenizer
    from mmig.diffusion.text import encode_text

    vision = load_clip_vision(root / "clip-vision")
    encoder, tokenizer = load_text_encoder(root / "stable-diffusion"), load_tokenizer(root / "stable-diffusion")
    blocks = depths(vision.config.num_hidden_layers)
    found: dict[str, list[Readable]] = defaultdict(list)
    for batch in batches:
        for image, text in (("source", "source_caption"), ("target", "response")):
            labels = scene_labels([metadata[f"{image}_scene"] for metadata in batch["metadata"]])
            states = encode_text(encoder, tokenizer, batch[text])[0]  # type: ignore[literal-required]
            found["text_encoder"].append(Readable(states.half(), labels))
            pixels = normalise_images(batch[image])  # type: ignore[literal-required]
            patches = vision(pixel_values=pixels).last_hidden_state[:, 1:]
            found["patch_tokens"].append(Readable(patches.half(), labels))
            found["class_tokens"].append(Readable(class_tokens(vision, pixels, blocks).half(), labels))
        if batch["has_expressive"].all():
            states = encode_text(encoder, tokenizer, batch["expressive"])[0].half()
            for moment, labels in zip(
                MOMENTS, edit_labels([known["edit"] for known in batch["metadata"]]), strict=True
            ):
                found[f"edit_{moment}"].append(Readable(states, labels))
    return {part: Readable(*map(torch.cat, zip(*pieces, strict=True))) for part, pieces in found.items()}


def trained_reader(known: Readable, steps: int = STEPS, seed: int = 0) -> SceneReader:
    """A fresh reader after `steps` steps of `BATCH_SIZE` scenes, drawn without repetition until all were seen."""
    states, labels = known
    torch.manual_seed(seed)
    reader = SceneReader(states.shape[-1])
    optimizer = build_optimizer(reader.named_parameters(), OPTIMIZER)
    rounds = -(-steps * BATCH_SIZE // len(states))
    order = torch.cat([torch.randperm(len(states)) for _ in range(rounds)])
    for step, rows in enumerate(order[: steps * BATCH_SIZE].split(BATCH_SIZE)):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_factor(OPTIMIZER, step, steps)
        optimizer.zero_grad()
        reading_losses(reader(states[rows].float()), labels[rows]).mean().backward()
        clip_grad_norm(list(reader.parameters()), OPTIMIZER.clip_norm)
        optimizer.step()
    return reader


@torch.no_grad()
def reading_scores(reader: nn.Module, known: Readable) -> dict[str, float]:
    """Fractions in [0,1] of objects whose "shape", "colour" and "size" are told right, and of "empty" places."""
    states, labels = known
    logits = zip(*(reader(part.float()) for part in states.split(BATCH_SIZE)), strict=True)
    told = torch.stack([torch.cat(parts).argmax(-1) for parts in logits], dim=-1)
    right, present = told == labels, labels > EMPTY
    scores = {
        name: (right & present)[..., number].sum() / present[..., number].sum()
        for number, name in enumerate(ATTRIBUTES)
    }
    empty = labels[..., 0] == EMPTY
    scores["empty"] = (right[..., 0] & empty).sum() / empty.sum()
    return {name: value.item() for name, value in scores.items()}


def main(args: Sequence[str] | None = None) -> None:
    """Print the scores of every part."""
    parser = options(__doc__)
    parser.set_defaults(limit=1000)
    parser.add_argument("--assets", type=Path, default=ASSETS, help="root of the tiny backbones")
    parser.add_argument("--train-samples", type=int, default=3200, help="samples that the readers learn from")
    parser.add_argument("--seed", type=int, default=0, help="of the readers")
    arguments = parser.parse_args(args)
    print(f"{'':14s}" + "".join(f"{name:>8s}" for name in (*ATTRIBUTES, "empty")))  # noqa: T201, the result of the command
    with one_line_errors():
        for part, scores in probe_scores(arguments):
            print(f"{part:14s}" + "".join(f"{100 * value:8.1f}" for value in scores.values()), flush=True)  # noqa: T201


def probe_scores(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Each part and the scores of its reader."""
    training = argparse.Namespace(**vars(arguments) | {"split": "train", "limit": arguments.train_samples})
    learnt = frozen_states(arguments.assets, held_out(training))
    asked = frozen_states(arguments.assets, held_out(arguments))
    for part, known in learnt.items():
        yield part, reading_scores(trained_reader(known, seed=arguments.seed), asked[part])


if __name__ == "__main__":
    main()

"""Sample i of the small world: a pure function of (seed, split, i), with every field of the schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.edits import GLOBAL_TYPES, TRAINED_TYPES, Edit, draw_edit
from datamodules.tinyworld.instructions import instruct
from datamodules.tinyworld.layout import Rules
from datamodules.tinyworld.render import render, silhouette, silhouettes
from datamodules.tinyworld.scene import HELD_OUT_PAIRS, SIDE, Scene
from datamodules.tinyworld.words import Description, background_noun, caption, noun, response

ONE_TYPE = {"outline": "outline", "removals": "remove"}
"""Splits of one edit type alone; `outline` is in no other split."""
SPLITS = ("train", "val", "test", "unseen_pairs", "unseen_counts", "unseen_photographs", *ONE_TYPE)
MAX_ATTEMPTS = 2000
Sample = dict[str, Any]
Mask = NDArray[np.bool_]


def split_rules(split: str, photographs: bool) -> Rules:
    """What a split holds. ValueError on an unknown split, or for unseen photographs in a world without any."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if split == "unseen_photographs":
        if not photographs:
            raise ValueError("split 'unseen_photographs' needs photographs: leave out --no-photographs")
        return Rules(photographs=True, held_out_photographs=True)
    return Rules(photographs, held_out_pairs=split == "unseen_pairs", max_things=4 if split == "unseen_counts" else 3)


def edit_types(split: str, photographs: bool) -> tuple[str, ...]:
    """The edit types that a split draws from, each equally often."""
    if split in ONE_TYPE:
        return (ONE_TYPE[split],)
    scenes_only = split in ("unseen_pairs", "unseen_counts") or not photographs
    return tuple(name for name in TRAINED_TYPES if not (scenes_only and name == "photographic"))


def draw_pair(seed: int, split: str, index: int, photographs: bool = True) -> tuple[Draws, Scene, Scene, Edit]:
    """Source scene, target scene and edit of one sample, with its draws ready for the words."""
    rules, types = split_rules(split, photographs), edit_types(split, photographs)
    draws = Draws(seed, split, index)
    edit_type = draws.choice(types)
    for _ in range(MAX_ATTEMPTS):
        found = draw_edit(draws, edit_type, rules)
        if found is not None and _belongs(split, found[0], found[1]):
            return draws, *found
    raise RuntimeError(f"tinyworld: no {edit_type} edit found for seed {seed}, split {split}, sample {index}")


def _belongs(split: str, source: Scene, target: Scene) -> bool:
    """Whether a pair has what its held-out split is about."""
    if split == "unseen_pairs":
        return any((thing.colour, thing.shape) in HELD_OUT_PAIRS for thing in target.things)
    if split == "unseen_counts":
        return max(len(source.things), len(target.things)) == 4
    return True


def make_sample(seed: int, split: str, index: int, photographs: bool = True) -> Sample:
    """One sample: images (PIL RGB 64x64), masks (PIL L, 0 or 255), texts, concepts, and the scene graphs as metadata.

    The same on every machine. Raises ValueError on an unknown split, PhotographError where photographs are missing.
    """
    return with_images(draw_sample(seed, split, index, photographs), _to_image)


def draw_sample(seed: int, split: str, index: int, photographs: bool = True) -> Sample:
    """The same as `make_sample`, its images as uint8 [64, 64, 3] and its masks as bool [64, 64]."""
    draws, source, target, edit = draw_pair(seed, split, index, photographs)
    source_caption, target_caption = caption(draws, source), caption(draws, target)
    gone = edit.before if edit.type == "visual" and edit.after is None else None
    answer = response(draws, target, gone)
    target_mask, reference_mask = edit_masks(source, target, edit)
    return {
        "key": f"{split}-{index:08d}",
        "source": render(source),
        "target": render(target),
        "target_mask": target_mask,
        "reference_mask": reference_mask,
        "instruction": instruct(draws, edit, source, target),
        "response": answer.text,
        "source_caption": source_caption.text,
        "target_caption": target_caption.text,
        "edit_type": edit.type,
        "object_phrase": object_phrase(target, edit),
        "background_phrase": background_noun(target.background, target.effect),
        "concepts": concepts(target, answer),
        "attachments": [],
        "metadata": {
            "world": "tinyworld",
            "split": split,
            "index": index,
            "edit": edit.to_dict(),
            "source_scene": source.to_dict(),
            "target_scene": target.to_dict(),
        },
    }


def edit_masks(source: Scene, target: Scene, edit: Edit) -> tuple[Mask, Mask]:
    """Where the edit acts, bool [64, 64], in the target and in the source: the object, the background, or everything.

    An added object marks its future place in the source, a removed one its former place in the target.
    """
    if edit.type in GLOBAL_TYPES:
        everything = np.ones((SIDE, SIDE), dtype=np.bool_)
        return everything, everything
    if edit.type == "background":
        return ~silhouettes(target.things), ~silhouettes(source.things)
    present = [thing for thing in (edit.before, edit.after) if thing is not None]
    return silhouette(present[-1]), silhouette(present[0])


def object_phrase(target: Scene, edit: Edit) -> str:
    """The object that the edit is about: as the goal image shows it, or as it was if it is gone.

    Of a global edit: the first object; of a photograph: its subject.
    """
    if edit.after is not None:
        return noun(edit.after, target.effect)
    if edit.before is not None:
        return noun(edit.before)
    return noun(target.things[0], target.effect) if target.things else background_noun(target.background)


def concepts(target: Scene, answer: Description) -> list[dict[str, Any]]:
    """Every object and the background of the goal image: phrase, verbatim in the response, and mask.

    Objects with one and the same phrase share one concept.
    """
    masks: dict[str, Mask] = {}
    for phrase, thing in zip(answer.thing_phrases, target.things, strict=True):
        masks[phrase] = masks.get(phrase, np.zeros((SIDE, SIDE), dtype=np.bool_)) | silhouette(thing)
    masks[answer.background_phrase] = ~silhouettes(target.things)
    return [{"phrase": phrase, "mask": mask} for phrase, mask in masks.items()]


def with_images(sample: Sample, convert: Callable[[NDArray[Any]], Any]) -> Sample:
    """The sample with every array (image or mask) passed through `convert`: `png` makes what the shards store."""
    changed = {name: convert(value) if isinstance(value, np.ndarray) else value for name, value in sample.items()}
    return changed | {"concepts": [concept | {"mask": convert(concept["mask"])} for concept in sample["concepts"]]}


def _to_image(pixels: NDArray[Any]) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == np.bool_ else pixels)

"""Sample i of the small world: a pure function of (seed, level, split, i), with every field of the schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.edits import GLOBAL_TYPES, Edit, draw_edit, is_visible
from datamodules.tinyworld.expressive import expressive, expressive_blind
from datamodules.tinyworld.inferable import TRAINED_SPLITS
from datamodules.tinyworld.instructions import can_infer, instruct, instruct_by_inference
from datamodules.tinyworld.layout import Rules
from datamodules.tinyworld.render import render, silhouette, silhouettes
from datamodules.tinyworld.scene import SIDE, Scene
from datamodules.tinyworld.splits import belongs, edit_types, kinds_of, split_rules
from datamodules.tinyworld.words import Description, background_noun, caption, noun, response
from datamodules.tinyworld.world import DENOISER_KINDS, World

MAX_ATTEMPTS = 20_000
Sample = dict[str, Any]
Mask = NDArray[np.bool_]
Pair = tuple[Scene, Scene, Edit]


def draw_pair(world: World, split: str, index: int) -> tuple[Draws, str, Pair]:
    """Source scene, target scene and edit of one sample, the kind of its instruction, and its draws for the words.

    Raises ValueError on an unknown split or one that the world does not have.
    """
    rules, types = split_rules(split, world), edit_types(split, world)
    draws = Draws(world.seed, f"{world.level}/{split}", index)
    edit_type = draws.choice(types)
    kind = draws.choice(kinds_of(edit_type, world))

    def fits(source: Scene, target: Scene, edit: Edit) -> bool:
        if world.objects and len(target.things) != world.objects:
            return False
        return kind != "inferable" or can_infer(edit, target)

    found = find_pair(draws, edit_type, split, rules, fits)
    if found is None:
        raise RuntimeError(f"tinyworld: no {edit_type} edit found for {world}, split {split}, sample {index}")
    return draws, kind, found


def find_pair(
    draws: Draws, edit_type: str, split: str, rules: Rules, fits: Callable[[Scene, Scene, Edit], bool]
) -> Pair | None:
    """The first edit of a type that is drawn, belongs to a split, can be seen, and fits; None after `MAX_ATTEMPTS`.

    Args:
        fits: says of source, target and edit whether they are what is sought.
    """
    for _ in range(MAX_ATTEMPTS):
        found = draw_edit(draws, edit_type, rules)
        if found is not None and belongs(split, found[0], found[1]) and is_visible(*found) and fits(*found):
            return found
    return None


def make_sample(
    seed: int,
    split: str,
    index: int,
    photographs: bool = True,
    level: str = "full",
    kinds: tuple[str, ...] = DENOISER_KINDS,
) -> Sample:
    """One sample: images (PIL RGB 64x64), masks (PIL L, 0 or 255), texts, concepts, and the scene graphs as metadata.

    The same on every machine; `level` and `kinds`: see `world`. Raises ValueError on an unknown split, level or kind
    and on what the level does not have, PhotographError where photographs are missing.
    """
    return with_images(draw_sample(seed, split, index, photographs, level, kinds), _to_image)


def draw_sample(
    seed: int,
    split: str,
    index: int,
    photographs: bool = True,
    level: str = "full",
    kinds: tuple[str, ...] = DENOISER_KINDS,
) -> Sample:
    """The same as `make_sample`, its images as uint8 [64, 64, 3] and its masks as bool [64, 64]."""
    return draw_from(World(seed, level, photographs, kinds), split, index)


def draw_from(world: World, split: str, index: int) -> Sample:
    """Sample `index` of a split of a world, in arrays as `draw_sample` gives it; or in texts alone."""
    return assemble(world, split, index, *draw_pair(world, split, index))


def assemble(world: World, split: str, index: int, draws: Draws, kind: str, pair: Pair) -> Sample:
    """The sample of a pair of scenes with the edit between them: pictures, masks, and words from `draws`."""
    source, target, edit = pair
    source_caption, target_caption = caption(draws, source), caption(draws, target)
    gone = edit.before if edit.type == "visual" and edit.after is None else None
    answer = response(draws, target, gone)
    pictures = _pictures(pair) if world.pictures else {}
    if kind == "inferable":
        instruction = instruct_by_inference(draws, edit, source, target, held_out=split not in TRAINED_SPLITS)
    else:
        instruction = instruct(draws, edit, source, target)
    blind = {"expressive_blind": expressive_blind(edit)} if kind == "visual" else {}
    return {
        "key": f"{world.level}-{split}-{index:08d}",
        **pictures,
        "instruction": instruction,
        "response": answer.text,
        "expressive": expressive(edit, source, target),
        "source_caption": source_caption.text,
        "target_caption": target_caption.text,
        "edit_type": edit.type,
        "object_phrase": object_phrase(target, edit),
        "background_phrase": background_noun(target.background, target.effect),
        "concepts": concepts(target, answer) if world.pictures else [],
        "attachments": [],
        "metadata": blind
        | {
            "world": "tinyworld",
            "level": world.level,
            "kind": kind,
            "split": split,
            "index": index,
            "edit": edit.to_dict(),
            "source_scene": source.to_dict(),
            "target_scene": target.to_dict(),
        },
    }


def _pictures(pair: Pair) -> Sample:
    """Images and masks of a sample, by field."""
    source, target, edit = pair
    target_mask, reference_mask = edit_masks(source, target, edit)
    return {
        "source": render(source),
        "target": render(target),
        "target_mask": target_mask,
        "reference_mask": reference_mask,
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
    """The sample with every array (image, mask, attachment) put through `convert`; shards hold what `png` gives."""
    changed = {name: convert(value) if isinstance(value, np.ndarray) else value for name, value in sample.items()}
    attached = [
        entry | {"data": convert(entry["data"])} if isinstance(entry["data"], np.ndarray) else entry
        for entry in sample["attachments"]
    ]
    concepts = [concept | {"mask": convert(concept["mask"])} for concept in sample["concepts"]]
    return changed | {"concepts": concepts, "attachments": attached}


def _to_image(pixels: NDArray[Any]) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == np.bool_ else pixels)

"""Sample i of the subjects' world: an object whose texture only an attached picture shows is added or put in.

`target_caption` with its placeholders and attachments is a sample of subject-driven generation; source, instruction and
target are an edit. Scenes are plain: one or two objects on one colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from datamodules.tinyworld import instructions
from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.effects import Pixels
from datamodules.tinyworld.layout import MIN_CONTRAST, Rules, put, random_thing
from datamodules.tinyworld.render import silhouette, silhouettes
from datamodules.tinyworld.sample import MAX_ATTEMPTS, Sample
from datamodules.tinyworld.scene import BACKGROUND_COLOURS, Background, Scene, Thing, fields_of
from datamodules.tinyworld.split_hash import check_split, hashed_split
from datamodules.tinyworld.subjects import COLOURS, Texture, distance, draw_texture, render_with_subjects
from datamodules.tinyworld.words import AT_PLACE, RESPONSE_LEADS, SCENE_HEADS, background_noun, noun, with_article

SPLITS = ("train", "val", "test", "unseen_textures")
SUBJECT_SHAPES = ("circle", "square", "triangle", "diamond")  # which show enough of a texture
RULES = Rules(photographs=False, plain=True)
CUT_SIDES = range(12, 24)  # pixels
MOST_OFF = 4  # pixels between the middles of cut and object
BACKGROUND_SHARE = (10, 40)  # percent of a cut that is not the subject
Textures = dict[Thing, Texture]


@dataclass(frozen=True, slots=True)
class Cut:
    """A square of a picture that shows a subject: first column and row, side, all in pixels; and the scene it is of."""

    left: int
    top: int
    side: int
    scene: Scene


class Pair(NamedTuple):
    """Source and target scene; what the edited object replaces (None: nothing); that object; textures in order."""

    source: Scene
    target: Scene
    before: Thing | None
    after: Thing
    textures: Textures


def draw_subject_sample(seed: int, split: str, index: int) -> Sample:
    """One sample, images as uint8 [64, 64, 3] and masks as bool [64, 64]; the same on every machine.

    Attachment k, a square cut with 10 to 40 percent background, is uint8 [side, side, 3]: of the target in training, of
    another scene elsewhere. Raises ValueError on an unknown split.
    """
    check_split(split, SPLITS)
    draws = Draws(seed, f"subjects/{split}", index)
    pair = _pair(draws, split)
    target, textures, before = pair.target, pair.textures, pair.before
    pixels = render_with_subjects(target, textures)
    shown = [_shown(draws, split, pixels, target, thing, texture) for thing, texture in textures.items()]
    target_caption = _joined(draws.choice(SCENE_HEADS), _described(target, textures, placeholders=True))
    return {
        "key": f"subjects-{split}-{index:08d}",
        "source": render_with_subjects(pair.source, textures),
        "target": pixels,
        "target_mask": silhouette(pair.after),
        "reference_mask": silhouette(pair.after if before is None else before),
        "instruction": _instruction(draws, pair),
        "response": f"{_joined(draws.choice(RESPONSE_LEADS), _described(target, textures, placeholders=False))}.",
        "source_caption": _joined(draws.choice(SCENE_HEADS), _described(pair.source, textures, placeholders=False)),
        "target_caption": target_caption,
        "edit_type": "add" if before is None else "replace",
        "object_phrase": _phrase(pair.after),
        "background_phrase": background_noun(target.background),
        "concepts": _concepts(target, textures),
        "attachments": _attachments(target_caption, [picture for picture, _ in shown]),
        "metadata": {"world": "subjects", "split": split, "index": index, **_facts(pair, [cut for _, cut in shown])},
    }


def draw_subject_sample_in_words(seed: int, split: str, index: int) -> Sample:
    """The same sample (key and pictures too), whose target caption says in words what its placeholders show.

    The attachments stay, bound to no word of it, for metrics that look at them.
    """
    sample = draw_subject_sample(seed, split, index)
    caption = sample["target_caption"]
    for number, subject in enumerate(sample["metadata"]["subjects"]):
        shape, texture = subject["thing"]["shape"], Texture(**subject["texture"])
        caption = caption.replace(f"<image:{number}> {shape}", f"{shape} {texture.in_words},")
    unbound = [{name: entry[name] for name in ("kind", "role", "data")} for entry in sample["attachments"]]
    return sample | {"target_caption": caption, "attachments": unbound}


def _facts(pair: Pair, cuts: list[Cut]) -> dict[str, Any]:
    """What a judge must know: the scenes, the edited object before and after, and the subjects in their order."""
    before, after = (None if thing is None else fields_of(thing) for thing in (pair.before, pair.after))
    subjects = [
        {"thing": fields_of(thing), "texture": texture.to_dict(), "cut": _cut_fields(cut)}
        for (thing, texture), cut in zip(pair.textures.items(), cuts, strict=True)
    ]
    scenes = {"source_scene": pair.source.to_dict(), "target_scene": pair.target.to_dict()}
    return {"edit": {"before": before, "after": after}, **scenes, "subjects": subjects}


def _pair(draws: Draws, split: str) -> Pair:
    replaces, count = draws.chance(50), draws.between(1, 2)
    num_subjects = 2 if count == 2 and draws.chance(50) else 1
    for _ in range(MAX_ATTEMPTS):
        background = Background("plain", first=draws.choice(tuple(BACKGROUND_COLOURS)))
        places = draws.pick(Scene(background).free_places(), count)
        shapes = draws.pick(SUBJECT_SHAPES, num_subjects)
        subjects = [
            put(draws, Thing(shape, "", "", "large", "", 0, 0), place, jitter=True)
            for shape, place in zip(shapes, places, strict=False)
        ]
        drawn = {thing: draw_texture(draws, held_out=split == "unseen_textures") for thing in subjects}
        others = [random_thing(draws, place, background, RULES) for place in places[num_subjects:]]
        after = subjects[0]
        before = random_thing(draws, after.place, background, RULES) if replaces else None
        target = Scene(background).with_things((*subjects, *others))
        kept = [thing for thing in target.things if thing != after]
        source = Scene(background).with_things(tuple(kept if before is None else [*kept, before]))
        textures = {thing: drawn[thing] for thing in target.things if thing in drawn}
        clear = all(_stands_out(texture, background) for texture in drawn.values())
        if clear and (before is None or before.shape != after.shape) and _belongs(split, target, textures):
            return Pair(source, target, before, after, textures)
    raise RuntimeError(f"subjects: no scene found for split {split!r}")


def _instruction(draws: Draws, pair: Pair) -> str:
    """What asks for the edit, the placeholder of the new object's picture in it."""
    phrase = _phrase(pair.after, list(pair.textures).index(pair.after))
    it = "" if pair.before is None else f"the {instructions.refer(draws, pair.before, pair.source)}"
    wording = draws.choice(instructions.TEMPLATES["add" if pair.before is None else "replace"])
    return wording.format(it=it, new=with_article(phrase), at=AT_PLACE[pair.after.place])


def _stands_out(texture: Texture, background: Background) -> bool:
    ground = BACKGROUND_COLOURS[background.first]
    return all(distance(COLOURS[name], ground) >= MIN_CONTRAST for name in (texture.first, texture.second))


def _belongs(split: str, target: Scene, textures: Textures) -> bool:
    """Whether a scene, its jitter and the subjects' periods and angles left aside, is on this side of the split."""
    if split == "unseen_textures":
        return True
    seen = ((textures[thing].pattern, textures[thing].first) if thing in textures else () for thing in target.things)
    things = ((thing.shape, thing.colour, thing.size, thing.place) for thing in target.things)
    return hashed_split(repr((target.background.first, list(things), list(seen)))) == split


def _shown(
    draws: Draws, split: str, pixels: Pixels, target: Scene, thing: Thing, texture: Texture
) -> tuple[Pixels, Cut]:
    """The attached picture of a subject: cut from the target in training, elsewhere from another scene."""
    if split == "train":
        return _cut(draws, pixels, target, thing)
    while True:
        background = Background("plain", first=draws.choice(tuple(BACKGROUND_COLOURS)))
        if background != target.background and _stands_out(texture, background):
            break
    moved = put(draws, thing, draws.choice(Scene(background).free_places()), jitter=True)
    other = Scene(background).with_things((moved,))
    return _cut(draws, render_with_subjects(other, {moved: texture}), other, moved)


def _cut(draws: Draws, pixels: Pixels, scene: Scene, thing: Thing) -> tuple[Pixels, Cut]:
    covered, (least, most) = silhouette(thing), BACKGROUND_SHARE
    for _ in range(MAX_ATTEMPTS):
        side = draws.choice(CUT_SIDES)
        left = thing.x - side // 2 + draws.between(-MOST_OFF, MOST_OFF)
        top = thing.y - side // 2 + draws.between(-MOST_OFF, MOST_OFF)
        if min(left, top) < 0 or max(left, top) + side > len(pixels):
            continue
        area = (slice(top, top + side), slice(left, left + side))
        if least <= 100 - 100 * int(covered[area].sum()) / side**2 <= most:
            return pixels[area].copy(), Cut(left, top, side, scene)
    raise RuntimeError(f"subjects: no cut of a {thing.size} {thing.shape} found with {least} to {most} % background")


def _cut_fields(cut: Cut) -> dict[str, Any]:
    return {"left": cut.left, "top": cut.top, "side": cut.side, "scene": cut.scene.to_dict()}


def _phrase(thing: Thing, number: int | None = None) -> str:
    """What is said of a subject: size and shape, the placeholder of its picture directly before the shape's word."""
    return f"{thing.size} {thing.shape}" if number is None else f"{thing.size} <image:{number}> {thing.shape}"


def _described(scene: Scene, textures: Textures, placeholders: bool) -> str:
    numbers = {thing: number for number, thing in enumerate(textures)}
    nouns = [
        _phrase(thing, numbers[thing] if placeholders else None) if thing in numbers else noun(thing)
        for thing in scene.things
    ]
    placed = (f"{with_article(each)} {AT_PLACE[thing.place]}" for each, thing in zip(nouns, scene.things, strict=True))
    return ", on ".join(
        part for part in (" and ".join(placed), with_article(background_noun(scene.background))) if part
    )


def _joined(head: str, text: str) -> str:
    return f"{head} {text}".strip()


def _concepts(scene: Scene, textures: Textures) -> list[dict[str, Any]]:
    """Objects and background of the target: phrase, verbatim in the response, and mask."""
    things = [(_phrase(thing) if thing in textures else noun(thing), silhouette(thing)) for thing in scene.things]
    behind = (background_noun(scene.background), ~silhouettes(scene.things))
    return [{"phrase": phrase, "mask": mask} for phrase, mask in (*things, behind)]


def _attachments(caption: str, pictures: list[Pixels]) -> list[dict[str, Any]]:
    """One a subject, in the order of the caption, each bound to its shape's word there."""
    found = []
    for number, picture in enumerate(pictures):
        mark = f"<image:{number}> "
        start = caption.index(mark) + len(mark)
        word = [start, start + len(caption[start:].split()[0].rstrip(","))]
        found.append({"kind": "image", "role": "subject", "data": picture, "word": word})
    return found

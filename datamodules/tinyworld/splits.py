"""Splits of the small world: what each holds, and the hash of a pair of scenes that decides between them.

Training, validation and test never share a pair of source and target scene, whatever their seeds: a pair belongs to one
of them by a hash of its scene graphs, in which a few pixels to the side make no difference.
The held-out splits hold what training never shows.
"""

from __future__ import annotations

from datamodules.tinyworld.edits import TRAINED_TYPES
from datamodules.tinyworld.inferable import INFERABLE_TYPES
from datamodules.tinyworld.layout import Rules
from datamodules.tinyworld.photographs import PHOTOGRAPHS
from datamodules.tinyworld.scene import HELD_OUT_PAIRS, SIDE, Background, Scene
from datamodules.tinyworld.split_hash import check_split, tenth_of
from datamodules.tinyworld.world import World

ONE_TYPE = {"outline": "outline", "outline_test": "outline", "removals": "remove"}
"""Splits of one edit type alone; outlines are in no other split."""
CENTRED_TYPES = ("replace", "recolour", "resize", "background")
"""Edits of a single object that stays in the middle."""
SPLITS = ("train", "val", "test", "unseen_pairs", "unseen_counts", "unseen_photographs", *ONE_TYPE)
TENTHS = {
    "train": range(8),
    "outline": range(8),
    "removals": range(8),
    "val": range(8, 9),
    "test": range(9, 10),
    "outline_test": range(9, 10),
}
"""The tenths of all pairs of scenes that a split draws from; a held-out split takes whatever shows what it is about."""


def split_rules(split: str, world: World) -> Rules:
    """What a split holds. ValueError on an unknown split, or one that the world does not have."""
    check_split(split, SPLITS)
    if split == "unseen_photographs":
        if world.plain:
            raise ValueError("split 'unseen_photographs' needs photographs: level plain has none")
        if not world.photographs:
            raise ValueError("split 'unseen_photographs' needs photographs: leave out --no-photographs")
        return Rules(photographs=True, held_out_photographs=True)
    if world.centred and split in ("unseen_counts", "removals"):
        raise ValueError(f"split {split!r} needs several objects: a centred world has one")
    most = 4 if split == "unseen_counts" else 1 if world.centred else 2 if world.plain else 3
    return Rules(world.has_photographs, split == "unseen_pairs", False, most, world.plain, world.centred)


def edit_types(split: str, world: World) -> tuple[str, ...]:
    """The edit types that a split draws from, each equally often; those that can have one of the world's kinds.

    Raises ValueError where none can.
    """
    scenes_only = split in ("unseen_pairs", "unseen_counts") or not world.has_photographs
    drawn = tuple(name for name in TRAINED_TYPES if not (scenes_only and name == "photographic"))
    drawn = CENTRED_TYPES if world.centred else drawn
    types = (ONE_TYPE[split],) if split in ONE_TYPE else drawn
    found = tuple(name for name in types if kinds_of(name, world) and _has_goal(name, world))
    if not found and world.objects:
        raise ValueError(
            f"objects: split {split!r} has no goal scene of {world.objects} for {' or '.join(world.kinds)}"
        )
    if not found:
        raise ValueError(f"kinds: split {split!r} has no instruction that is {' or '.join(world.kinds)}")
    return found


def _has_goal(edit_type: str, world: World) -> bool:
    """Whether an edit of a type can have a goal scene of as many objects as the world's are to have."""
    most = 1 if world.centred else 2 if world.plain else 3
    goals = {"add": range(2, most + 1), "remove": range(1, most), "photographic": range(1), "visual": range(1, 4)}
    return not world.objects or world.objects in goals.get(edit_type, range(1, most + 1))


def kinds_of(edit_type: str, world: World) -> tuple[str, ...]:
    """The kinds of instruction, among the world's, that an edit type can have."""
    if edit_type == "visual":
        return tuple(kind for kind in world.kinds if kind == "visual")
    possible = ("literal", "inferable") if edit_type in INFERABLE_TYPES else ("literal",)
    return tuple(kind for kind in world.kinds if kind in possible)


def belongs(split: str, source: Scene, target: Scene) -> bool:
    """Whether a pair may be in a split: by its hash, or by what the held-out split is about."""
    if split == "unseen_pairs":
        return any((thing.colour, thing.shape) in HELD_OUT_PAIRS for thing in target.things)
    if split == "unseen_counts":
        return max(len(source.things), len(target.things)) == 4
    return split not in TENTHS or tenth(source, target) in TENTHS[split]


def tenth(source: Scene, target: Scene) -> int:
    """Which tenth of all pairs this one is in, 0 to 9."""
    return tenth_of(pair_name(source, target))


def pair_name(source: Scene, target: Scene) -> str:
    """Two scenes in one line; see `scene_name`."""
    return f"{scene_name(source)} > {scene_name(target)}"


def scene_name(scene: Scene) -> str:
    """A scene in one line, the same for all that differ only in pixels of place or cut, or in the order of objects."""
    things = sorted(
        ",".join((thing.place, thing.shape, thing.colour, thing.texture, thing.size, "outlined" * thing.outlined))
        for thing in scene.things
    )
    return "; ".join((_background_name(scene.background), *things, scene.effect))


def _background_name(background: Background) -> str:
    """What stands behind, or of a photograph that is the subject itself, which part: to a quarter of a cut."""
    if not background.photograph:
        return ",".join((background.kind, background.first, background.second))
    words = PHOTOGRAPHS[background.photograph].words  # the two of the stereo pair have the same
    if background.kind == "texture":
        return words
    step = SIDE * background.zoom // 4
    return f"{words},{background.left // step},{background.top // step}"

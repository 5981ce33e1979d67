"""Which small world is drawn: its level, its seed, whether it has photographs, and its kinds of instruction."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("plain", "full")
"""`plain`: one or two objects without texture on one colour, three where a visual instruction needs them.
`full`: up to three, textures, gradients and photographs. Samples that name no level are `full`."""
KINDS = ("literal", "visual", "inferable")
"""Kinds of instruction: one that says what is meant; one that only the picture explains ("the odd one out"); one that
only language explains ("the colour of grass")."""
MAX_OBJECTS = 3
"""In a scene of any split but `unseen_counts`."""
DENOISER_KINDS = ("literal", "visual")
"""The kinds of a denoiser's training samples, and of all others unless they are asked for."""


@dataclass(frozen=True, slots=True)
class World:
    """All that samples depend on beside split and index.

    `photographs`: some, where the level has any. `pictures`: without them samples are texts alone, as a language model
    reads them, and are drawn several times as fast. `centred`: one object in the middle, and edits that leave it there.
    `objects`: how many every goal scene has; 0 for what the level has.

    Raises:
        ValueError: an unknown level or kind, no kind, centred objects on another level than plain, or a number of
            objects that no scene has.
    """

    seed: int = 0
    level: str = "full"
    photographs: bool = True
    kinds: tuple[str, ...] = DENOISER_KINDS
    pictures: bool = True
    centred: bool = False
    objects: int = 0

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level: expected one of {', '.join(LEVELS)}, found {self.level!r}")
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, found {', '.join(self.kinds) or 'none'}")
        if self.centred and not self.plain:
            raise ValueError(f"centred: expected level plain, found {self.level!r}")
        most = 1 if self.centred else MAX_OBJECTS
        if not 0 <= self.objects <= most:
            raise ValueError(f"objects: expected 0 to {most}, found {self.objects}")
        object.__setattr__(self, "kinds", tuple(kind for kind in KINDS if kind in self.kinds))  # in one order, once

    @property
    def plain(self) -> bool:
        """Whether the level is `plain`."""
        return self.level == "plain"

    @property
    def has_photographs(self) -> bool:
        """Whether any picture is or shows a photograph."""
        return self.photographs and not self.plain


def level_of(key: str) -> str:
    """The level of a sample by its key; `full` for keys of shards that were written before there were levels."""
    level = key.partition("-")[0]
    return level if level in LEVELS else "full"

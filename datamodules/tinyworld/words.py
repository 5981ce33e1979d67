"""Descriptions of scenes in English: captions and responses, several wordings each.

What a picture cannot show is not said: line drawings and sepia pictures have no colours, line drawings no textures.
`grammar` reads these texts back.
"""

from __future__ import annotations

from dataclasses import dataclass

from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.photographs import PHOTOGRAPHS
from datamodules.tinyworld.scene import Background, Scene, Thing

AT_PLACE = {
    "top left": "at the top left",
    "top": "at the top",
    "top right": "at the top right",
    "left": "on the left",
    "centre": "in the centre",
    "right": "on the right",
    "bottom left": "at the bottom left",
    "bottom": "at the bottom",
    "bottom right": "at the bottom right",
}
COLOURLESS = frozenset({"line art", "sepia"})
TEXTURELESS = frozenset({"line art"})
EFFECT_HEADS = {
    "line art": ("a line drawing of", "line art of"),
    "pixelate": ("a pixelated picture of", "pixel art of"),
    "negative": ("a negative of", "a colour negative of"),
    "sepia": ("a sepia picture of", "an old sepia picture of"),
    "night": ("a night scene of", "a picture at night of"),
    "fog": ("a foggy scene of", "a picture in fog of"),
    "brighter": ("a bright scene of", "a picture in bright light of"),
    "exposure up": ("an overexposed photograph of",),
    "exposure down": ("an underexposed photograph of",),
    "contrast up": ("a high-contrast photograph of",),
    "contrast down": ("a low-contrast photograph of",),
    "saturation up": ("a vivid photograph of",),
    "saturation down": ("a dull photograph of",),
}
PHOTOGRAPH_HEADS = ("a photograph of", "a photo of")
SCENE_HEADS = ("", "a picture of", "an image of")
RESPONSE_LEADS = ("", "the picture shows", "now the picture shows", "the new picture shows")
EFFECT_LEADS = ("", "the picture is now", "the result is")


@dataclass(frozen=True, slots=True)
class Description:
    """A text and the noun phrases in it: one for each object of the scene (in order), one for what is behind them."""

    text: str
    thing_phrases: tuple[str, ...]
    background_phrase: str


def with_article(phrase: str) -> str:
    """The phrase behind "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def said_colour_and_texture(thing: Thing, effect: str) -> tuple[str, str]:
    """What may be said of an object's colour and texture under an effect; "" for nothing, as of a plain texture."""
    texture = "" if effect in TEXTURELESS or thing.texture == "plain" else thing.texture
    return "" if effect in COLOURLESS else thing.colour, texture


def noun(thing: Thing, effect: str = "") -> str:
    """All that is said of an object, without article and place: "large red striped circle"."""
    colour, texture = said_colour_and_texture(thing, effect)
    words = [word for word in (thing.size, colour, texture, thing.shape) if word]
    return " ".join(words) + (" with a black outline" if thing.outlined else "")


def background_noun(background: Background, effect: str = "") -> str:
    """What is behind the objects, or the subject of a photograph, without article."""
    if background.kind == "photograph":
        return PHOTOGRAPHS[background.photograph].words.removeprefix("a ").removeprefix("an ")
    if background.kind == "texture":
        return f"{PHOTOGRAPHS[background.photograph].words} background"
    if effect == "line art":
        return "white background"
    if background.kind == "gradient":
        fade = "" if effect in COLOURLESS else f" from {background.first} to {background.second}"
        return f"gradient background{fade}"
    return "plain background" if effect in COLOURLESS else f"{background.first} background"


def caption(draws: Draws, scene: Scene) -> Description:
    """A description as a caption would give it, without full stop."""
    return _describe(draws, scene, leads=("",), effect_leads=("",), tail="")


def response(draws: Draws, scene: Scene, gone: Thing | None = None) -> Description:
    """A description of the goal image as an answer, with full stop. `gone`: an object to be named as absent."""
    tail = f", without the {noun(gone)}." if gone is not None else "."
    return _describe(draws, scene, RESPONSE_LEADS, EFFECT_LEADS, tail)


def _describe(
    draws: Draws, scene: Scene, leads: tuple[str, ...], effect_leads: tuple[str, ...], tail: str
) -> Description:
    effect = scene.effect
    behind = background_noun(scene.background, effect)
    lead = draws.choice(effect_leads if effect else leads)
    if scene.background.kind == "photograph":
        head = draws.choice(EFFECT_HEADS[effect] if effect else PHOTOGRAPH_HEADS)
        subject = PHOTOGRAPHS[scene.background.photograph].words
        return Description(_joined(lead, head, subject) + tail, (), behind)
    nouns = tuple(noun(thing, effect) for thing in scene.things)
    placed = zip(nouns, scene.things, strict=True)
    listed = _listed([f"{with_article(each)} {AT_PLACE[thing.place]}" for each, thing in placed])
    if effect:
        text = _joined(lead, draws.choice(EFFECT_HEADS[effect]), f"{listed}, on {with_article(behind)}")
    elif draws.chance(25):
        text = _joined(lead, "", f"{with_article(behind)} with {listed}")
    else:
        head = draws.choice(SCENE_HEADS) if not lead else ""
        text = _joined(lead, head, f"{listed}, on {with_article(behind)}")
    return Description(text + tail, nouns, behind)


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)

"""What can be set of an editor, with a sentence on each: from its `sampling` dataclass, its types and its docstring."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import docstring_parser
import yaml

from mmig.base.values import USUAL_LIMITS
from mmig.editor import Editor
from mmig.evaluation.overrides import settable

Kind = Literal["number", "whole", "flag", "choice", "text"]
NOT_SET = "as the model says"
"""The choice of a setting that may be none."""
USUAL = ("num_steps", "guidance_scale", "image_guidance_scale", "strength")
"""Settings that come first, in this order."""


@dataclass(frozen=True)
class Control:
    """One setting of an editor.

    Attributes:
        name: field of `sampling`.
        kind: of its values.
        value: as the editor is set.
        sentence: what it does, from the docstring of `sampling`.
        choices: of kind "choice".
        low, high: limits of numbers, None where there are none.
        may_be_none: whether it can also be left open.
    """

    name: str
    kind: Kind
    value: Any
    sentence: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    may_be_none: bool = False

    @property
    def label(self) -> str:
        """Its name in words."""
        return self.name.removeprefix("num_").replace("_", " ").capitalize()


def controls_of(editor: Editor) -> list[Control]:
    """All that can be set of an editor, the usual settings first."""
    sentences = described(type(editor.sampling))
    found = [_control(editor, name, kind, sentences.get(name, "")) for name, kind in settable(editor).items()]
    places = {name: place for place, name in enumerate(USUAL)}
    return sorted(found, key=lambda control: places.get(control.name, len(USUAL)))


def described(settings: type) -> dict[str, str]:
    """The sentence on each field in the section `Attributes` of a dataclass's docstring, its parents' included."""
    found: dict[str, str] = {}
    for kind in reversed(settings.__mro__):
        parsed = docstring_parser.parse(inspect.getdoc(kind) or "", docstring_parser.DocstringStyle.GOOGLE)
        for item in parsed.params:
            text = " ".join((item.description or "").split())
            found[item.arg_name] = text[:1].upper() + text[1:]
    return found


def _control(editor: Editor, name: str, hint: Any, sentence: str) -> Control:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    real = [kind for kind in kinds if kind is not NoneType]
    value, may_be_none = getattr(editor.sampling, name), len(real) < len(kinds)
    if choices := tuple(str(word) for kind in real if get_origin(kind) is Literal for word in get_args(kind)):
        shown = (NOT_SET, *choices) if may_be_none else choices
        return Control(name, "choice", NOT_SET if value is None else value, sentence, shown, may_be_none=may_be_none)
    named: dict[Any, Kind] = {bool: "flag", int: "whole", float: "number"}
    limits = USUAL_LIMITS.get(name, (None, None))
    low, high = (None if limit is None or limit in (float("inf"), -float("inf")) else limit for limit in limits)
    return Control(name, named.get(real[0], "text"), value, sentence, (), low, high, may_be_none)


def changed(controls: Sequence[Control], values: Sequence[Any]) -> dict[str, Any]:
    """Settings by name where the values of the page differ from the editor's own."""
    found = {}
    for control, value in zip(controls, values, strict=True):
        meant = None if control.may_be_none and value in (NOT_SET, "") else value
        own = None if control.value == NOT_SET else control.value
        if control.kind == "whole" and isinstance(meant, float) and meant.is_integer():
            meant = int(meant)
        if control.kind == "number" and isinstance(meant, int) and not isinstance(meant, bool):
            meant = float(meant)
        if meant != own:
            found[control.name] = meant
    return found


def as_words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as --sampling takes them, NAME=VALUE each, the value as YAML."""
    return [
        f"{name}={yaml.safe_dump(value, default_flow_style=True, width=10**6).splitlines()[0]}"
        for name, value in settings.items()
    ]

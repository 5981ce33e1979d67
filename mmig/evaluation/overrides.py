"""Other sampling settings than the run's, from a command line."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from mmig.editor import AnyEditor, Editor, with_settings


class OverrideError(ValueError):
    """A setting that the editor does not have, or a value of another kind."""


def with_sampling(editor: AnyEditor, settings: Sequence[str]) -> AnyEditor:
    """A copy of the editor with some of its sampling settings changed.

    Args:
        editor: any `Editor`.
        settings: "name=value" each, the value as in YAML.

    Raises:
        OverrideError: naming the setting and those that there are.
        ValueError: a value that the settings themselves refuse.
    """
    known = settable(editor)
    return with_settings(editor, dict(_parse(editor, setting, known) for setting in settings)) if settings else editor


def settable(editor: Editor) -> dict[str, Any]:
    """Type of each sampling setting that can be changed: those that do nothing with the editor's weights cannot."""
    hints, idle = get_type_hints(type(editor.sampling)), getattr(editor, "idle_settings", ())
    return {item.name: hints[item.name] for item in fields(editor.sampling) if item.name not in idle}


def _parse(editor: Editor, setting: str, known: dict[str, Any]) -> tuple[str, Any]:
    name, given, text = setting.partition("=")
    if not known:
        raise OverrideError(f"--sampling {setting}: {type(editor).__name__} has nothing to set; leave it out")
    if not given or name not in known:
        idle = name in getattr(editor, "idle_settings", ())
        why = f"{name} does nothing with these weights; " if idle else ""
        raise OverrideError(f"--sampling {setting}: {why}expected NAME=VALUE with one of {', '.join(sorted(known))}")
    return name, _value(setting, text, known[name], getattr(editor.sampling, name))


def _value(setting: str, text: str, kind: Any, current: Any) -> Any:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        return parser.parse_object({"value": yaml.safe_load(text)}).value
    except (ArgumentError, yaml.YAMLError) as error:
        choices = [value for part in (kind, *get_args(kind)) if get_origin(part) is Literal for value in get_args(part)]
        wanted = f"one of {', '.join(map(str, choices))}" if choices else f"a value like {current!r}"
        raise OverrideError(f"--sampling {setting}: expected {wanted}, found {text!r}") from error

"""Other sampling settings than the run's for one evaluation."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import yaml

from mmig.editor import Editor


class OverrideError(ValueError):
    """A setting that the editor does not have, or a value of another kind."""


def with_sampling(editor: Editor, settings: Sequence[str]) -> Editor:
    """The editor with some of its sampling settings changed.

    Args:
        editor: any `Editor`.
        settings: "name=value" each, the value as in YAML.

    Raises:
        OverrideError: naming the setting and those that there are.
    """
    known = sampling_settings(editor)
    return with_settings(editor, dict(_parse(setting, known) for setting in settings))


def sampling_settings(editor: Editor) -> dict[str, Any]:
    """The editor's sampling settings by name, numbers and words only.

    Editors keep them in a dataclass `sampling` (beside `pipeline`); others, with few of them, in attributes.
    """
    sampling: Any = getattr(editor, "sampling", None)
    current = (
        {item.name: getattr(sampling, item.name) for item in fields(sampling)}
        if is_dataclass(sampling)
        else vars(editor)
    )
    return {name: value for name, value in current.items() if isinstance(value, bool | int | float | str)}


def with_settings(editor: Editor, changes: dict[str, Any]) -> Editor:
    """The editor with other values of some of its `sampling_settings`; one without a dataclass is changed in place."""
    sampling: Any = getattr(editor, "sampling", None)
    if is_dataclass(sampling) and changes:
        return type(editor)(editor.pipeline, replace(sampling, **changes))  # type: ignore[attr-defined, call-arg]
    for name, value in changes.items():
        setattr(editor, name, value)
    return editor


def _parse(setting: str, known: dict[str, Any]) -> tuple[str, Any]:
    name, given, text = setting.partition("=")
    if not given or name not in known:
        raise OverrideError(f"--sampling {setting}: expected NAME=VALUE with one of {', '.join(sorted(known))}")
    value, kind = yaml.safe_load(text), type(known[name])
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise OverrideError(f"--sampling {setting}: expected a value like {known[name]!r}, found {text!r}")
    return name, value

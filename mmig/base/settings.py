"""Objects from class_path and init_args, and what jsonargparse has against some in one line."""

import importlib
import re
from collections.abc import Mapping
from typing import Any

_KEY, _CLASS = re.compile(r'Parser key "([\w.]+)":\s*(.*)'), re.compile(r"- Problem with given class_path '([\w.]+)':")
_FRAME = re.compile(r"(- )?(Does not validate|Subtypes:|Errors:|Expected a path but|Expected a <class 'NoneType'>)")
_UNKNOWN = re.compile(r"(Option|Key) '[\w.]+' is not")


class RefusedSettingsError(ValueError):
    """A class_path or argument that does not exist, or a value of another kind; one line."""


def instantiate(base: type, section: Mapping[str, Any]) -> Any:
    """An object of a subclass of `base` from class_path and init_args.

    Raises:
        RefusedSettingsError: it names what cannot be used. Errors of the class itself pass as they are.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "settings", required=True)
    try:
        parsed = parser.parse_object({"settings": dict(section)})
    except ArgumentError as error:
        raise RefusedSettingsError(refusal(str(error)).removeprefix("settings").lstrip(" :")) from error
    return parser.instantiate(parsed).settings


def imported(class_path: str) -> Any:
    """The class or function that a class path names.

    Raises:
        RefusedSettingsError: there is none of that name.
    """
    module_name, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RefusedSettingsError(f"cannot load {class_path!r} ({error}); expected PACKAGE.MODULE.NAME") from error


def call(section: Mapping[str, Any]) -> Any:
    """What a class or function gives, from class_path and init_args, each of them checked against its type.

    Raises:
        RefusedSettingsError: it names what cannot be used. Errors of the class or function itself pass as they are.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    found = imported(section["class_path"])
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if isinstance(found, type) else parser.add_function_arguments
    known = add(found, "settings")
    given = dict(section.get("init_args") or {})
    if unknown := given.keys() - {name.removeprefix("settings.").split(".")[0] for name in known}:
        has = ", ".join(name.removeprefix("settings.") for name in known) or "no arguments"
        raise RefusedSettingsError(f"{section['class_path']}: unknown argument {min(unknown)!r}; it has {has}")
    try:
        parsed = parser.parse_object({"settings": given} if known else {})
    except ArgumentError as error:
        reason = refusal(str(error)).removeprefix("settings").lstrip(" :.")
        raise RefusedSettingsError(f"{section['class_path']}: {reason}") from error
    if not known:
        return found()
    settings = parser.instantiate(parsed).settings
    return settings if isinstance(found, type) else found(**vars(settings))


def refusal(message: str) -> str:
    """One line of a jsonargparse message: the key as a path, the class that refused it, and the first real reason."""
    path: list[str] = []
    refused = reason = ""
    for line in (line.strip() for line in message.splitlines()):
        if key := _KEY.match(line):
            path.append(key[1])
            reason = key[2]
        elif found := _CLASS.match(line):
            refused = found[1]
        elif line and not _FRAME.match(line):
            reason = line
        if reason:
            break
    where = ".".join(path) + (f" ({refused})" if refused else "")
    known = f"; it has {', '.join(_arguments(refused))}" if refused and _UNKNOWN.match(reason) else ""
    return (f"{where}: " if where else "") + (reason or message) + known


def _arguments(class_path: str) -> list[str]:
    """What a class takes, its parents' arguments among them where it hands them on."""
    from jsonargparse import ArgumentParser

    module, _, name = class_path.rpartition(".")
    return list(ArgumentParser(exit_on_error=False).add_class_arguments(getattr(importlib.import_module(module), name)))

"""The parser of train.py: what is wrong with a setting in one line, and the parsed settings as plain values."""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from mmig.base.commands import nearest, root_cause, unknown_options
from mmig.base.settings import refusal
from mmig.run.trainer_words import TrainerSettingError, check_precision

SECTION = "give a --config FILE that has it"
EXAMPLE = "python train.py fit --config configs/demo/stage1.yaml --name NAME"


class OneLineParser(LightningArgumentParser):
    """Says in one line what is wrong, where its parent prints all options and every attempt to read a value.

    Options are taken by their whole names alone.
    """

    def __init__(self, *others: Any, **options: Any) -> None:
        super().__init__(*others, **{"allow_abbrev": False, **options})
        self._given: list[str] = []

    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:
        """Parse; where jsonargparse hands a nested null on to an inner parser, as the text "None", it is null again."""
        self._given = list(sys.argv[1:] if args is None else args)
        if args is not None and not self.exit_on_error:
            args = [f"{arg.removesuffix('None')}null" if arg.endswith("=None") else arg for arg in args]
        return super().parse_args(args, *others, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the key and the reason, exit with status 2."""
        if not self.exit_on_error:  # an inner parser, whose attempt may be one of several
            super().error(message, ex)
        own = None if ex is None else root_cause(ex)
        said = str(own) if own is not ex else self._advice(message) or refusal(message)
        sys.stderr.write(f"error: {said}\n")
        sys.exit(2)

    def _advice(self, message: str) -> str:
        """What to type in place of the usual mistakes; "" where it is none of them."""
        known = sorted(self._options())
        if message.startswith("unrecognized arguments:"):
            return unknown_options(message, known)
        commands = list(self._commands())
        if commands and not set(commands) & set(self._given):
            first = next(iter(self._given), "")
            found = "no command" if first.startswith("-") else f"{first!r}"
            close = nearest(first, commands)
            hint = f" (did you mean {close}?)" if close else ""
            return f"expected {', '.join(commands)} after train.py, found {found}{hint}; {EXAMPLE}"
        if required := re.search(r"arguments are required: (.*)", message):
            names = [name.rpartition(".")[2] for name in required[1].split(", ")]
            sections = [name for name in names if name in ("data", "model")]
            others = [f"--{name}" for name in names if name not in sections]
            parts = [f"no {' and no '.join(sections)}: {SECTION}, as in {EXAMPLE}"] if sections else []
            return "; ".join([*parts, *([f"expected {', '.join(others)}"] if others else [])])
        return _of_value(refusal(message), message)

    def _commands(self) -> Iterator[str]:
        for action in self._actions:
            if action.nargs == "A..." and isinstance(action.choices, dict):
                yield from action.choices

    def _options(self) -> Iterator[str]:
        yield from self._option_string_actions
        for action in self._actions:
            if action.nargs == "A..." and isinstance(action.choices, dict):
                for name in set(self._given) & set(action.choices):
                    yield from action.choices[name]._option_string_actions


def _of_value(said: str, message: str) -> str:
    """What to give in place of a value; "" where nothing better is known than what jsonargparse says."""
    key, _, reason = said.partition(": ")
    given = re.search(r"^\s*Given value: (.*)$", message, re.MULTILINE)
    value = given[1].strip() if given else reason.rpartition(": ")[2]
    if key == "trainer.precision":
        try:
            check_precision(value)
        except TrainerSettingError as error:
            return str(error)
    if key in ("data", "model") and "class_path" not in reason:
        example = "configs/data/shards.yaml" if key == "data" else "configs/demo/stage1.yaml"
        is_folder = key == "data" and Path(value).is_dir()
        more = f" --data.init_args.train {value}" if is_folder else ""
        found = f"the folder {value}" if is_folder else value
        return f"--{key}: expected a section with class_path and init_args, found {found}; --config {example}{more}"
    return ""


def plain_values(parser: LightningArgumentParser, settings: Any) -> dict[str, Any]:
    """Parsed settings as what YAML holds; those that are None stay in."""
    return yaml.safe_load(parser.dump(settings, skip_unset=False, format="yaml"))

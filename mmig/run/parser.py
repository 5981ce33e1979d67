"""The parser of train.py: what is wrong with a setting in one line, and the parsed settings as plain values."""

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from mmig.base.commands import root_cause
from mmig.base.settings import refusal


class OneLineParser(LightningArgumentParser):
    """Says in one line what is wrong, where its parent prints all options and every attempt to read a value."""

    def parse_args(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:
        """Parse; where jsonargparse hands a nested null on to an inner parser, as the text "None", it is null again."""
        if args is not None and not self.exit_on_error:
            args = [f"{arg.removesuffix('None')}null" if arg.endswith("=None") else arg for arg in args]
        return super().parse_args(args, *others, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the key and the reason, exit with status 2."""
        if not self.exit_on_error:  # an inner parser, whose attempt may be one of several
            super().error(message, ex)
        own = None if ex is None else root_cause(ex)
        sys.stderr.write(f"error: {refusal(message) if own is ex else own}\n")
        sys.exit(2)


def plain_values(parser: LightningArgumentParser, settings: Any) -> dict[str, Any]:
    """Parsed settings as what YAML holds; those that are None stay in."""
    return yaml.safe_load(parser.dump(settings, skip_unset=False, format="yaml"))

"""train.py up to what it has parsed."""

from mmig.run.cli import MMIGCLI


class Parsed(MMIGCLI):
    """Parses, and builds nothing."""

    def instantiate_classes(self) -> None:
        """Nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""

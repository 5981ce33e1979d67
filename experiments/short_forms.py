"""The commands that the pages of docs/ end with: each page's last section has one, and a short form of it.

    python -m experiments.short_forms [mmig.md edit.md ...]

runs the short forms from the root of a clone, one after the other, and prints the table of docs/results.md: seconds of
processor time, all processes together, and on the clock. What they write lies below runs/, data/ and exported/.
"""

import argparse
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mmig.base.commands import OptionParser, one_line_errors

ROOT = Path(__file__).resolve().parent.parent
HEADING = "\n## Run it\n"
MOST_SECONDS = 60
"""Of processor time, for a short form."""


@dataclass(frozen=True)
class Ending:
    """The last section of a page: what it says, its command, and the lines of the short form."""

    text: str
    command: Sequence[str]
    short: Sequence[str]


@dataclass(frozen=True)
class Took:
    """What a short form took: status of the last of its commands that ran, seconds of processor and clock."""

    status: int
    processor: float
    clock: float


def ending(page: Path) -> Ending:
    """The last section of a page.

    Raises:
        ValueError: it has none, or not two blocks of commands.
    """
    _, found, last = page.read_text(encoding="utf-8").rpartition(HEADING)
    blocks = re.findall(r"```bash\n(.*?)```", last, re.DOTALL)
    if not found or "\n## " in last or len(blocks) != 2:
        raise ValueError(f"{page.name}: expected a last section `Run it` with a command and its short form")
    command, short = (block.strip().splitlines() for block in blocks)
    return Ending(last.split("```", 1)[0].strip(), command, short)


def pages(folder: Path = ROOT / "docs") -> list[Path]:
    """The pages of docs/."""
    return sorted(folder.glob("*.md"))


def run(lines: Sequence[str], folder: Path) -> Took:
    """Run the lines of a short form in a folder, until one fails; `python` is this interpreter."""
    started, processor, status = time.monotonic(), 0.0, 0
    for line in lines:
        words = [sys.executable if word == "python" else word for word in shlex.split(line)]
        child = os.posix_spawnp(
            "env", ["env", "-C", str(folder), "OMP_NUM_THREADS=1", "HF_HUB_OFFLINE=1", *words], os.environ
        )
        _, ended, used = os.wait4(child, 0)
        processor += used.ru_utime + used.ru_stime
        status = os.waitstatus_to_exitcode(ended)
        if status:
            break
    return Took(status, processor, time.monotonic() - started)


def main(arguments: list[str] | None = None) -> None:
    """Run short forms and print the table."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help="names of pages (default: all)")
    options = parser.parse_args(arguments)
    rows = []
    with one_line_errors():
        for page in [ROOT / "docs" / name for name in options.pages] or pages():
            took = run(ending(page).short, ROOT)
            if took.status:
                raise ValueError(f"docs/{page.name}: its short form ended with status {took.status}")
            rows.append(f"| [{page.stem}]({page.name}) | {took.processor:.0f} | {took.clock:.0f} |")
    table = "\n".join(["| page | processor, s | clock, s |", "|---|---|---|", *rows])
    Console().print(table, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()

"""The commands that the pages of docs/ end with: each page's last section has one, and a short form of it.

    python -m experiments.short_forms [mmig.md edit.md ...]
    python -m experiments.short_forms --equations [9 13 ...]

runs the short forms from the root of a clone, one after the other, and prints the table of docs/results.md: seconds of
processor time, all processes together, and on the clock. What they write lies below runs/, data/ and exported/.
With --equations it is the tests that the pages of equations end with.
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

from experiments.site.equations import commands, equations
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


def of_pages(names: Sequence[str]) -> dict[str, Sequence[str]]:
    """Lines of the short forms of pages, by a link to each; of all where none is named."""
    chosen = [ROOT / "docs" / name for name in names] or pages()
    return {f"[{page.stem}]({page.name})": ending(page).short for page in chosen}


def of_equations(numbers: Sequence[int]) -> dict[str, Sequence[str]]:
    """The commands of equations' pages, by their numbers; of all where none is named."""
    return {
        f"equation {each.number}": commands(each.tests) for each in equations() if each.number in numbers or not numbers
    }


def main(arguments: list[str] | None = None) -> None:
    """Run short forms and print the table."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help="names of pages (default: all)")
    numbers = {"nargs": "*", "type": int, "choices": range(1, 23), "metavar": "NUMBER"}
    parser.add_argument("--equations", **numbers, help="those of equations (default: all)")
    options = parser.parse_args(arguments)
    rows = []
    with one_line_errors():
        asked = of_pages(options.pages) if options.equations is None else of_equations(options.equations)
        for name, lines in asked.items():
            took = run(lines, ROOT)
            if took.status:
                raise ValueError(f"{name}: its short form ended with status {took.status}")
            rows.append(f"| {name} | {took.processor:.0f} | {took.clock:.0f} |")
    table = "\n".join(["| page | processor, s | clock, s |", "|---|---|---|", *rows])
    Console().print(table, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()

"""A page for each equation of MMIG: its formula from docs/equations.yaml, all else from the tables of docs/mmig.md."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import yaml

from experiments.site.links import ROOT, linked, source_of

DOCUMENT = PurePosixPath("docs/mmig.md")
FOLDER = "equations"
SYMBOL = r"\b(\w)_(\w+)(?:\^(\w))?"
MOST_LINES = 90
"""Of a function or class that is shown; of longer ones the beginning is."""


@dataclass(frozen=True)
class Equation:
    """An equation as the documents have it.

    Attributes:
        number: as printed. formula: LaTeX. symbols: what its letters are. what: a phrase.
        code, tests: cells of the table, with links.
        readings: rows (where, what is wrong or open, reading) of the table of defects that name it.
    """

    number: int
    formula: str
    symbols: str
    what: str
    code: str
    tests: str
    readings: Sequence[Sequence[str]]

    @property
    def page(self) -> str:
        """Path of its page on the site."""
        return page(self.number)


def page(number: int) -> str:
    """Path of an equation's page on the site."""
    return f"{FOLDER}/{number:02}.md"


def table(text: str, title: str) -> list[list[str]]:
    """Rows of the first table below a heading, without its head."""
    section = text.split(f"\n## {title}", 1)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def numbers(cell: str) -> list[int]:
    """The equations that a cell such as `eq 15, 22` or `9, 10` names."""
    return [int(number) for number in re.findall(r"\d+", cell)] if re.match(r"(eq )?\d", cell) else []


def equations() -> list[Equation]:
    """All equations, in order."""
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    formulas = yaml.safe_load((ROOT / "docs/equations.yaml").read_text(encoding="utf-8"))
    readings = table(text, "Where the paper contradicts itself")
    return [
        Equation(
            number=number,
            formula=formulas[number]["formula"],
            symbols=formulas[number]["symbols"],
            what=what,
            code=code,
            tests=tests,
            readings=[row for row in readings if number in numbers(row[0])],
        )
        for cell, what, code, tests in table(text, "Equations")
        for number in numbers(cell)
    ]


def shown(cell: str) -> str:
    """The source of every function and test that a cell links to."""
    parts = []
    for link in linked(cell, DOCUMENT):
        name = link.text.strip("[]`")
        lines = source_of(link.target, name).splitlines()
        if len(lines) > MOST_LINES:
            lines = [*lines[:MOST_LINES], f"# ... {len(lines) - MOST_LINES} more lines"]
        source = "\n".join(lines)
        parts.append(f'[`{name}`](../{link.target})\n\n````{{.python title="{link.target}"}}\n{source}\n````\n')
    return "\n".join(parts)


def lowered(text: str) -> str:
    """A text with symbols such as e_llm and A_t^m as letters with an index; code and links are left alone."""

    def symbol(match: re.Match[str]) -> str:
        above = f"<sup>{match[3]}</sup>" if match[3] else ""
        return f"{match[1]}<sub>{match[2]}</sub>{above}"

    parts = re.split(r"(`[^`]*`|\]\([^)]*\))", text)
    return "".join(part if part[:1] in ("`", "]") else re.sub(SYMBOL, symbol, part) for part in parts)


def commands(cell: str) -> list[str]:
    """The commands that run the tests that a cell links to."""
    return [f"python -m pytest {link.target}::{link.text.strip('[]`')}" for link in linked(cell, DOCUMENT)]


def markdown(equation: Equation) -> str:
    """The page of an equation; its links are those of a document in docs/."""
    readings = "\n".join(f"| {lowered(' | '.join(row))} |" for row in equation.readings).replace(
        "](#", f"]({DOCUMENT.name}#"
    )
    read = f"| where | what is wrong or open | reading |\n|---|---|---|\n{readings}" if readings else "As printed."
    return f"""---
title: Equation {equation.number}
hide: [toc]
---
# Equation {equation.number}: {lowered(equation.what)}

```math
{equation.formula}
```

Where {lowered(equation.symbols)}

## How it is read here

{read}

## Code

{shown(equation.code)}
## Test

{shown(equation.tests)}
## Run it

The same tests run in `make test`; each is there for a number that was computed another way
([seconds](results.md#short-forms-of-the-pages)).

```bash
{chr(10).join(commands(equation.tests))}
```
"""


def overview() -> str:
    """The page of all equations."""
    rows = "\n".join(
        f"## [Equation {each.number}]({each.number:02}.md)\n\n```math\n{each.formula}\n```\n" for each in equations()
    )
    head = "# The equations of MMIG\n\nAs printed; behind each number its code, its test and how it is read here."
    return f"{head}\n\n{rows}"


def with_links(text: str) -> str:
    """docs/mmig.md with the numbers of its first table linked to the equations' pages."""
    head, rest = text.split("\n## Equations", 1)
    section, *others = rest.split("\n## ")

    def linked_numbers(match: re.Match[str]) -> str:
        found = ", ".join(f"[{number}]({page(number)})" for number in numbers(match[1]))
        return f"| {found} |"

    section = re.sub(r"^\| ([\d, ]+) \|", linked_numbers, section, flags=re.MULTILINE)
    return "\n## ".join([f"{head}\n## Equations{section}", *others])

"""Every page of docs/ ends with a command and a short form that runs; figures said to be measured stand in results."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from experiments.short_forms import MOST_SECONDS, ending, of_equations, pages, run
from tests.documents import copy_repository

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results.md"
PAGES = pages()
QUICK = ("app", "claims", "cluster", "doctor")
"""Whose short forms take seconds; those of the others are slow tests."""
QUOTING = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("index", "edit", "reproduce"))]


def slug(heading: str) -> str:
    """The anchor of a heading, as code hosts and mkdocs make it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def sections() -> dict[str, str]:
    """Text of each section of docs/results.md by its anchor."""
    parts = re.split(r"^## (.*)$", RESULTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {slug(title): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def quoted(text: str) -> Iterator[tuple[str, str]]:
    """(figure, section of the results) of every figure in the link to results, or in the words that the link ends."""
    for paragraph in re.split(r"\n\s*\n", text):
        said = 0
        for link in re.finditer(r"\[([^\]]*)\]\((?:docs/)?results\.md#([\w-]+)\)", paragraph):
            words = link[1] if link[1] != "measured" else paragraph[said : link.start()]
            yield from ((figure, link[2]) for figure in re.findall(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?", words))
            said = link.end()


def holds(section: str, figure: str) -> bool:
    """Whether a section has a figure, or as a share what the figure is in per cent."""
    share = f"{float(figure.replace(',', '')) / 100:.3f}"
    return any(re.search(rf"(?<![\d.]){re.escape(each)}(?![\d]|\.\d)", section) for each in (figure, share))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_ends_with_a_command_its_time_and_a_short_form(page: Path) -> None:
    last = ending(page)
    assert last.command and last.short
    assert "results.md#" in last.text or "above](#" in last.text or "not measured" in last.text


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[] if page.stem in QUICK else [pytest.mark.slow], id=page.stem) for page in PAGES],
)
def test_a_short_form_runs_within_a_minute(page: Path, copy: Path) -> None:
    took = run(ending(page).short, copy)
    assert took.status == 0
    assert took.processor < MOST_SECONDS


@pytest.fixture(scope="module")
def copy(root: Path, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as a clone has it."""
    return copy_repository(root, files, tmp_path_factory.mktemp("a clone") / "mmig")


@pytest.mark.parametrize("page", QUOTING, ids=lambda page: page.stem)
def test_figures_that_are_said_to_be_measured_stand_in_the_results(page: Path) -> None:
    known = sections()
    found = list(quoted(page.read_text(encoding="utf-8")))
    assert found
    wrong = [(figure, where) for figure, where in found if where not in known or not holds(known[where], figure)]
    assert wrong == []


def test_seconds_of_equations_are_those_of_their_tests() -> None:
    assert len(of_equations([])) == 22
    of_13 = "python -m pytest tests/mmig/methods/mmig/test_mmsm.py::test_equation_13_with_numbers"
    assert of_equations([13]) == {"equation 13": [of_13]}


def test_every_page_is_in_the_navigation() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = re.findall(r"(\w+\.md)", str(navigation))
    assert sorted(named) == sorted(page.name for page in PAGES)

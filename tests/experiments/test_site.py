"""What the site is made of: equations with their code and tests, links to files, symbols, sources, packages."""

from pathlib import Path, PurePosixPath

import pytest

from experiments.site import claims_page, links, reference
from experiments.site.equations import DOCUMENT, commands, equations, lowered, markdown, with_links
from mmig.evaluation.claims import read_claims

EQUATIONS = equations()


def test_every_equation_of_the_paper_has_a_page() -> None:
    assert [each.number for each in EQUATIONS] == list(range(1, 23))


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda equation: str(equation.number))
def test_a_page_shows_formula_code_and_test(equation: object) -> None:
    text = markdown(equation)
    assert f"```math\n{equation.formula}\n```" in text
    shown = [link for cell in (equation.code, equation.tests) for link in links.linked(cell, DOCUMENT)]
    assert shown
    for link in shown:
        name = link.text.strip("[]`").rpartition(".")[2]
        assert f"def {name}(" in text or f"class {name}" in text


def test_readings_are_those_that_name_the_equation() -> None:
    readings = {each.number: [row[0] for row in each.readings] for each in EQUATIONS}
    assert readings[13] == ["eq 13", "eq 13"]
    assert readings[18] == ["eq 17, 18"]
    assert readings[1] == []
    assert "As printed." in markdown(EQUATIONS[0])


def test_the_commands_of_a_page_name_tests_that_are_there(root: Path) -> None:
    for equation in EQUATIONS:
        for line in commands(equation.tests):
            file, _, name = line.removeprefix("python -m pytest ").partition("::")
            assert f"def {name}(" in (root / file).read_text(encoding="utf-8")


def test_symbols_are_letters_with_an_index_but_not_in_code_and_links() -> None:
    assert lowered("e_llm of A_t^m") == "e<sub>llm</sub> of A<sub>t</sub><sup>m</sup>"
    assert lowered("`e_llm` [x](y_z)") == "`e_llm` [x](y_z)"


def test_the_table_of_equations_leads_to_their_pages(root: Path) -> None:
    text = with_links((root / DOCUMENT).read_text(encoding="utf-8"))
    assert "| [9](equations/09.md), [10](equations/10.md) |" in text


def test_a_link_to_code_leads_to_the_line_that_defines_its_name(root: Path) -> None:
    (link,) = links.linked("[`noise_loss`](../mmig/diffusion/losses.py)", DOCUMENT)
    number = int(links.line_anchor(link).removeprefix("#line-"))
    assert "def noise_loss(" in (root / link.target).read_text(encoding="utf-8").splitlines()[number - 1]
    assert links.place(link.target) == "repository/mmig/diffusion/losses.py.md"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("data.md", "data.md"),
        ("equations/03.md", "equations/03.md"),
        ("claims.yaml", "repository/docs/claims.yaml.md"),
        ("../assets/demo.png", "repository/assets/demo.png"),
        ("../CONTRIBUTING.md", "repository/CONTRIBUTING.md"),
        ("../slurm", "repository/slurm.md"),
    ],
)
def test_places_on_the_site(target: str, expected: str) -> None:
    assert links.place(links.resolve(DOCUMENT, target)) == expected


def test_links_in_blocks_of_code_and_out_of_the_repository_stay() -> None:
    text = "[a](https://x.org) [b](#here)\n```\n[c](../mmig)\n```\n[d](../mmig)"
    assert [link.target for link in links.linked(text, DOCUMENT)] == [PurePosixPath("mmig")]


def test_a_document_shows_the_source_that_it_asks_for() -> None:
    shown = links.with_sources("<!-- source: ../mmig/diffusion/losses.py noise_loss -->", DOCUMENT)
    assert shown.startswith('````{.python title="mmig/diffusion/losses.py"}\ndef noise_loss(')


def test_a_page_of_a_file_has_an_anchor_a_line() -> None:
    assert 'id="line-1"' in links.page_of(PurePosixPath("train.py"))
    assert "- `base.yaml`" in links.page_of(PurePosixPath("configs/results/mgie"))


def test_every_package_has_a_page_and_every_module_is_on_one() -> None:
    found = [module for package in reference.packages() for module in reference.modules(package)]
    assert len(found) == len(set(found))
    for module in ("mmig.editor", "mmig.diffusion.losses", "mmig.methods.mmig.mmsm", "datamodules.card"):
        assert module in found


def test_every_package_says_in_its_first_line_what_is_in_it() -> None:
    wrong = [name for name in reference.packages() if not reference.first_line(name).endswith((".", ".`"))]
    assert wrong == []


def test_the_page_of_claims_has_all_of_them_and_says_what_is_shown() -> None:
    rows = [
        line for line in claims_page.tables().splitlines() if line.startswith("| ") and "says (measure)" not in line
    ]
    names = [claim.name for claim in read_claims(claims_page.FILE)]
    assert sorted(row.split(" | ")[0].removeprefix("| ") for row in rows) == sorted(names)
    numbers = [row.count(" | ") for row in rows]
    assert numbers == sorted(numbers, reverse=True)  # what was measured comes first
    assert {row.split(" | ")[2] for row in rows if row.count(" | ") > 1} <= {
        "**shown**",
        "**refuted**",
        "**not shown**",
    }
    assert "**shown**" in claims_page.tables()

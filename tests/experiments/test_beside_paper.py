"""`python -m experiments.beside_paper`: docs/reproduce.md shows what the evidence and the published table say."""

import json
import shutil
from pathlib import Path
from statistics import mean

import pytest

from experiments.beside_paper import LGIE, METHODS, MGIE, WITHOUT, main, order_table, published_rows, read_columns

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "docs/evidence"


def test_the_page_shows_both_tables_as_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--root", str(EVIDENCE)])
    page = (ROOT / "docs/reproduce.md").read_text(encoding="utf-8")
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == 2
    for table in tables:
        assert table in page


def test_our_figures_are_the_means_of_what_was_evaluated() -> None:
    for method, part, seeds in ((MGIE, "visual", 3), (LGIE, "inferable", 3), (WITHOUT, "visual", 1)):
        files = sorted(EVIDENCE.glob(f"runs/mgie-{method.row}-*/{part}/metrics.json"))
        assert len(files) == seeds
        reported = [json.loads(file.read_text(encoding="utf-8"))["metrics"]["joint"]["value"] for file in files]
        assert mean(method.scores(part, EVIDENCE).values()) == pytest.approx(mean(reported))


def test_no_number_is_shown_that_nobody_of_us_has_read() -> None:
    rows = published_rows()
    columns = read_columns(rows)
    assert {method.printed for method in METHODS} == rows.keys()
    assert "magicbrush_dino" in columns and "evr_l1" not in columns
    assert columns["ma5k_lpips"] == "MA5k LPIPS, less is better"


def test_only_training_seeds_of_both_sides_are_compared() -> None:
    one, other = (method.scores("visual", EVIDENCE, (0,)) for method in (MGIE, WITHOUT))
    difference = 100 * mean(one[key] - other[key] for key in other)
    (line,) = (line for line in order_table(EVIDENCE).splitlines() if "without L_ins" in line)
    assert f"**{difference:+.1f} [" in line and line.endswith("| 300, 1 |")


def test_where_a_training_seed_is_missing_there_is_a_dash(tmp_path: Path) -> None:
    for seed in (0, 1):
        shutil.copytree(EVIDENCE / f"runs/mgie-mgie-{seed}", tmp_path / f"runs/mgie-mgie-{seed}")
    assert MGIE.scores("visual", tmp_path) == {}
    assert len(MGIE.scores("visual", tmp_path, (1,))) == 600
    assert all(line.endswith("| - | - |") for line in order_table(tmp_path).splitlines()[2:])


def test_a_folder_without_evaluations_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--root .*: expected a folder with runs/"):
        main(["--root", str(tmp_path)])

"""Tables over chains: which edits are averaged, and how the last stage is compared."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from experiments.chain_report import BASELINE, FIRST, LAST, METRICS, ROWS, Chains, format_interval, main, points, tables
from mmig.evaluation.bootstrap import Interval

KINDS = ("add", "visual")
NUM_SAMPLES = 8


def success(row: int, chain: int, sample: int) -> float:
    """Of stage 5 with generated responses all edits succeed in the first chain, every second one in the other."""
    if ROWS[row] == LAST:
        return 1.0 if chain == 0 else float(sample % 2)
    return 0.0


@pytest.fixture
def chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two chains with samples.jsonl of every row."""
    monkeypatch.chdir(tmp_path)
    names = ["one", "two"]
    for number, name in enumerate(names):
        for index, row in enumerate(ROWS):
            folder = Path(row.folder(name))
            folder.mkdir(parents=True)
            edits = [
                {
                    "key": f"test-{sample}",
                    "seed": 0,
                    "edit_type": KINDS[sample % 2],
                    "values": {metric: success(index, number, sample) for metric in METRICS if metric != "clip_score"},
                }
                for sample in range(NUM_SAMPLES)
            ]
            (folder / "samples.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in edits))
    return names


def test_folders_differ_and_name_what_is_sampled() -> None:
    folders = [row.folder("c") for row in ROWS]
    assert len({*folders}) == len(folders) == 13
    assert LAST.folder("c") == "runs/c-stage5/evaluation/generated"
    assert LAST.sampling == ["--sampling", "response=generated"]
    assert FIRST.folder("c") == "runs/c-stage1/evaluation/generated"
    assert BASELINE.folder("c") == "runs/c-instruction5/evaluation/edits"
    assert BASELINE.sampling == []


def test_a_sample_counts_with_its_mean_over_the_chains(chains: list[str]) -> None:
    values = Chains(chains).values(LAST, "success")
    assert values == {f"test-{sample}": 0.5 + 0.5 * (sample % 2) for sample in range(NUM_SAMPLES)}
    assert Chains(chains[:1]).values(LAST, "success", "add") == {f"test-{sample}": 1.0 for sample in range(0, 8, 2)}


def cells(chains: list[str], number: int) -> list[list[str]]:
    """Rows of a table."""
    columns = [[*column.cells] for column in tables(Chains(chains))[number].columns]
    return [[str(cell) for cell in row] for row in zip(*columns, strict=True)]


def test_every_row_is_shown_and_the_aim_is_paired(chains: list[str]) -> None:
    shown = cells(chains, 0)
    assert [(row[0], row[1]) for row in shown] == [(row.title, row.responses or "-") for row in ROWS]
    assert shown[ROWS.index(LAST)][2].startswith("75 [")
    assert {row[3] for row in cells(chains, 1)} == {"-"}  # nobody measured the CLIP score
    by_type = {row[0]: row for row in cells(chains, 2)}
    assert by_type["add"][1] == by_type["visual"][1] == "4"
    assert by_type["visual"][6] == "0 / 100"
    aims = cells(chains, 4)
    assert aims[0][0] == "success: stage 5 - stage 1"
    assert aims[0][1].startswith("+75.0 [")
    assert aims[2][:2] == ["success of visual edits: stage 5 - stage 1", "+100.0 [+100.0, +100.0]"]


def test_the_tables_fit_a_terminal(chains: list[str]) -> None:
    for table in tables(Chains(chains)):
        width = Console(width=200).measure(table).maximum
        assert width <= 80, table.title


def test_markdown_and_a_chain_that_is_not_there(chains: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["one", "--markdown"])
    assert "| stage 5 | generated | 100 [100, 100] |" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit, match=r"runs/three-stage1/evaluation/given"):
        main(["three"])


def test_numbers() -> None:
    interval = Interval(0.195, 0.133, 0.266, 128)
    assert format_interval(interval, percent=True) == "20 [13, 27]"
    assert format_interval(interval, percent=False) == "0.20 [0.13, 0.27]"
    assert points(interval) == "+19.5 [+13.3, +26.6]"

"""bench/crash.py on one kill."""

from pathlib import Path

from bench.crash import LAYOUTS, Tally, compare, describe, finish, measure
from bench.tools.small_run import write_data


def test_a_killed_run_is_counted_and_compared(tmp_path: Path) -> None:
    write_data(tmp_path)
    tally = measure(tmp_path, LAYOUTS[0], kills=1, seed=0)
    assert (tally.runs, sum(tally.kills.values()), tally.wrong, tally.largest) == (1, 1, [], 0.0)
    assert describe(LAYOUTS[0], tally).startswith("1 x auto: 1 kills (1 ")


def test_a_difference_is_found(tmp_path: Path) -> None:
    """One loss is another."""
    write_data(tmp_path)
    for name in ("whole", "other"):
        assert finish(tmp_path, name, LAYOUTS[0]) == ""
    losses = tmp_path / "other.losses"
    first, *rest = losses.read_text().splitlines()
    losses.write_text("\n".join([f"{first.split()[0]} {(1.0).hex()}", *rest]) + "\n")
    tally = Tally()
    compare(tmp_path, "other", "whole", LAYOUTS[0], tally)
    assert len(tally.wrong) == 1 and "differs from the uninterrupted run" in tally.wrong[0]

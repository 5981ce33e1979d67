"""bench/cluster_sizing.py: its formula with numbers, and the table of docs/cluster.md is what it prints."""

from pathlib import Path

import pytest

from bench.cluster_sizing import build_parser, days, smallest_card, table

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/cluster.md"


def test_days_with_numbers() -> None:
    """A thousand samples of 864 TFLOP on ten GPUs that do 10 of 100 TFLOP/s each."""
    assert days(1_000, 864e12, gpus=10, peak=100e12, utilisation=0.1) == pytest.approx(0.1)


def test_a_card_keeps_a_quarter_free() -> None:
    assert [smallest_card(gigabytes * 1e9) for gigabytes in (18, 19, 30, 60, 61)] == [24, 40, 40, 80, None]


@pytest.mark.slow
def test_the_documented_table_is_what_the_script_prints() -> None:
    defaults = build_parser().parse_args([])
    printed = table(defaults.global_batch, defaults.gpus, defaults.peak, defaults.utilisation)
    assert "\n".join(printed) in DOCUMENT.read_text(encoding="utf-8")

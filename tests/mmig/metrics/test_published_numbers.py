import pytest

from mmig.metrics.published_numbers import PublishedError, published
from mmig.metrics.suite import METRICS


@pytest.mark.parametrize(
    "name",
    [
        *("magicbrush", "emu_edit", "mgie"),
        *("gedit_bench", "imgedit_bench", "kris_bench", "risebench", "rededit_bench"),
    ],
)
def test_every_table_parses_and_names_its_sources(name: str) -> None:
    table = published(name)
    assert table.protocol == name
    assert all(row.source and row.values for row in table.rows)


def test_magicbrush_numbers_are_those_of_the_paper() -> None:
    rows = {(row.method, row.setting): row for row in published("magicbrush").rows}
    row = rows["IP2P + MagicBrush", "single"]
    assert row.values["l1_target"] == 0.0625
    assert row.is_verified("l1_target")
    assert not rows["SmartEdit", "single"].is_verified("l1_target")


def test_emu_edit_figures_are_unverified_and_against_the_input() -> None:
    table = published("emu_edit")
    assert not any(row.is_verified(metric) for row in table.rows for metric in row.values)
    assert "l1_input" in table.metrics
    assert "l1_target" not in table.metrics


def test_mgie_marks_its_recalled_cells() -> None:
    rows = {(row.method, row.setting): row for row in published("mgie").rows}
    row = rows["MGIE", "zero-shot"]
    assert row.is_verified("magicbrush_dino")
    assert not row.is_verified("magicbrush_l1")


def test_columns_with_our_metrics_names_exist() -> None:
    for name in ("magicbrush", "emu_edit"):
        ours = [metric for metric in published(name).metrics if not metric.startswith("dino")]
        assert set(ours) <= set(METRICS)


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(PublishedError, match=r"'coco' is unknown.*magicbrush"):
        published("coco")

"""report.html and the tables beside it: their numbers are those of metrics.json, nothing is fetched, all is escaped."""

import html
import json
import re
from pathlib import Path

import pytest

from mmig.evaluation.differences import all_differences
from mmig.evaluation.finished import Finished
from mmig.evaluation.page.build import render, write_page
from mmig.evaluation.page.tables import Grid, cell, in_latex, latex, markdown, metric_grid
from mmig.evaluation.rows import SampleRow
from mmig.evaluation.summary import interval_of
from tests.mmig.evaluation.made_up import finished, rows

FAR = {"l1_target": 0.01, "clip_directional_similarity": -0.5}
"""Values of one system that are certainly better, and certainly worse, than the other's."""
NASTY = 'a<script>alert("1")</script>&\'b'


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished(tmp_path_factory.mktemp("page") / "one_system", rows())


@pytest.fixture(scope="module")
def two(one: Finished, tmp_path_factory: pytest.TempPathFactory) -> list[Finished]:
    return [one, finished(tmp_path_factory.mktemp("page") / "other", rows(shift=2, **FAR))]


def page(evaluations: list[Finished], command: str = "python evaluate.py again") -> str:
    return render(evaluations, all_differences(evaluations), command)


def plain(text: str) -> str:
    """What a reader sees of a page."""
    without_scripts = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", without_scripts)).split())


def test_every_number_of_metrics_json_is_on_the_page_with_its_interval_and_n(one: Finished) -> None:
    on_disk = json.loads((one.directory / "metrics.json").read_text())["metrics"]
    seen = plain(page([one]).replace("<wbr>", ""))
    for name, value in on_disk.items():
        arrow = "↓" if name == "l1_target" else "↑"
        assert f"{name} {arrow} {cell(interval_of(value))} n {value['n']}" in seen
        for edit_type, of_type in value["per_edit_type"].items():
            if name in ("joint", "success", "preservation"):
                assert f"{edit_type} {cell(interval_of(of_type))} {of_type['n']}" in seen


def test_every_difference_is_on_the_page_with_a_mark_where_its_interval_excludes_zero(two: list[Finished]) -> None:
    differences = all_differences(two)["other"]
    seen = plain(page(two).replace("<wbr>", ""))
    assert {name for name, found in differences.items() if found["all samples"].excludes_zero} == FAR.keys()
    marks = {"l1_target": "* better ,", "clip_directional_similarity": "* worse ,"}
    for name, found in differences.items():
        whole, mark = found["all samples"], marks.get(name, "")
        assert re.search(rf"{name} [↑↓] {re.escape(cell(whole, signed=True))}{re.escape(mark)} n {whole.n}", seen), name


def test_the_page_fetches_nothing(two: list[Finished]) -> None:
    text = page(two)
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall(r"(?:src|href|xlink:href|action|data|poster)\s*=\s*[\"']?(?!data:image/)[^\s\"'>]+", markup) == []
    assert not re.search(r"url\(|@import|https?://|<link|<iframe|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text
    assert text.count("data:image/png;base64,") > 20


def test_names_texts_and_keys_with_characters_of_html_are_escaped(tmp_path: Path) -> None:
    nasty = rows(3)
    nasty = [SampleRow(NASTY + row.key, 0, NASTY, row.values, {}, NASTY, NASTY) for row in nasty]
    evaluation = finished(tmp_path / "one", nasty, command=f"python {NASTY}")
    text = page([Finished(NASTY, evaluation.directory, evaluation.report, nasty)], f"python {NASTY}")
    assert "<script>alert" not in text
    assert "alert(&#34;1&#34;)" in text
    samples = json.loads(re.search(r'id="samples">(.*?)</script>', text, re.DOTALL)[1])
    assert [sample["instruction"] for sample in samples] == [NASTY] * 3
    assert [sample["key"] for sample in samples] == [f"{NASTY}s{number:02}" for number in range(3)]


def test_the_command_that_makes_it_again_is_on_the_page_and_beside_the_tables(two: list[Finished]) -> None:
    command = "python evaluate.py compare 'a b' c --out d"
    write_page(two[0].directory / "out", two, command)
    assert command in plain((two[0].directory / "out" / "report.html").read_text())
    for name in ("table.md", "table.tex"):
        assert command in (two[0].directory / "out" / name).read_text()


def test_samples_to_leaf_through_show_all_systems_side_by_side(two: list[Finished]) -> None:
    samples = json.loads(re.search(r'id="samples">(.*?)</script>', page(two), re.DOTALL)[1])
    assert sorted(sample["key"] for sample in samples) == two[0].keys
    for sample in samples:
        assert [edit["name"] for edit in sample["systems"]] == ["one_system", "other"]
        assert all(edit["image"].startswith("data:image/png") for edit in sample["systems"])
        assert sample["source"] and sample["target"] is None


def test_without_pictures_and_judge_the_page_says_what_it_cannot_show(tmp_path: Path) -> None:
    bare = [SampleRow(f"s{number}", 0, "", {"l1_target": 0.1 * number}) for number in range(3)]
    text = page([finished(tmp_path / "bare", bare, pictures=False)])
    assert "No pictures were kept" in text
    assert "without a judge" in text
    assert "<svg viewBox" not in text
    assert 'id="samples"' not in text


def test_evaluations_without_a_common_value_have_a_page_that_says_so(tmp_path: Path) -> None:
    def scored(name: str, **values: float | None) -> Finished:
        skipped = {metric: "no_target" for metric, value in values.items() if value is None}
        return finished(tmp_path / name, [SampleRow(f"s{number}", 0, "add", values, skipped) for number in (0, 1)])

    first, second, empty = scored("a", x=0.5), scored("b", y=0.5), scored("c", x=None)
    for other in (second, empty):
        assert "no metric of which one sample has a value in all of them" in plain(page([first, other]))
    assert "No sample of c has a value of any metric." in plain(page([empty]))
    assert "no_target 2" in plain(page([empty]))


def test_floor_and_ceiling_are_named_and_no_claim_is_made_of_them(two: list[Finished], tmp_path: Path) -> None:
    floor = finished(tmp_path / "identity", rows(success=0.0, joint=0.0, preservation=1.0), role="floor")
    seen = plain(page([*two, floor]))
    assert "identity floor" in seen
    assert "No floor" not in seen
    assert not re.search("identity is (better|worse)", seen)
    assert "No floor and no ceiling" in plain(page(two))
    assert "For comparison, joint: identity (floor) 0.0\u00a0% [0.0, 0.0], n = 12." in page([*two, floor])


def test_of_one_system_beside_a_floor_the_page_is_about_the_system(one: Finished, tmp_path: Path) -> None:
    floor = finished(tmp_path / "identity", rows(success=0.0, joint=0.0, preservation=1.0), role="floor")
    seen, alone = plain(page([one, floor])), plain(page([one]))
    for about in ("one_system makes the edit", "one_system; the upright line is its value", "ordered by joint (higher"):
        assert about in alone and about in seen
    assert "Paired differences to one_system" in seen


def test_a_system_that_lacks_a_metric_of_the_scatter_is_said_not_to_be_drawn(tmp_path: Path) -> None:
    def scored(direction: float | None) -> list[SampleRow]:
        values = {"clip_image_similarity_input": 0.5, "clip_directional_similarity": direction}
        skipped = {} if direction else {"clip_directional_similarity": "zero_image_direction"}
        return [SampleRow(f"s{number}", 0, "", values, skipped) for number in range(3)]

    ours, floor = finished(tmp_path / "a", scored(0.5)), finished(tmp_path / "nothing", scored(None), role="floor")
    text = page([ours, floor])
    assert "Clip directional similarity against clip image similarity input" in text
    told = "no clip_directional_similarity (zero_image_direction 3)"
    assert f"nothing (floor) is not drawn: clip_image_similarity_input 0.500, n 3; {told}." in text


def cells_of(text: str, separator: str, starts: str = "") -> list[list[str]]:
    lines = [line for line in text.splitlines() if separator in line and not line.startswith("%")]
    return [[part.strip() for part in line.strip(" |\\").split(separator)] for line in lines if line.startswith(starts)]


def test_the_markdown_table_parses_back(two: list[Finished]) -> None:
    of_all = {name: {m: of["all samples"] for m, of in found.items()} for name, found in all_differences(two).items()}
    grid = metric_grid(two, of_all)
    head, ruler, *body = cells_of(markdown(grid, "a | b").split("\n\n")[0], " | ")
    assert head == grid.headings == ["metric", "one_system", "n", "other", "n", "other - one_system", "n"]
    assert set(ruler) == {"---", "---:"}
    assert [[text.replace("\\*", "*") for text in line] for line in body] == grid.rows
    joint = two[1].report["metrics"]["joint"]
    value, low, high = map(float, re.findall(r"-?\d+\.\d+", grid.rows[0][3]))
    assert (value, low, high) == pytest.approx((joint["value"], joint["low"], joint["high"]), abs=5e-4)
    assert grid.rows[0][4] == str(joint["n"])


def test_the_latex_table_parses_back(two: list[Finished]) -> None:
    of_all = {name: {m: of["all samples"] for m, of in found.items()} for name, found in all_differences(two).items()}
    grid = metric_grid(two, of_all)
    text = latex(grid, "100 % of\nall")
    assert text.startswith("% 100 % of\n% all\n\\begin{tabular}{lrrrrrr}\n\\toprule\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    head, *body = cells_of(text, " & ")
    assert [text.replace("\\_", "_") for text in head] == grid.headings
    plain_cells = [[part.replace("$-$", "-").replace("$^{*}$", "*") for part in line] for line in body]
    assert [line[1:] for line in plain_cells] == [line[1:] for line in grid.rows]
    assert plain_cells[3][0] == r"l1\_target $\downarrow$"


def test_characters_that_tables_read_as_their_own_are_escaped() -> None:
    grid = Grid(["a|b", "c_d & 50 %"], [["x\\y", "1"]])
    assert markdown(grid, "").splitlines()[0] == r"| a\|b | c_d & 50 % |"
    assert markdown(grid, "").splitlines()[2] == r"| x\\y | 1 |"
    assert in_latex("c_d & 50 % {~^\\}") == (r"c\_d \& 50 \% \{\textasciitilde{}\textasciicircum{}\textbackslash{}\}")

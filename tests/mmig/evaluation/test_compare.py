"""evaluate.py compare: which evaluations it takes, and that its differences are those of the rows."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import evaluate
from mmig.evaluation.finished import read_finished, short_names
from mmig.evaluation.rows import SampleRow
from mmig.evaluation.summary import compare, compare_types, interval_dict
from tests.mmig.evaluation.made_up import finished, report, rows


def run(*folders: Path, out: Path) -> None:
    evaluate.main(["compare", *map(str, folders), "--out", str(out)])


def test_its_differences_are_those_of_the_rows_overall_and_by_edit_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = rows(15, shift=1), rows(15)
    finished(tmp_path / "theirs", theirs)
    finished(tmp_path / "ours", ours)
    run(tmp_path / "theirs", tmp_path / "ours", out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "metrics_compare.json").read_text())
    expected, of_types = compare(ours, theirs), compare_types(ours, theirs)
    assert found["differences"]["ours"].keys() == expected.keys() == ours[0].values.keys()
    for name, difference in found["differences"]["ours"].items():
        interval = expected[name]
        whole = {**interval_dict(interval), "excludes_zero": interval.excludes_zero}
        assert {key: difference[key] for key in whole} == whole
        assert difference["per_edit_type"].keys() == {"add", "move"}
        for edit_type, of_type in difference["per_edit_type"].items():
            parts = [[row for row in part if row.edit_type == edit_type] for part in (ours, theirs)]
            assert of_type["value"] == compare(*parts)[name].value == of_types[name][edit_type].value
    printed = capsys.readouterr().out
    assert "ours minus theirs" in printed
    assert "joint by edit type" in printed
    assert (found["reference"], found["num_samples"]) == ("theirs", 15)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("report.html", "metrics_compare.json", "table.md", "table.tex")
    }


def test_several_systems_are_held_against_the_first_and_may_have_one_name(tmp_path: Path) -> None:
    folders = [tmp_path / name / "test" for name in ("a", "b", "c")]
    for shift, folder in enumerate(folders):
        finished(folder, rows(shift=shift), pictures=shift != 1)
    run(*folders, out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "metrics_compare.json").read_text())
    assert found["reference"] == "a/test"
    assert list(found["differences"]) == ["b/test", "c/test"]
    assert found["systems"][2]["causes"]["n"] == 12
    assert found["command"].startswith("python evaluate.py compare ")


def other_rows(change: Callable[[SampleRow], SampleRow]) -> list[SampleRow]:
    return [change(row) for row in rows()]


@pytest.mark.parametrize(
    ("other", "about", "message"),
    [
        (rows(), {"split": "val"}, "split test and val"),
        (rows(), {"data": {"class_path": "some.Other"}}, "data some.Data and some.Other"),
        (
            rows(),
            {"data": {"class_path": "some.Data", "init_args": {"resolution": 128}}},
            "data.init_args.resolution 64 and 128",
        ),
        (rows(11), {}, "12 and 11 samples, 1 in one alone, such as 's11'; evaluate both with the same --limit"),
        (other_rows(lambda row: replace(row, key=f"t{row.key}")), {}, "24 in one alone, such as 's00'"),
        (other_rows(lambda row: replace(row, instruction="no")), {}, "sample 's00' asks for 'do 0' and 'no'"),
        (rows(), {"judge": "another.Judge"}, r"other models \(judge\) scored them"),
    ],
)
def test_other_data_splits_samples_and_judges_are_refused_in_one_line(
    other: list[SampleRow], about: dict[str, Any], message: str, tmp_path: Path
) -> None:
    finished(tmp_path / "a", rows())
    finished(tmp_path / "b", other, **about)
    with pytest.raises(SystemExit, match=f"^error: .*a and .*b cannot be compared: .*{message}") as stopped:
        run(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "about",
    [
        {"data": {"class_path": "some.Data", "init_args": {"resolution": 64, "num_workers": 4, "train_count": 9}}},
        {"clip": {"name": "elsewhere", "fingerprint": "f", "preprocessing": {}}},
    ],
)
def test_where_data_and_models_lie_and_how_data_are_read_makes_no_difference(
    about: dict[str, Any], tmp_path: Path
) -> None:
    finished(tmp_path / "a", rows(), clip={"name": "here", "fingerprint": "f", "preprocessing": {}})
    finished(tmp_path / "b", rows(shift=1), **about)
    run(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    assert (tmp_path / "out" / "report.html").is_file()


def test_what_is_no_finished_evaluation_is_named(tmp_path: Path) -> None:
    finished(tmp_path / "a", rows())
    (tmp_path / "b").mkdir()
    with pytest.raises(SystemExit, match=r"error: .*b: no finished evaluation; expected metrics.json"):
        run(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    (tmp_path / "b" / "samples.jsonl").write_text("")
    (tmp_path / "b" / "metrics.json").write_text('{"metrics": {}}')
    with pytest.raises(SystemExit, match=r"error: .*metrics.json: expected what evaluate.py writes"):
        run(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    with pytest.raises(SystemExit, match="given twice"):
        run(tmp_path / "a", tmp_path / "b" / ".." / "a", out=tmp_path / "out")


def test_the_page_of_an_evaluation_is_not_written_over(tmp_path: Path) -> None:
    for name in ("a", "b"):
        finished(tmp_path / name, rows())
    with pytest.raises(SystemExit, match="is one of the evaluations"):
        run(tmp_path / "a", tmp_path / "b", out=tmp_path / "a")
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == report(rows())


def test_one_folder_alone_is_nothing_to_compare(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["compare", "a", "--out", "b"])
    assert "required: OTHER_DIR" in capsys.readouterr().err


def test_evaluations_are_called_by_as_much_of_their_path_as_tells_them_apart(tmp_path: Path) -> None:
    assert short_names([Path("/x/a/test"), Path("/x/b/test")]) == ["a/test", "b/test"]
    assert short_names([Path("/x/a"), Path("/y/b")]) == ["a", "b"]
    finished(tmp_path / "only", rows())
    assert read_finished([tmp_path / "only"])[0].name == "only"


def test_comparing_imports_no_torch(root: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        finished(tmp_path / name, rows())
    given = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]
    code = f"import sys, evaluate; evaluate.main({given!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=False).returncode == 0
    assert (tmp_path / "out" / "report.html").is_file()

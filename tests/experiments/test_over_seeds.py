"""Means and paired differences of systems over their training seeds."""

import json
from pathlib import Path

import pytest

from experiments.over_seeds import main, read_systems, values_of


def write_evaluation(folder: Path, values: dict[str, float], **report: object) -> None:
    folder.mkdir(parents=True)
    rows = [
        {"key": key, "seed": 0, "edit_type": "add", "instruction": folder.name, "values": {"joint": value}}
        for key, value in values.items()
    ]
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    told = {"metrics": {}, "data": {"class_path": folder.name}, **report}
    (folder / "metrics.json").write_text(json.dumps(told), encoding="utf-8")


def test_seeds_are_averaged_and_samples_paired_whatever_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        write_evaluation(tmp_path / f"run-{seed}" / "short", {"a": 1, "b": seed, "c": 0})
        write_evaluation(tmp_path / f"run-{seed}" / "long", {"b": 0, "a": seed, "d": 1})
    folders = [f"{name}={tmp_path}/run-{{seed}}/{name}" for name in ("short", "long")]
    main([*folders, "--seeds", "0", "1", "--metrics", "joint"])
    heading, _, short, long = capsys.readouterr().out.splitlines()
    assert heading == "| metric | system | n | mean | minus short |"
    assert short.startswith("| joint | short | 2 | 0.750 [") and short.endswith("|  |")
    assert long.startswith("| joint | long | 2 | 0.250 [") and "| -0.500 [-0.500, -0.500] |" in long
    main([*folders, "--seeds", "0", "1", "--metrics", "joint", "--digits", "5"])
    assert "| -0.50000 [-0.50000, -0.50000] |" in capsys.readouterr().out
    values = values_of(read_systems(folders, [0, 1]), "joint")
    assert {name: found.tolist() for name, found in values.items()} == {"short": [1, 0.5], "long": [0.5, 0]}


def test_types_of_edits_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, values in (("one", {"a": 1, "b": 0}), ("other", {"a": 1, "b": 1})):
        write_evaluation(tmp_path / name, values)
        first, second = (tmp_path / name / "samples.jsonl").read_text().splitlines()
        rows = [first, second.replace('"add"', '"move"')]
        (tmp_path / name / "samples.jsonl").write_text("\n".join(rows), encoding="utf-8")
    main([f"one={tmp_path}/one", f"other={tmp_path}/other", "--metrics", "joint", "--by-type"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith(("|-", "| metric"))]
    assert [line.split(" [")[0] for line in lines] == [
        *("add", "| joint | one | 1 | 1.000", "| joint | other | 1 | 1.000"),
        *("move", "| joint | one | 1 | 0.000", "| joint | other | 1 | 1.000"),
    ]


def test_a_folder_without_a_seed_is_one_evaluation(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "floor", {"a": 1})
    assert [len(runs) for runs in read_systems([f"floor={tmp_path}/floor"], [0, 1, 2]).values()] == [1]


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_evaluation(tmp_path / "one", {"a": 1}, judge="x")
    write_evaluation(tmp_path / "other", {"b": 1}, judge="x")
    write_evaluation(tmp_path / "judged", {"a": 1}, judge="y")
    for words, line in (
        (["one=one", "other=other"], "joint: expected samples that all evaluations have a value for, found none"),
        (["one=one", "judged=judged"], "other models (judge) scored them"),
        (["one=one", "one=other"], "one: given twice; each system needs a name of its own"),
        (["one"], "one: expected NAME=FOLDER"),
        (["one=nowhere"], "nowhere: no finished evaluation"),
    ):
        with pytest.raises(SystemExit) as end:
            main([word.replace("=", f"={tmp_path}/") for word in words])
        assert line in str(end.value), capsys.readouterr()

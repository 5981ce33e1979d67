"""The harmonic mean of fidelity and alignment over the fuse ratio: intervals, choice, links, table, picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules.tinyworld.contents import ContentWorld
from datamodules.tinyworld.write import write_split
from experiments.subject_results.balance import balance, best_point, gain, harmonic_mean
from experiments.subject_results.curve import main

ALPHAS = ("0", "0.25", "0.5", "0.75", "1")
NUM = 12


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Evaluations of two runs: validation is best balanced at 0.5, test at 0.25."""
    data = {"max_attachments": 2, "attachment_size": 32, "eval_batch_size": 5}
    for split in ("val", "test"):
        write_split(tmp_path / split, split, NUM, ContentWorld("subjects"))
        data[split] = str(tmp_path / split)
    section = {"class_path": "datamodules.shard_data.ShardData", "init_args": data}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": section}), encoding="utf-8")
    found = [tmp_path / "runs" / f"umm-{seed}" for seed in (0, 1)]
    for seed, run in enumerate(found):
        for split, best in (("val", 0.5), ("test", 0.25)):
            for alpha in ALPHAS:
                write_evaluation(
                    run / split / f"fuse_ratio={alpha}", split, section, tmp_path, float(alpha), best, seed
                )
    return found


def write_evaluation(folder: Path, split: str, section: dict, root: Path, alpha: float, best: float, seed: int) -> None:
    folder.mkdir(parents=True)
    spread = np.random.default_rng([seed, int(100 * alpha)]).uniform(-0.05, 0.05, NUM)
    rows = []
    for index in range(NUM):
        fidelity, alignment = 0.2 + 0.3 * alpha + spread[index], 0.9 - max(0.0, alpha - best) + spread[index]
        values = {"subject_fidelity": fidelity, "text_alignment": alignment, "subject_and_text": fidelity * alignment}
        row = {"key": f"subjects-{split}-{index:08d}", "seed": 0, "edit_type": "add", "values": values}
        rows.append(json.dumps(row))
    (folder / "samples.jsonl").write_text("\n".join(rows), encoding="utf-8")
    data = {"config": str(root / "data.yaml"), **section}
    report = {"metrics": {}, "data": data, "split": split, "limit": NUM}
    (folder / "metrics.json").write_text(json.dumps(report), encoding="utf-8")


def test_the_harmonic_mean_is_that_of_the_means_and_zero_of_zeros() -> None:
    means = np.array([[0.5, 1.0], [0.0, 0.0], [0.0, 1.0]])
    assert harmonic_mean(means) == pytest.approx([2 / 3, 0, 0])
    one = [{"subject_fidelity": {"a": 0.0, "b": 1.0}, "text_alignment": {"a": 1.0, "b": 1.0}}]
    assert balance(one, ["a", "b"]).value == pytest.approx(2 / 3)
    same = gain(one, one, ["a", "b"])
    assert (same.value, same.low, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="sample 'c' has no value"):
        balance(one, ["a", "c"])


def test_the_smallest_of_equal_points_is_chosen() -> None:
    one = [{"subject_fidelity": {"a": 1.0}, "text_alignment": {"a": 1.0}}]
    assert best_point({1.0: one, 0.5: one}, ["a"]) == 0.5


def test_the_choice_is_made_on_validation_and_tested_elsewhere(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    main([*map(str, runs), "--parts", "test", "--out", str(out)])
    told = (out / "curve.md").read_text(encoding="utf-8")
    assert "fuse ratio 0.5" in told and "2 training seeds" in told
    assert Image.open(out / "curve.png").width > 800
    assert [(run / "test" / "chosen").resolve().name for run in runs] == ["fuse_ratio=0.5"] * 2
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in told.splitlines() if line.startswith("| test")
    ]
    tested, shown = [line for line in cells if len(line) == 6], [line for line in cells if len(line) > 6]
    assert [[*line[:2], line[3]] for line in tested] == [
        ["test", kind, end] for kind in ("all", "one", "two") for end in ("0", "1")
    ]
    assert [line[2] for line in shown] == [*ALPHAS] * 3
    counts = {line[1]: int(line[3]) for line in shown}
    assert counts["one"] + counts["two"] == counts["all"] == NUM and min(counts.values()) > 0
    main([*map(str, runs), "--parts", "test", "--out", str(out)])  # links are laid anew


def test_what_is_not_there_is_said_in_a_line(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(runs[0]), "--parts", "unseen", "--out", str(tmp_path / "out")])
    assert "unseen: expected evaluations at fuse_ratio=VALUE in every run, found none" in str(ended.value)
    assert not (tmp_path / "out").exists() and not (runs[0] / "test" / "chosen").exists()

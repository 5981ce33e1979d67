"""Two metrics over a grid: means over seeds, curves along the first setting, a figure, and what is refused."""

import json
from pathlib import Path

import pytest
from PIL import Image

from experiments.trade_off import curves, main, read_places

ALPHAS, BETAS = ("0.0", "0.5", "1.0"), ("0.0", "1.0")
METRICS = ("preservation", "success")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds at six points: more alpha keeps more, more beta succeeds less; the second seed lacks one point."""
    found = [tmp_path / "runs" / f"any2pix-{seed}" for seed in (0, 1)]
    for seed, run in enumerate(found):
        for alpha in ALPHAS:
            for beta in BETAS:
                if (seed, alpha, beta) != (1, "1.0", "1.0"):
                    write_evaluation(run / "val" / f"alpha={alpha},beta={beta}", float(alpha), float(beta), seed)
    (found[0] / "val" / "chosen").symlink_to("alpha=0.5,beta=0.0")
    return found


def write_evaluation(folder: Path, alpha: float, beta: float, seed: int) -> None:
    folder.mkdir(parents=True)
    rows = []
    for number in range(10):
        kept, done = number < 2 + 6 * alpha + 2 * seed, number < 8 - 6 * beta
        values = {"preservation": float(kept), "success": float(done)}
        rows.append(json.dumps({"key": f"k{number}", "seed": 0, "edit_type": "add", "values": values}))
    (folder / "samples.jsonl").write_text("\n".join(rows), encoding="utf-8")
    report = {"metrics": {}, "data": {"class_path": "d", "config": "d.yaml"}, "split": "val", "limit": 10}
    (folder / "metrics.json").write_text(json.dumps(report), encoding="utf-8")


def test_a_point_is_the_mean_over_seeds_at_what_both_have(runs: list[Path]) -> None:
    places = read_places(runs, "val", METRICS)
    assert len(places) == 5
    found = {tuple(place.point.values()): [each.value for each in place.values] for place in places}
    assert found["0.5", "0.0"] == pytest.approx([(0.5 + 0.7) / 2, 0.8])
    assert found["0.0", "1.0"] == pytest.approx([(0.2 + 0.4) / 2, 0.2])
    assert all(each.low <= each.value <= each.high for place in places for each in place.values)


def test_a_curve_runs_along_the_first_setting_in_the_order_of_its_values(runs: list[Path]) -> None:
    found = curves(read_places(runs, "val", METRICS))
    assert list(found) == ["beta = 0.0", "beta = 1.0"]
    assert [[place.point["alpha"] for place in of_curve] for of_curve in found.values()] == [[*ALPHAS], [*ALPHAS[:2]]]


def test_the_figure_and_the_table_are_written(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    main([*map(str, runs), "--out", str(out)])
    told = (out / "trade_off.md").read_text(encoding="utf-8").splitlines()
    assert told[0] == "| alpha | beta | preservation | success | n |" and len(told) == 2 + 5
    assert told[2].startswith("| 0.0 | 0.0 | 0.300 [") and told[2].endswith("] | 10 |")
    picture = Image.open(out / "trade_off.png").convert("RGB")
    assert picture.width > 500 and len(picture.getcolors(1 << 24) or []) > 20
    main([str(runs[0]), "--metrics", "success", "preservation", "--out", str(out)])
    assert "| alpha | beta | success | preservation | n |" in (out / "trade_off.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--part", "test"], "test: expected evaluations at the points of a grid in every run, found none"),
        (["--metrics", "preservation", "lpips_input"], "expected values of lpips_input, found none"),
    ],
)
def test_what_is_not_there_is_one_line(
    options: list[str], said: str, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, runs), *options, "--out", str(tmp_path / "out")])
    assert said in f"{ended.value} {capsys.readouterr().err}" and not (tmp_path / "out").exists()

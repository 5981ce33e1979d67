"""bench/learning.py: rows differ from their base in one thing, curves are read rightly, and a row is measured once."""

import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from bench.learning import ROWS, configs_of, curve, main, speed
from bench.tools.learning_curves import Look, draw_curves, minutes_to, samples_to, table

BASE = """
model:
  class_path: experiments.tiny_backbones.denoisers.Editing
  init_args:
    optimizer: {lr: 1.0e-3}
    loss_weights: {sdm: 1.0}
    backbone: assets/tiny/stable-diffusion
    unet:
      {block_out_channels: [16, 32], layers_per_block: 1, attention_heads: 2, norm_num_groups: 8, sample_size: 16}
    sampling: {num_steps: 2, guidance_scale: 1.5, image_guidance_scale: 1.2}
data:
  class_path: datamodules.tinyworld.data.TinyWorldData
  init_args: {level: plain, train_count: 16, val_count: 4, test_count: 4, global_batch_size: 4, num_workers: 0}
trainer: {accelerator: cpu, devices: 1}
"""


def looks(*joint: float) -> list[Look]:
    return [Look(100 * number, share, share, 0.5) for number, share in enumerate(joint, 1)]


@pytest.fixture
def rows(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base and a row of a small denoiser."""
    monkeypatch.chdir(root)
    base = yaml.safe_load(BASE)
    base["data"]["init_args"]["root"] = str(tmp_path / "world")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    (tmp_path / "batch.yaml").write_text("data: {init_args: {global_batch_size: 2}}", encoding="utf-8")
    return tmp_path


def test_samples_are_read_between_two_looks() -> None:
    assert samples_to(looks(0.1, 0.3, 0.2), 0.2) == pytest.approx(150)
    assert samples_to(looks(0.4), 0.2) == pytest.approx(50)  # a straight line from nothing at the start
    assert samples_to(looks(0.1, 0.15), 0.2) is None
    assert minutes_to(looks(0.1, 0.3), 0.2, 0.4) == pytest.approx(1.0)
    assert minutes_to(looks(0.1), 0.2, 0.4) is None


def test_the_table_is_sorted_and_says_what_was_not_reached() -> None:
    curves = {"slow": [looks(0.0, 0.1)], "fast": [looks(0.2, 0.6), looks(0.1, 0.4)]}
    lines = table(curves, {"slow": 1.2, "fast": 0.03}, 0.4).splitlines()
    assert lines[2] == "| `fast` | 0.1, 0.1 | 150, 200 | 30.0 | 50 | 50 | 50 |"
    assert lines[3] == "| `slow` | not reached | not reached | 1200.0 | 10 | 10 | 50 |"


def test_curves_are_drawn(tmp_path: Path) -> None:
    curves = {"a": [looks(0.1, 0.2)], "b": [looks(0.0, 0.3), looks(0.1, 0.2)]}
    draw_curves(curves, {"a": 0.02, "b": 0.03}, 0.2, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**6) or ()) > 20


def test_every_row_is_short_and_differs_from_its_base() -> None:
    files = sorted(ROWS.glob("*.yaml"))
    assert len(files) >= 9
    for row in files:
        assert len(row.read_text(encoding="utf-8").splitlines()) <= 40
        assert [path.stem for path in configs_of(row)] == list(dict.fromkeys(["base", row.stem]))


def test_a_row_trains_for_its_samples_and_is_looked_at_on_the_way(rows: Path) -> None:
    found = curve(rows / "batch.yaml", 3, 12, 4, rows / "runs")
    assert [look["samples"] for look in found["looks"]] == [4, 8, 12] and found["seed"] == 3
    assert all(0 <= look[name] <= 1 for look in found["looks"] for name in ("joint", "success", "preservation"))


def test_a_row_is_timed_by_the_sample(rows: Path) -> None:
    began = time.process_time()
    found = speed(rows / "batch.yaml", rows / "runs")
    assert 0 < 8 * 2 * found["seconds"] < time.process_time() - began


@pytest.mark.slow
def test_what_is_measured_is_not_measured_again(rows: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [str(rows / "base.yaml"), str(rows / "batch.yaml"), "--train-samples", "8", "--edited", "4"]
    words += ["--out", str(rows / "out")]
    main([*words, "--untimed"])
    assert capfd.readouterr().out.count("measured in") == 2
    main([*words, "--figure", str(rows / "curves.png")])
    first = capfd.readouterr().out
    assert first.count("speed: measured in") == first.count("measured in") == 2
    main([*words[:2], "--seeds", "1", *words[2:]])  # another seed stands beside the first
    second = capfd.readouterr().out.splitlines()
    assert sum("measured in" in line for line in second) == 2
    assert [line.count(", ") for line in second if line.startswith("| `")] == [2, 2]
    assert (rows / "curves.png").is_file()

"""bench/learning.py: rows differ from their base in one thing, curves are read rightly, and a row is measured once."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from bench.learning import ROWS, configs_of, curve, main
from bench.tools.learning_curves import Look, draw_curves, minutes_to, table

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
    return [Look(2.0 * number, 100 * number, share, share, 0.5) for number, share in enumerate(joint, 1)]


@pytest.fixture
def rows(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base and a row of a small denoiser."""
    monkeypatch.chdir(root)
    base = yaml.safe_load(BASE)
    base["data"]["init_args"]["root"] = str(tmp_path / "world")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    (tmp_path / "batch.yaml").write_text("data: {init_args: {global_batch_size: 2}}", encoding="utf-8")
    return tmp_path


def test_minutes_are_read_between_two_looks() -> None:
    assert minutes_to(looks(0.1, 0.3, 0.2), 0.2) == pytest.approx(3.0)
    assert minutes_to(looks(0.4), 0.2) == pytest.approx(1.0)  # a straight line from nothing at the start
    assert minutes_to(looks(0.1, 0.15), 0.2) is None


def test_the_table_is_sorted_and_says_what_was_not_reached() -> None:
    lines = table({"slow": [looks(0.0, 0.1)], "fast": [looks(0.2, 0.6), looks(0.1, 0.4)]}, 0.4).splitlines()
    assert lines[2] == "| `fast` | 3.0, 4.0 | 200 | 50 | 50 | 50 |"
    assert lines[3] == "| `slow` | not reached | 200 | 10 | 10 | 50 |"


def test_curves_are_drawn(tmp_path: Path) -> None:
    draw_curves({"a": [looks(0.1, 0.2)], "b": [looks(0.0, 0.3), looks(0.1, 0.2)]}, 0.2, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**6) or ()) > 20


def test_every_row_is_short_and_differs_from_its_base() -> None:
    files = sorted(ROWS.glob("*.yaml"))
    assert len(files) >= 9
    for row in files:
        assert len(row.read_text(encoding="utf-8").splitlines()) <= 40
        assert [path.stem for path in configs_of(row)] == list(dict.fromkeys(["base", row.stem]))


def test_a_row_trains_for_its_time_and_is_looked_at_on_the_way(rows: Path) -> None:
    found = curve(configs_of(rows / "batch.yaml"), 3, 0.02, 4, rows / "runs")
    minutes = [look["minutes"] for look in found["looks"]]
    assert len(minutes) == 5 and minutes == sorted(minutes) and minutes[-1] >= 0.02
    assert found["looks"][-1]["samples"] == 2 * found["steps"] > 0 and found["seed"] == 3
    assert all(0 <= look[name] <= 1 for look in found["looks"] for name in ("joint", "success", "preservation"))


@pytest.mark.slow
def test_what_is_measured_is_not_measured_again(rows: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [str(rows / "base.yaml"), str(rows / "batch.yaml"), "--minutes", "0.01", "--samples", "4"]
    words += ["--out", str(rows / "out")]
    main([*words, "--figure", str(rows / "curves.png")])
    first = capfd.readouterr().out
    main(words)
    second = capfd.readouterr().out
    assert first.count("minutes with looking") == 2 and "minutes with looking" not in second
    assert second.splitlines() == [line for line in first.splitlines() if "with looking" not in line][-4:]
    assert (rows / "curves.png").is_file()

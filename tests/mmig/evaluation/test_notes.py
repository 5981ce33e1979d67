"""What stands beside the numbers: scripts that were reproduced, and pictures that were resized; said, never silent."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import evaluate
from mmig.evaluation.notes import notes
from mmig.evaluation.page.build import write_page
from mmig.evaluation.rows import read_rows
from mmig.metrics.images import RESIZING
from mmig.metrics.preprocess import PRESETS
from tests.mmig.evaluation.made_up import finished, report, rows
from tests.mmig.evaluation.support import random_samples
from tests.mmig.evaluation.test_page import plain
from tests.tiny_fixtures import build_open_clip


def described(preset: str) -> dict[str, Any]:
    return {"name": "ViT", "preset": preset, "preprocessing": PRESETS[preset].describe()}


def test_of_usual_numbers_there_is_nothing_to_say() -> None:
    assert notes(report(rows(), clip=described("default"))) == []


@pytest.mark.parametrize(
    ("preset", "script"), [("compat_ip2p", "InstructPix2Pix"), ("compat_magicbrush", "MagicBrush")]
)
def test_a_compat_preset_names_its_script_and_every_defect(preset: str, script: str) -> None:
    (note,) = notes(report(rows(), clip=described(preset)))
    assert f"CLIP preprocessing {preset} reproduces" in note and f"of {script}, defects included: " in note
    assert all(defect in note for defect in PRESETS[preset].defects)


def test_of_several_evaluations_the_page_says_whose_pictures_were_resized(tmp_path: Path) -> None:
    def scored(name: str, count: int) -> Any:
        resized = {"count": count, "rule": RESIZING, "sizes": {"128x128": count}}
        return finished(tmp_path / name, rows(), clip=described("compat_ip2p"), resized_pictures=resized)

    write_page(tmp_path / "page", [scored("one", 0), scored("two", 3)], "again")
    said = plain((tmp_path / "page" / "report.html").read_text())
    assert "two: 3 edited pictures had another size than their samples' images (128x128 3)" in said
    assert said.count("defects included: images") == 1


def test_evaluating_with_a_compat_preset_says_so_and_counts_resized_pictures(
    data_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    any_model = replace(PRESETS["compat_magicbrush"], expected_models=())
    monkeypatch.setitem(PRESETS, "compat_magicbrush", any_model)
    (tmp_path / "made").mkdir()
    for number, sample in enumerate(random_samples(5)):
        side = (64, 64, 128, 128, 32)[number]
        sample["target"].resize((side, side), Image.Resampling.NEAREST).save(tmp_path / "made" / f"{sample['key']}.png")
    command = ["--images", str(tmp_path / "made"), "--data", str(data_config), "--device", "cpu"]
    clip = ["--clip", str(build_open_clip(tmp_path / "clip")), "--preprocessing", "compat_magicbrush"]
    metrics = ["--metrics", "l1_target", "clip_image_similarity_target"]
    evaluate.main([*command, *clip, *metrics, "--out", str(tmp_path / "out")])
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert stored["resized_pictures"] == {"count": 3, "rule": RESIZING, "sizes": {"128x128": 2, "32x32": 1}}
    assert stored["clip"]["preprocessing"]["reproduces"] == any_model.reproduces
    resized_from = [row.resized_from for row in read_rows(tmp_path / "out" / "samples.jsonl")]
    assert resized_from == [None, None, [128, 128], [128, 128], [32, 32]]
    texts = [(tmp_path / "out" / name).read_text() for name in ("table.md", "table.tex")]
    page = plain((tmp_path / "out" / "report.html").read_text())
    for said in (" ".join(capsys.readouterr().out.split()), page, *texts):
        assert "compat_magicbrush reproduces evaluation/image_eval.py of MagicBrush, defects included" in said
        assert "3 edited pictures had another size than their samples' images (128x128 2, 32x32 1)" in said
        assert RESIZING in said and "CLIP read them as they were made" in said

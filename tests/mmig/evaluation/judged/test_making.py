"""Pictures of a benchmark made by an editor of ours, in its layout and in the size of each source."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mmig.base.paths import ROOT
from mmig.evaluation.judged.__main__ import main
from mmig.evaluation.judged.making import FACTS
from tests.mmig.evaluation.judged import layouts
from tests.mmig.evaluation.judged.running import results_of
from tests.mmig.evaluation.judged.support import lines

IDENTITY = str(ROOT / "configs/editors/identity.yaml")


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Arguments for items without any edited picture."""
    items, _ = layouts.write("rededit", tmp_path)
    layouts.picture(items / "redbench/add/add-2.png", 9, (48, 20))
    replies = tmp_path / "replies.jsonl"
    replies.write_text(json.dumps({"item": "add/1", "reply": lines(1, 1, 1)}) + "\n")
    made = ["--pictures", str(tmp_path / "made"), "--device", "cpu", "--out", str(tmp_path / "out")]
    return ["rededit", "--language", "en", "--items", str(items), "--judge", str(replies), *made]


def test_the_source_is_what_identity_makes_in_the_layout(given: list[str], tmp_path: Path) -> None:
    main([*given, "--config", IDENTITY])
    made = sorted(path.relative_to(tmp_path / "made").as_posix() for path in (tmp_path / "made").rglob("*.png"))
    assert made == ["add/add-1.png", "add/add-2.png", "lowlevel/lowlevel-4.png", "text/text-3.png"]
    with Image.open(tmp_path / "made/add/add-2.png") as edited:
        assert edited.size == (48, 20)
        assert np.abs(np.asarray(edited).astype(int) - np.array([9, 90, 191])).max() <= 1
    assert results_of(tmp_path / "out")["measures"]["score"]["micro"]["items"] == 4


def test_only_missing_pictures_are_made_and_each_as_if_alone(given: list[str], tmp_path: Path) -> None:
    config = tmp_path / "editor.yaml"
    values = yaml.safe_load((ROOT / "configs/editors/tiny_instruction.yaml").read_text())
    values["editor"]["init_args"]["sampling"]["num_steps"] = 2
    config.write_text(yaml.safe_dump(values))
    main([*given, "--config", str(config), "--resolution", "32"])
    first, second = tmp_path / "made/add/add-1.png", tmp_path / "made/add/add-2.png"
    before, content = first.read_bytes(), second.read_bytes()
    os.utime(second, ns=(0, 0))
    first.unlink()
    main([*given, "--config", str(config), "--resolution", "32"])
    assert first.read_bytes() == before
    assert second.stat().st_mtime_ns == 0
    assert before != content


def test_pictures_of_another_editor_do_not_join(given: list[str], tmp_path: Path) -> None:
    main([*given, "--config", IDENTITY])
    assert json.loads((tmp_path / "made" / FACTS).read_text())["seed"] == 0
    with pytest.raises(SystemExit, match=r"its pictures were made otherwise: seed was 0 and is 1; give another folder"):
        main([*given, "--config", IDENTITY, "--edit-seed", "1"])
    (tmp_path / "made" / FACTS).unlink()
    with pytest.raises(SystemExit, match="holds pictures that something else has made"):
        main([*given, "--config", IDENTITY])


def test_items_of_several_pictures_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items, _ = layouts.write("kris", tmp_path)
    replies = tmp_path / "replies.jsonl"
    replies.write_text("")
    made = ["--pictures", str(tmp_path / "made"), "--out", str(tmp_path / "out"), "--config", IDENTITY]
    with caplog.at_level("INFO", logger="mmig"):
        main(["kris", "--items", str(items), "--judge", str(replies), "--device", "cpu", *made])
    assert "2 items of several source pictures are left out" in caplog.text
    assert results_of(tmp_path / "out")["counts"]["not_read"]["no edited picture"] == 6

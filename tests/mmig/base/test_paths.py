"""Paths of configurations, from whichever folder a program is started."""

import subprocess
from pathlib import Path

import pytest
import yaml
from PIL import Image

from mmig.backbones.files import BackboneError
from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.hub import is_hub_id, locate
from mmig.backbones.parts import VAE
from mmig.base.paths import ROOT, looked_in, resolved
from mmig.evaluation.data import data_section
from mmig.run.programs import with_shipped
from mmig.run.scoring import settings_path
from tests import warm

SHIPPED = "assets/tiny/stable-diffusion"


def test_what_is_here_comes_before_what_the_repository_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolved(SHIPPED) == ROOT / SHIPPED
    (tmp_path / SHIPPED).mkdir(parents=True)
    assert resolved(SHIPPED) == Path(SHIPPED)


def test_what_is_nowhere_or_absolute_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolved("no/such") == Path("no/such")
    assert resolved(tmp_path / "assets") == tmp_path / "assets"
    assert resolved("~") == Path.home()
    assert looked_in(tmp_path) == ""
    assert looked_in("no/such") == f", relative to {tmp_path} or {ROOT}"


def test_shipped_backbones_and_settings_are_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fingerprint(ROOT / SHIPPED)
    monkeypatch.chdir(tmp_path)
    assert locate(SHIPPED, VAE) == ROOT / SHIPPED / "vae"
    assert fingerprint(SHIPPED) == expected
    assert not is_hub_id("assets/tiny")
    assert settings_path("datamodules.tinyworld.data.TinyWorldData").is_file()


def test_a_folder_that_is_not_there_is_said_with_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BackboneError, match=f"the folder my/own/parts does not exist, relative to {tmp_path} or {ROOT}"
    ):
        locate("my/own/parts", VAE)


def test_configurations_on_the_command_line_of_train_py_may_be_the_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("seed_everything: 1")
    shipped = "configs/demo/stage1.yaml"
    words = ["fit", "--config", shipped, f"--config={shipped}", "--config", "own.yaml", "--config=./no.yaml", shipped]
    assert with_shipped(words) == [
        *("fit", "--config", str(ROOT / shipped), f"--config={ROOT / shipped}"),
        *("--config", "own.yaml", "--config=no.yaml", shipped),
    ]


def test_a_data_configuration_may_be_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_section(Path("configs/data/short.yaml"))["class_path"] == "datamodules.tinyworld.data.TinyWorldData"


def test_programs_run_from_another_folder(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "in.png")
    config = yaml.safe_load((ROOT / "configs" / "editors" / "tiny_instruction.yaml").read_text(encoding="utf-8"))
    (tmp_path / "editor.yaml").write_text(yaml.safe_dump(config))
    command = [warm.python(), str(ROOT / "edit.py"), "--config", "editor.yaml", "--image", "in.png", "--steps", "1"]
    done = subprocess.run(
        [*command, "--instruction", "make it red", "--resolution", "16", "--out", "out.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (16, 16)

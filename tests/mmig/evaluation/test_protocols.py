"""Every protocol from its published layout to its overview: converted, edited, scored, held against the paper."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import evaluate
from datamodules.convert.emu_edit import EmuEdit
from datamodules.convert.evr import EVR
from datamodules.convert.gier import GIER
from datamodules.convert.ipr2pr import ipr2pr
from datamodules.convert.ma5k import MA5k
from datamodules.convert.magicbrush import magicbrush
from datamodules.convert.magicbrush_sessions import magicbrush_sessions
from mmig.base.paths import ROOT
from mmig.evaluation.protocol import read_protocol
from tests.datamodules.convert.benchmarks import emu_edit_source, evr_files, gier_files, ma5k_files
from tests.datamodules.convert.layouts import ipr2pr_files, picture, write
from tests.datamodules.convert.magicbrush_layout import folder_files, source_pixels
from tests.datamodules.convert.results import converted
from tests.mmig.evaluation.support import random_samples, write_data
from tests.tiny_fixtures import build_open_clip
from tests.tiny_vision import build_dino, build_lpips_backbone

pytestmark = pytest.mark.usefixtures("datasets_cache")
IDENTITY = str(ROOT / "configs/editors/identity.yaml")
TINY = str(ROOT / "configs/editors/tiny_instruction.yaml")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Small models in the place of the published ones."""
    folder = tmp_path_factory.mktemp("models")
    clip, dino = build_open_clip(folder / "clip"), build_dino(folder / "dino")
    lpips = build_lpips_backbone(folder / "squeeze.pth", "squeezenet1_1")
    plain = ["--preprocessing", "default", "--dino-preprocessing", "default"]
    return ["--clip", str(clip), "--dino", str(dino), "--lpips", "squeeze", str(lpips), *plain, "--device", "cpu"]


def data_of(name: str, folder: Path, resolution: int = 64) -> Path:
    """The shipped configuration of a data set, read from a folder of a test."""
    config = yaml.safe_load((ROOT / "configs/data" / f"{name}.yaml").read_text())
    arguments = config["data"]["init_args"]
    for split in ("train", "val", "test"):
        if split in arguments:
            arguments[split] = str(folder / Path(arguments[split]).name)
    arguments |= {"resolution": resolution, "num_workers": 0, "eval_batch_size": 4}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _mgie(folder: Path) -> list[str]:
    made: dict[str, Callable[[], Any]] = {
        "evr": lambda: EVR(str(write(folder / "evr/source", evr_files()))),
        "gier": lambda: GIER(str(write(folder / "gier/source", gier_files()))),
        "ma5k": lambda: MA5k(str(write(folder / "ma5k/source", ma5k_files()))),
    }
    for name, source in made.items():
        converted(source(), folder / name / "out")
    return [f"{name}={data_of(name, folder / name / 'out')}" for name in made]


def _emu_edit(folder: Path) -> list[str]:
    converted(EmuEdit(emu_edit_source(folder / "source", answers=False)), folder / "out")
    return [str(data_of("emu_edit", folder / "out"))]


def run(out: Path, *words: str) -> dict[str, Any]:
    """The overview of evaluate.py."""
    evaluate.main([*words, "--out", str(out)])
    return json.loads((out / "overview.json").read_text())


def test_mgie_has_a_table_a_data_set_with_its_own_metrics_and_unit(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [*_mgie(tmp_path), f"magicbrush={write_data(tmp_path / 'mb', random_samples(3))}"]
    words = ["--protocol", "mgie", "--config", IDENTITY, "--data", *data, "--seeds", "1", *models]
    found = run(tmp_path / "out", *words)
    assert [part["name"] for part in found["parts"]] == ["evr", "gier", "ma5k", "magicbrush"]
    evr = found["parts"][0]
    assert [column["metric"] for column in evr["columns"]] == [
        "l1_target",
        "dino_target",
        "clip_image_similarity_target",
    ]
    ours, whole = evr["evaluations"][0]["values"], json.loads((tmp_path / "out/evr/metrics.json").read_text())
    assert ours["dino_target"]["value"] == pytest.approx(100 * whole["metrics"]["dino_target"]["value"])
    assert ours["l1_target"]["value"] == whole["metrics"]["l1_target"]["value"] > 0
    assert ours["l1_target"]["n"] == 6
    assert not evr["comparable"]
    assert "6 samples, where the protocol has 1485" in evr["reasons"]
    assert evr["published"]["MGIE (zero-shot)"]["dino_target"] == "71.49"
    printed = capsys.readouterr().out
    assert "published, not to be compared with the above: " in printed
    assert "not reproduced: scores by people" in printed
    page = (tmp_path / "out/overview.html").read_text()
    assert "EVR DINO" in page and "Published, not to be compared" in page and 'href="evr/report.html"' in page


def test_emu_edit_compares_with_the_input(models: list[str], tmp_path: Path) -> None:
    found = run(
        tmp_path / "out", "--protocol", "emu_edit", "--config", IDENTITY, "--data", *_emu_edit(tmp_path), *models
    )
    values = found["parts"][0]["evaluations"][0]["values"]
    assert values["l1_input"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 3}
    assert values["clip_image_similarity_input"]["value"] == pytest.approx(1, abs=1e-6)
    assert values["clip_directional_similarity"] is None  # nothing changed


def test_magicbrush_scores_each_turn_and_the_end_of_each_session(models: list[str], tmp_path: Path) -> None:
    source = str(write(tmp_path / "source", folder_files()))
    converted(magicbrush(source), tmp_path / "turns")
    converted(magicbrush_sessions(source), tmp_path / "sessions")
    turns = data_of("magicbrush", tmp_path / "turns", resolution=16)
    sessions = data_of("magicbrush_sessions", tmp_path / "sessions", resolution=16)
    data = ["--data", f"single-turn={turns}", f"multi-turn={sessions}"]
    found = run(tmp_path / "out", "--protocol", "magicbrush", "--config", IDENTITY, *data, *models)
    outputs = (Image.open(io.BytesIO(picture(turn, form="PNG"))) for turn in (1, 2))
    first, one, two = (np.asarray(pixels) / 255 for pixels in (source_pixels(), *outputs))
    by_turn = [abs(first - one).mean(), abs(one - two).mean(), abs(first - one).mean()]
    by_session = [abs(first - two).mean(), abs(first - one).mean()]
    values = [part["evaluations"][0]["values"] for part in found["parts"]]
    assert values[0]["l1_target"]["value"] == pytest.approx(np.mean(by_turn), abs=1e-6)
    assert values[1]["l1_target"]["value"] == pytest.approx(np.mean(by_session), abs=1e-6)
    assert [len(part["published"]) for part in found["parts"]] == [12, 9]  # the masked rows are of neither
    assert "2 samples, where the protocol has 535" in found["parts"][1]["reasons"]
    assert json.loads((tmp_path / "out/multi-turn/metrics.json").read_text())["turns"]


def test_instruct_pix2pix_draws_its_curve_over_image_guidance(models: list[str], tmp_path: Path) -> None:
    converted(ipr2pr(str(write(tmp_path / "source", ipr2pr_files(40)))), tmp_path / "data")
    words = ["--protocol", "instruct_pix2pix", "--config", TINY, "--data", str(data_of("ipr2pr", tmp_path / "data"))]
    found = run(tmp_path / "out", *words, "--sampling", "num_steps=2", *models)
    points = [entry["point"]["image_guidance_scale"] for entry in found["parts"][0]["evaluations"]]
    assert points == [1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2]
    whole = json.loads((tmp_path / "out/image_guidance_scale=1.6/metrics.json").read_text())
    assert whole["sampling"]["image_guidance_scale"] == 1.6
    page = (tmp_path / "out/overview.html").read_text()
    assert page.count('class="mark"') == 7 + 1  # and the legend
    assert "clip_image_similarity_input against clip_directional_similarity over image_guidance_scale" in page


def test_instruct_any2pix_holds_its_three_figures_apart(models: list[str], tmp_path: Path) -> None:
    data = str(write_data(tmp_path / "data", random_samples(3)))
    found = run(tmp_path / "out", "--protocol", "instruct_any2pix", "--config", IDENTITY, "--data", data, *models)
    (part,) = found["parts"]
    assert part["published"]["InstructAny2Pix (MM-Instruct-Edit)"]["clip_directional_similarity"] == "0.132"
    assert any(reason.startswith("the paper does not say") for reason in part["reasons"])
    assert not any(reason.startswith(("dino", "lpips")) for reason in part["reasons"])  # of which no metric needs any
    assert not any('"?"' in note for note in found["notes"])  # for all of them were read in the paper


def test_numbers_of_the_same_protocol_stand_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = {"data": str(write_data(tmp_path / "data", random_samples(3))), "num_samples": 3, "settings": "single"}
    protocol = {"title": "three", "published": "magicbrush", "scoring": {"metrics": ["l1_target", "l2_target"]}}
    path = tmp_path / "three.yaml"
    path.write_text(yaml.safe_dump({**protocol, "parts": {"only": part}}))
    found = run(tmp_path / "out", "--protocol", str(path), "--config", IDENTITY, "--device", "cpu")
    assert found["parts"][0]["comparable"] and not found["parts"][0]["reasons"]
    printed = capsys.readouterr().out
    assert "not to be compared" not in printed
    assert "SmartEdit" in printed and "0.081?" in printed and '"?": nobody of us has read' in printed
    markdown = (tmp_path / "out/overview.md").read_text()
    assert "| IP2P + MagicBrush (single) | 0.0625 | 0.0203 | published |" in markdown


def test_the_small_world_needs_nothing_but_what_is_here(tmp_path: Path) -> None:
    world = yaml.safe_load((ROOT / "configs/data/literal.yaml").read_text())
    world["data"]["init_args"] |= {"root": str(tmp_path / "world"), "test_count": 4}
    given = []
    for kind in ("literal", "visual"):
        world["data"]["init_args"]["kinds"] = [kind]
        (tmp_path / f"{kind}.yaml").write_text(yaml.safe_dump(world))
        given.append(f"{kind}={tmp_path / kind}.yaml")
    ceiling = str(ROOT / "configs/editors/vae_ceiling.yaml")
    words = ["--protocol", "small_world", "--config", IDENTITY, ceiling, "--data", *given, "--device", "cpu"]
    found = run(tmp_path / "out", *words)
    for part in found["parts"]:
        joint = {entry["system"]: entry["values"]["joint"]["value"] for entry in part["evaluations"]}
        assert joint["identity"] == 0 and joint["vae_ceiling"] >= 0.75
        assert (tmp_path / "out" / part["name"] / "report.html").is_file()
    assert read_protocol("small_world").table is None

"""The latent scale: what it does, how many images it needs, the same on any number of ranks, written into a folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml

from datamodules.shards import write_shards
from mmig.backbones.diffusion import load_vae
from mmig.evaluation.data import split_batches
from mmig.methods.latent_diffusion import scale
from mmig.methods.latent_diffusion.scale import main, measure_scale
from tests.datamodules.make_samples import make_samples
from tests.mmig.methods.latent_diffusion.support import captioned
from tests.tiny_fixtures import build_stable_diffusion


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_stable_diffusion(tmp_path / "stable-diffusion")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A configuration with a validation split of 21 samples, two images each."""
    write_shards(make_samples(21), tmp_path / "val", 500)
    arguments = {"val": str(tmp_path / "val"), "resolution": 16, "eval_batch_size": 4}
    section = {"class_path": "datamodules.shard_data.ShardData", "init_args": arguments}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": section}))
    return tmp_path / "data.yaml"


def test_the_measured_scale_brings_latents_to_unit_variance(folder: Path) -> None:
    vae = load_vae(folder)
    batches = [captioned(128, seed, resolution=16) for seed in range(8)]
    scale, images = measure_scale(vae, [*batches, captioned(128, 8, resolution=16)])
    with torch.no_grad():
        latents = torch.cat([vae.encode(b[side]).latent_dist.mode() for b in batches for side in ("source", "target")])
    assert images == 2048
    assert (latents * scale).std().item() == pytest.approx(1.0, abs=1e-3)


def test_a_scale_from_few_images_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="at least 1000 images, the data gave 8"):
        measure_scale(load_vae(folder), [captioned(4)])


def _rank(rank: int, store: str, folder: Path, data: Path, found: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    batches = split_batches(data, "val", rank=rank, world_size=2, limit=scale.MAX_IMAGES)
    found[rank] = measure_scale(load_vae(folder), batches)
    dist.destroy_process_group()


def test_two_ranks_find_what_one_finds(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """21 samples, of which one rank has one more."""
    monkeypatch.setattr(scale, "MIN_IMAGES", 42)
    alone = measure_scale(load_vae(folder), split_batches(data, "val"))
    found = mp.get_context("fork").Manager().dict()
    mp.start_processes(_rank, (str(tmp_path / "store"), folder, data, found), nprocs=2, start_method="fork")
    assert found[0] == found[1]
    assert found[0] == pytest.approx(alone, rel=1e-6) and alone[1] == 42


def test_the_command_writes_it_into_the_folder(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "MIN_IMAGES", 42)
    file = folder / "vae" / "config.json"
    before = json.loads(file.read_text())
    main(["--vae", str(folder), "--data", str(data)])
    after = json.loads(file.read_text())
    measured = measure_scale(load_vae(folder), split_batches(data, "val"))[0]
    assert after == before | {"scaling_factor": pytest.approx(measured, abs=1e-5)} and after != before
    assert capsys.readouterr().out == f"{folder}: scaling_factor {measured:.5f}, of 42 images\n"


def test_too_few_images_are_one_line_and_write_nothing(folder: Path, data: Path) -> None:
    before = (folder / "vae" / "config.json").read_text()
    with pytest.raises(SystemExit, match=r"^error: the latent scale needs at least 1000 images, the data gave 42"):
        main(["--vae", str(folder), "--data", str(data)])
    assert (folder / "vae" / "config.json").read_text() == before

"""Folders of which only the half-precision variant is there, as people download them: read as such, never preferred."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from mmig.backbones.diffusion import load_text_encoder, load_unet, load_vae
from mmig.backbones.files import BackboneError, variant_of, weight_files, weight_names
from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.hub import locate, needed_files
from mmig.backbones.llm import load_llm
from mmig.backbones.parts import OPEN_CLIP, UNET
from tests.mmig.backbones.hub_server import serve
from tests.mmig.backbones.test_fetch import _config, _run
from tests.tiny_fixtures import TinyBackbones

Copy = Callable[[Path], Path]


def halve(folder: Path, keep: bool = False) -> None:
    """Give every weights file of a pipeline its fp16 variant, in place of it or beside it."""
    for file in list(folder.glob("**/*.safetensors")):
        half = {name: value.half() for name, value in load_file(file).items()}
        save_file(half, file.with_name(f"{file.stem}.fp16.safetensors"), metadata={"format": "pt"})
        if not keep:
            file.unlink()


def test_a_pipeline_of_one_variant_is_read_with_its_rounded_weights_and_says_so(
    tiny: TinyBackbones, copied: Copy, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copied(tiny.stable_diffusion)
    halve(folder)
    for load, part in ((load_unet, "unet"), (load_vae, "vae"), (load_text_encoder, "text_encoder")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            half, whole = load(folder).state_dict(), load(tiny.stable_diffusion).state_dict()
        (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("mmig")]
        assert line == f"{folder / part}: only the fp16 variant is there, weights rounded to half precision"
        for name, value in whole.items():
            assert half[name].dtype == torch.float32
            assert torch.equal(half[name], value.half().float()), name


def test_a_variant_has_a_fingerprint_of_its_own(tiny: TinyBackbones, copied: Copy) -> None:
    folder = copied(tiny.stable_diffusion)
    halve(folder)
    parts = ("vae", "unet", None)
    assert all(fingerprint(folder, part) != fingerprint(tiny.stable_diffusion, part) for part in parts)


def test_whole_precision_is_preferred(tiny: TinyBackbones, copied: Copy) -> None:
    folder = copied(tiny.stable_diffusion)
    halve(folder, keep=True)
    assert [file.name for file in weight_files(folder / "unet")] == ["diffusion_pytorch_model.safetensors"]
    assert fingerprint(folder) == fingerprint(tiny.stable_diffusion)


@pytest.mark.parametrize("stale_index", [False, True])
def test_shards_of_a_variant_are_read_as_the_libraries_write_them(
    tiny: TinyBackbones, tmp_path: Path, stale_index: bool
) -> None:
    whole = LlamaForCausalLM.from_pretrained(tiny.llama, dtype=torch.float16)
    whole.save_pretrained(tmp_path / "llm", variant="fp16", max_shard_size="50KB")
    unet = UNet2DConditionModel.from_pretrained(tiny.stable_diffusion, subfolder="unet", torch_dtype=torch.float16)
    unet.save_pretrained(tmp_path / "unet", variant="fp16", max_shard_size="200KB")
    for name, stem, load in (("llm", "model", load_llm), ("unet", "diffusion_pytorch_model", load_unet)):
        folder = tmp_path / name
        if stale_index:  # `*.json` and `*fp16*` are what is downloaded: the other index without its shards
            shutil.copyfile(folder / f"{stem}.safetensors.index.fp16.json", folder / f"{stem}.safetensors.index.json")
            text = (folder / f"{stem}.safetensors.index.json").read_text().replace("fp16", "whole")
            (folder / f"{stem}.safetensors.index.json").write_text(text)
        files = weight_files(folder)
        assert len(files) > 1
        assert {variant_of(file) for file in files} == {"fp16"}
        if not stale_index:
            assert weight_names({file.name for file in folder.iterdir()}) == [file.name for file in files]
        expected = (whole if name == "llm" else unet).state_dict()
        loaded = load(folder).state_dict()
        assert all(torch.equal(value.float(), loaded[key].float()) for key, value in expected.items())


def test_other_variants_and_those_that_the_library_cannot_read_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in ("diffusion_pytorch_model.non_ema.safetensors", "open_clip_model.fp16.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BackboneError, match="expected weights"):
        weight_files(tmp_path)
    names = ["open_clip_config.json", "open_clip_model.fp16.safetensors"]
    assert needed_files(names, OPEN_CLIP) == ["open_clip_config.json"]


def test_a_repository_of_one_variant_is_fetched_and_read_offline(tiny: TinyBackbones, tmp_path: Path) -> None:
    hub, shared = tmp_path / "hub-server", tmp_path / "shared"
    folder = hub / "someone" / "half-sd"
    shutil.copytree(tiny.stable_diffusion, folder)
    halve(folder)
    config = _config(tmp_path / "a.yaml", diffusion="someone/half-sd")
    with serve(hub, []) as address:
        done = _run("fetch", "--config", config, "--to", shared, home=tmp_path / "home", endpoint=address)
    assert done.returncode == 0, done.stderr
    assert variant_of(weight_files(locate("someone/half-sd", UNET, cache_dir=shared / "hub"))[0]) == "fp16"
    job = _run("fingerprint", "someone/half-sd", "--part", "vae", home=shared, HF_HUB_OFFLINE="1")
    assert job.stdout.strip() == fingerprint(folder, "vae")


def test_a_cache_with_a_variant_alone_is_filled_up_where_there_is_a_network(
    tiny: TinyBackbones, tmp_path: Path
) -> None:
    hub, shared = tmp_path / "hub-server", tmp_path / "shared"
    shutil.copytree(tiny.stable_diffusion, hub / "someone" / "sd")
    halve(hub / "someone" / "sd", keep=True)
    fetch = ("fetch", "--config", _config(tmp_path / "a.yaml", vae="someone/sd"), "--to", shared)
    with serve(hub, []) as address:
        assert _run(*fetch, home=tmp_path / "home", endpoint=address).returncode == 0
        (cached,) = shared.glob("hub/*/snapshots/*/vae")
        (cached / "diffusion_pytorch_model.safetensors").unlink()
        half = hub / "someone" / "sd" / "vae" / "diffusion_pytorch_model.fp16.safetensors"
        shutil.copyfile(half, cached / half.name)
        offline = {"home": shared, "HF_HUB_OFFLINE": "1"}
        job = _run("fingerprint", "someone/sd", "--part", "vae", **offline)
        assert job.returncode == 0, job.stderr
        assert job.stdout.strip() != fingerprint(tiny.stable_diffusion, "vae")
        assert _run(*fetch, home=tmp_path / "home", endpoint=address).returncode == 0
    job = _run("fingerprint", "someone/sd", "--part", "vae", **offline)
    assert job.stdout.strip() == fingerprint(tiny.stable_diffusion, "vae")

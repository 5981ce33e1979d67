"""`python -m mmig.backbones fetch`, hub ids, offline work."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmig.backbones import BackboneError
from mmig.backbones.diffusion import load_scheduler, load_text_encoder, load_tokenizer, load_unet, load_vae
from mmig.backbones.fetch import find_references, read_references
from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.hub import is_hub_id, locate, needed_files
from mmig.backbones.llm import load_llm, load_llm_tokenizer
from mmig.backbones.parts import LLM, TOKENIZER, UNET, VAE
from tests.mmig.backbones.hub_server import serve
from tests.tiny_fixtures import TinyBackbones

REPOSITORY = Path(__file__).parents[3]
NO_ONE = "http://127.0.0.1:9"  # the discard port: nobody answers


def _run(*arguments: str | Path, home: Path, endpoint: str = NO_ONE, **environment: str) -> subprocess.CompletedProcess:
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "mmig.backbones", *map(str, arguments)],
        cwd=REPOSITORY,
        env=kept | settings | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _config(file: Path, **content: object) -> Path:
    file.write_text(yaml.safe_dump({"model": {"init_args": content}}))
    return file


@pytest.fixture
def hub_root(tiny: TinyBackbones, tmp_path: Path) -> Path:
    """A hub with one pipeline; its unet also has the variants of published folders that nobody needs."""
    root = tmp_path / "hub-server"
    shutil.copytree(tiny.stable_diffusion, root / "someone" / "tiny-sd")
    unet = root / "someone" / "tiny-sd" / "unet"
    for unneeded in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"):
        (unet / unneeded).write_bytes(b"x" * 100)
    (unet.parent / "v1-5-pruned.ckpt").write_bytes(b"x" * 100)
    return root


def test_hub_ids_and_folders_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert is_hub_id("stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert is_hub_id("owner/name@refs/pr/1")
    assert not is_hub_id("./owner/name")
    assert not is_hub_id("/owner/name")
    assert not is_hub_id("assets/tiny/llama")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("owner/name")


def test_only_the_files_of_a_part_are_needed():
    names = [
        "model_index.json",
        "v1-5-pruned.ckpt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
    ]
    assert needed_files(names, UNET) == ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"]
    assert needed_files(names, TOKENIZER) == ["tokenizer/merges.txt", "tokenizer/vocab.json"]
    assert needed_files(names, VAE) == []
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    small = ["chat_template.jinja", "config.json", "model.safetensors.index.json"]
    llama = [*shards, *small, "pytorch_model.bin", "original/params.json"]
    assert needed_files(llama, LLM) == sorted([*shards, *small])


def test_references_are_found_anywhere_in_a_config():
    config = {
        "model": {
            "init_args": {
                "diffusion": "assets/sd",
                "parts": [{"llm": {"path": "owner/llama", "dtype": "bfloat16"}}],
                "open_clip": {"name": "ViT-L-14-quickgelu", "weights": "openai"},
                "unet": None,
                "lr": 1e-4,
            }
        },
        "callbacks": [{"clip": "ViT-B-32", "clip_weights": "laion2b_s34b_b79k", "dino": "facebook/dino-vits16"}],
    }
    found = {(each.path, each.weights, len(each.parts)) for each in find_references(config, "c.yaml")}
    assert found == {
        ("assets/sd", None, 5),
        ("owner/llama", None, 2),
        ("ViT-L-14-quickgelu", "openai", 1),
        ("ViT-B-32", "laion2b_s34b_b79k", 1),
        ("facebook/dino-vits16", None, 1),
    }


def test_a_unet_named_apart_takes_the_place_of_the_pipelines():
    config = {"backbones": {"diffusion": "assets/sd", "unet": "assets/ip2p"}, "model": {"backbone": "assets/other"}}
    found = {each.path: {part.name for part in each.parts} for each in find_references(config, "c.yaml")}
    assert found["assets/ip2p"] == {"unet"}
    assert found["assets/sd"] == found["assets/other"] == {"vae", "text_encoder", "tokenizer", "scheduler"}


def test_an_autoencoder_named_apart_takes_the_place_of_the_pipelines_too():
    config = {"diffusion": "assets/sd", "unet": "assets/ip2p", "vae": "assets/decoder"}
    found = {each.path: {part.name for part in each.parts} for each in find_references(config, "c.yaml")}
    assert found == {
        "assets/sd": {"text_encoder", "tokenizer", "scheduler"},
        "assets/ip2p": {"unet"},
        "assets/decoder": {"vae"},
    }


def test_a_class_says_which_of_its_arguments_are_backbones():
    arguments = {"backbone": "assets/sd", "unet": {"path": "owner/ip2p", "part": "unet"}, "llm": "owner/no-backbone"}
    class_path = "mmig.methods.instruct_pix2pix.module.InstructPix2PixModule"
    config = {"model": {"class_path": class_path, "init_args": arguments | {"clip": {"name": "ViT-B-32"}}}}
    found = {each.path: ({part.name for part in each.parts}, each.where) for each in find_references(config, "c.yaml")}
    assert found["owner/ip2p"] == ({"unet"}, "c.yaml: model: init_args: unet")
    assert found["assets/sd"][0] == {"vae", "text_encoder", "tokenizer", "scheduler"}
    assert {"ViT-B-32", "owner/no-backbone"} <= found.keys()  # what the class does not speak of is found by key
    fresh = {"class_path": class_path, "init_args": {"backbone": "assets/sd", "unet": {"block_out_channels": [32]}}}
    assert [each.path for each in find_references({"model": fresh}, "c.yaml")] == ["assets/sd"]


def test_a_stage_of_mmig_names_its_parts():
    backbones = {"diffusion": "o/sd", "llm": "o/llm", "unet": "o/unet", "vision": None, "captioner": "o/blip2"}
    stage = {"class_path": "mmig.methods.mmig.stages.paper.Stage5", "init_args": {"backbones": backbones}}
    found = {each.path: {part.name for part in each.parts} for each in find_references({"model": stage}, "c.yaml")}
    assert found == {
        "o/sd": {"vae", "text_encoder", "tokenizer", "scheduler"},
        "o/unet": {"unet"},
        "o/llm": {"llm", "llm_tokenizer"},
        "o/blip2": {"blip2", "blip2_processor"},
    }


def test_a_class_that_is_not_there_is_named():
    for class_path in ("mmig.nowhere.Module", "mmig.methods.mmig.stages.paper.Stage9", "Stage1"):
        with pytest.raises(BackboneError, match=rf"c.yaml: model: class_path: expected a class, {class_path} cannot"):
            list(find_references({"model": {"class_path": class_path, "init_args": {}}}, "c.yaml"))


def test_a_config_that_is_no_yaml_is_named(tmp_path: Path):
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(BackboneError, match=r"broken.yaml: expected a readable YAML file"):
        read_references([tmp_path / "broken.yaml"])


def test_local_folders_are_checked_without_network(tiny: TinyBackbones, tmp_path: Path):
    config = _config(
        tmp_path / "a.yaml",
        diffusion=str(tiny.stable_diffusion),
        llm=str(tiny.llama),
        open_clip={"name": str(tiny.open_clip)},
    )
    done = _run("fetch", "--config", config, "--config", config, home=tmp_path / "home")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"unet: {tiny.stable_diffusion} -> {tiny.stable_diffusion / 'unet'}" in done.stdout
    assert "3 backbones are local; run the jobs with HF_HUB_OFFLINE=1" in done.stdout


def test_every_missing_backbone_is_one_line_with_config_and_key(tiny: TinyBackbones, tmp_path: Path):
    config = _config(tmp_path / "a.yaml", vae=str(tiny.llama), llm=str(tmp_path / "nowhere"))
    done = _run("fetch", "--config", config, home=tmp_path / "home")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"error: {config}: model: init_args: ") for line in lines[:2])
    assert lines[2] == "2 of 2 backbones are missing"


def test_an_unreachable_hub_is_a_clear_error(tmp_path: Path):
    config = _config(tmp_path / "a.yaml", vae="someone/tiny-sd")
    done = _run("fetch", "--config", config, home=tmp_path / "home")
    assert done.returncode == 1
    assert "vae: someone/tiny-sd is no local folder and not complete in the hub cache" in done.stderr
    assert "Traceback" not in done.stderr


def test_fetched_parts_work_offline(hub_root: Path, tiny: TinyBackbones, tmp_path: Path):
    config = _config(tmp_path / "a.yaml", diffusion="someone/tiny-sd")
    shared, requested = tmp_path / "shared", []
    with serve(hub_root, requested) as address:
        done = _run("fetch", "--config", config, "--to", shared, home=tmp_path / "home", endpoint=address)
    assert done.returncode == 0, done.stderr
    assert f"run the jobs with HF_HOME={shared} HF_HUB_OFFLINE=1" in done.stdout
    assert not (tmp_path / "home" / "hub").exists()
    assert "unet/diffusion_pytorch_model.safetensors" in requested
    assert not any(name.endswith((".bin", ".ckpt", ".fp16.safetensors")) for name in requested)
    folder = locate("someone/tiny-sd", UNET, cache_dir=shared / "hub")
    assert fingerprint(folder) == fingerprint(tiny.stable_diffusion, "unet")
    for part, arguments in (("vae", ["--part", "vae"]), (None, [])):
        job = _run("fingerprint", "someone/tiny-sd", *arguments, home=shared, HF_HUB_OFFLINE="1")
        assert job.stdout.strip() == fingerprint(tiny.stable_diffusion, part)


def test_what_was_not_fetched_is_an_error_offline(hub_root: Path, tmp_path: Path):
    config, shared = _config(tmp_path / "a.yaml", tokenizer="someone/tiny-sd"), tmp_path / "shared"
    with serve(hub_root, []) as address:
        assert _run("fetch", "--config", config, "--to", shared, home=shared, endpoint=address).returncode == 0
        job = _run(
            "fingerprint", "someone/tiny-sd", "--part", "unet", home=shared, endpoint=address, HF_HUB_OFFLINE="1"
        )
    assert job.returncode == 1
    assert "expected config.json of a unet" in job.stderr
    assert "Offline: HF_HUB_OFFLINE is set" in job.stderr


def test_a_repository_without_the_part_is_named(hub_root: Path, tmp_path: Path):
    config = _config(tmp_path / "a.yaml", llm="someone/tiny-sd")
    with serve(hub_root, []) as address:
        done = _run("fetch", "--config", config, home=tmp_path / "home", endpoint=address)
    assert done.returncode == 1
    assert "hub repository someone/tiny-sd: expected config.json of a llm" in done.stderr


def test_local_folders_never_touch_the_network(tiny: TinyBackbones, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a local folder was looked up on the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    root = tiny.stable_diffusion
    for load in (load_vae, load_unet, load_text_encoder, load_tokenizer, load_scheduler):
        load(root)
    load_llm(tiny.llama)
    load_llm_tokenizer(tiny.llama)


def test_importing_the_package_and_its_command_needs_no_heavy_library():
    code = (
        "import sys, mmig.backbones, mmig.backbones.__main__;"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'open_clip') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_loaders_does_not_import_the_model_libraries():
    code = (
        "import sys, mmig.backbones.diffusion, mmig.backbones.llm, mmig.backbones.clip, mmig.backbones.blip2;"
        "print([m for m in ('diffusers', 'transformers', 'open_clip') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("stage", range(1, 6))
def test_every_backbone_of_the_published_stages_is_found(root: Path, stage: int):
    file = root / f"configs/mmig/stage{stage}.yaml"
    backbones = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]["init_args"]["backbones"]
    named = {value for key, value in backbones.items() if key not in ("dtype", "gradient_checkpointing")}
    assert named <= {reference.path for reference in read_references([file])}
    assert len(named) == {1: 2, 5: 4}.get(stage, 3)

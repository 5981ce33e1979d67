"""Fingerprints: equal for copies, different for other weights or configs, remembered by path, size and time."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmig.backbones import BackboneError
from mmig.backbones.fingerprint import fingerprint
from tests.tiny_fixtures import TinyBackbones

Copy = Callable[[Path], Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mmig" / "fingerprints"


def test_copies_have_the_same_fingerprint(tiny: TinyBackbones, tmp_path: Path):
    for folder in (tiny.stable_diffusion, tiny.llama, tiny.open_clip):
        copy = shutil.copytree(folder, tmp_path / "copy" / folder.name)
        for file in copy.rglob("*"):
            os.utime(file, (1, 1))
        assert fingerprint(copy) == fingerprint(folder)
        assert len(fingerprint(copy)) == 64


def test_a_part_is_the_same_alone_and_in_its_root(tiny: TinyBackbones):
    root = tiny.stable_diffusion
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        assert fingerprint(root, part) == fingerprint(root / part)
    assert len({fingerprint(root, part) for part in ("vae", "unet", "text_encoder", "tokenizer")}) == 4


def test_a_training_step_changes_the_fingerprint(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.stable_diffusion / "unet")
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = "mid_block.resnets.0.conv1.weight"
    weights[name] = weights[name] + 1e-4
    save_file(weights, file, metadata={"format": "pt"})
    assert file.stat().st_size > 1 << 20  # sampled, not read whole
    assert fingerprint(folder) != fingerprint(tiny.stable_diffusion / "unet")


def test_another_precision_and_another_config_change_the_fingerprint(tiny: TinyBackbones, copied: Copy):
    want = fingerprint(tiny.llama)
    folder = copied(tiny.llama)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9"}))
    assert fingerprint(folder) == want
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert fingerprint(folder) != want
    (folder / "config.json").write_text(json.dumps(config))
    half = {name: value.to(torch.float16) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != want


def test_another_chat_template_changes_the_fingerprint_of_a_tokenizer(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.llama)
    want = fingerprint(folder, "llm_tokenizer")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert fingerprint(folder, "llm_tokenizer") != want


def test_variants_that_are_not_loaded_do_not_count(tiny: TinyBackbones, copied: Copy):
    folder = copied(tiny.stable_diffusion / "vae")
    want = fingerprint(folder)
    shutil.copy(folder / "diffusion_pytorch_model.safetensors", folder / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "README.md").write_text("notes")
    assert fingerprint(folder) == want


def test_a_digest_is_remembered_until_the_file_changes(tiny: TinyBackbones, copied: Copy, own_cache: Path):
    folder = copied(tiny.llama)
    before = fingerprint(folder)
    (entry,) = own_cache.iterdir()
    entry.write_text("0" * 64)
    assert fingerprint(folder) != before  # read from the cache
    entry.write_text("damaged")
    assert fingerprint(folder) == before
    os.utime(folder / "model.safetensors", (1, 1))
    assert fingerprint(folder) == before
    assert len(list(own_cache.iterdir())) == 2


def test_a_cut_file_and_a_wrong_folder_are_errors(tiny: TinyBackbones, copied: Copy, tmp_path: Path):
    file = copied(tiny.stable_diffusion / "unet") / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(b"\xff" * 8 + content[8:])
    with pytest.raises(BackboneError, match=r"safetensors: expected a safetensors header"):
        fingerprint(file.parent)
    with pytest.raises(BackboneError, match="nowhere does not exist"):
        fingerprint(tmp_path / "nowhere")
    with pytest.raises(BackboneError, match="no part 'vea'"):
        fingerprint(tiny.stable_diffusion, "vea")

"""A folder written as one file of the original code: diffusers' own tables read it back to the bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mmig.backbones.__main__ import main
from mmig.backbones.diffusion import load_text_encoder, load_unet, load_vae
from mmig.backbones.original import convert_original
from mmig.backbones.parts import BackboneError
from mmig.backbones.to_original import write_original
from tests.tiny_fixtures import build_stable_diffusion


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_stable_diffusion(tmp_path_factory.mktemp("tiny") / "stable-diffusion")
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.43}))
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same sizes, with other weights and the usual scale: nothing but the sizes may come from it."""
    return build_stable_diffusion(tmp_path_factory.mktemp("other") / "stable-diffusion", seed=9)


def equal(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_pipeline_comes_back_with_its_scale(folder: Path, other: Path, tmp_path: Path, suffix: str) -> None:
    file = write_original(str(folder), tmp_path / f"model{suffix}")
    out = convert_original(file, other, tmp_path / "out")
    assert equal(load_unet(out), load_unet(folder))
    assert equal(load_vae(out), load_vae(folder))
    assert equal(load_text_encoder(out), load_text_encoder(folder))
    assert load_vae(out).config.scaling_factor == pytest.approx(0.43)


def test_an_autoencoder_alone_has_the_names_of_the_first_stage(folder: Path, tmp_path: Path) -> None:
    state = load_file(write_original(str(folder / "vae"), tmp_path / "first_stage.safetensors"))
    beginnings = {name.partition(".")[0] for name in state}
    assert beginnings == {"encoder", "decoder", "quant_conv", "post_quant_conv", "scale_factor"}
    assert state["encoder.mid.attn_1.q.weight"].ndim == 4


def test_a_first_stage_alone_becomes_an_autoencoder_without_a_scale(folder: Path, other: Path, tmp_path: Path) -> None:
    state = load_file(write_original(str(folder / "vae"), tmp_path / "vae.safetensors"))
    assert float(state.pop("scale_factor")) == pytest.approx(0.43)
    beside = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4)}
    torch.save({"state_dict": state | beside}, tmp_path / "vae.ckpt")
    out = convert_original(tmp_path / "vae.ckpt", other, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "vae"]
    assert equal(load_vae(out), load_vae(folder))
    assert load_vae(out).config.scaling_factor is None


def test_an_autoencoder_of_another_factor_is_one_line(folder: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    config = dict(load_vae(folder).config)
    types = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    AutoencoderKL.from_config(config | types | {"block_out_channels": [8, 16]}).save_pretrained(tmp_path / "vae")
    file = write_original(str(tmp_path / "vae"), tmp_path / "factor2.ckpt")
    with pytest.raises(BackboneError, match=r"^\S+factor2\.ckpt: does not fit the sizes of \S+: .*") as caught:
        convert_original(file, folder, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_the_command_writes_a_new_file_alone(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.ckpt"
    assert main(["write-original", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{folder} -> {out}\n"
    assert main(["write-original", str(folder), "--out", str(out)]) == 1
    assert capsys.readouterr().err == f"error: {out}: exists already; give a new file\n"
    assert main(["write-original", str(folder), "--out", str(tmp_path / "model.bin")]) == 1
    assert "expected a file .ckpt or .safetensors, found the suffix '.bin'" in capsys.readouterr().err

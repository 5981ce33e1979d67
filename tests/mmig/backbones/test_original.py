"""A checkpoint of the original code becomes a folder in diffusers' layout with the same weights to the bit."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.stages.sizes import PUBLISHED
from mmig.backbones.__main__ import main
from mmig.backbones.diffusion import load_scheduler, load_text_encoder, load_tokenizer, load_unet, load_vae
from mmig.backbones.original import _translated, convert_original
from mmig.backbones.original_names import original_unet, original_vae
from mmig.backbones.parts import UNET, VAE, BackboneError
from tests.mmig.backbones.hub_server import serve
from tests.mmig.backbones.test_fetch import _run
from tests.original_layout import average_names, original_state
from tests.tiny_fixtures import build_stable_diffusion, build_unet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stable_diffusion(tmp_path_factory.mktemp("tiny") / "stable-diffusion")


@pytest.fixture(scope="module")
def editing_unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_unet(tmp_path_factory.mktemp("editing") / "unet", in_channels=8, seed=5)


@pytest.fixture(scope="module")
def state(folder: Path, editing_unet: Path) -> dict[str, Tensor]:
    """Of an InstructPix2Pix without average."""
    return original_state(folder, editing_unet)


def unet_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith("model.diffusion_model.")}


def saved(state: dict[str, Any], file: Path) -> Path:
    if file.suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 22000}, file)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, file)
    return file


def equal(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def published(part: str) -> tuple[Any, dict[str, Any]]:
    """State and configuration of a part at its published sizes, without memory."""
    with torch.device("meta"):
        model = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part](**getattr(PUBLISHED, part))
    return model.state_dict(), dict(model.config)


def test_the_names_in_these_tests_are_those_of_the_published_file() -> None:
    unet, vae = original_unet(*published("unet")), original_vae(*published("vae"))
    assert (len(unet), len(vae)) == (686, 248)
    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "model.diffusion_model.input_blocks.11.0.in_layers.2.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.8.2.conv.weight": (640, 640, 3, 3),
        "model.diffusion_model.output_blocks.11.1.proj_out.weight": (320, 320, 1, 1),
        "first_stage_model.encoder.down.2.downsample.conv.weight": (512, 512, 3, 3),
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        "first_stage_model.decoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
    }
    found = unet | vae
    assert {name: tuple(found[name].shape) for name in shapes} == shapes


@pytest.mark.parametrize("part", [UNET, VAE], ids=lambda part: part.name)
def test_every_weight_of_the_published_sizes_finds_its_place(part: Any) -> None:
    state, config = published(part.name)
    names = original_unet if part is UNET else original_vae
    translated = _translated(part, names(state, config), config)
    assert {name: value.shape for name, value in translated.items()} == {n: value.shape for n, value in state.items()}


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_every_part_is_equal_to_the_bit(
    folder: Path, editing_unet: Path, state: dict[str, Tensor], tmp_path: Path, suffix: str
) -> None:
    out = convert_original(saved(state, tmp_path / f"model{suffix}"), folder, tmp_path / "out")
    assert load_unet(out).config.in_channels == 8
    assert equal(load_unet(out), load_unet(editing_unet))
    assert equal(load_vae(out), load_vae(folder))
    assert equal(load_text_encoder(out), load_text_encoder(folder))
    text = "put a red hat on the circle"
    assert load_tokenizer(out)(text).input_ids == load_tokenizer(folder)(text).input_ids
    assert load_scheduler(out).config == load_scheduler(folder).config
    index = json.loads((out / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionInstructPix2PixPipeline"
    assert all(os.stat(file).st_mode & 0o044 for file in out.rglob("*.safetensors"))


def test_half_precision_stays_as_it_is(folder: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    out = convert_original(saved(half, tmp_path / "half.safetensors"), folder, tmp_path / "out")
    assert load_unet(out, dtype="float16").dtype == torch.float16
    weight = half["model.diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(load_unet(out).conv_in.weight, weight.float())


@pytest.mark.parametrize(("weights", "factor"), [("average", 2.0), ("trained", 1.0)])
def test_the_average_is_taken_unless_the_trained_weights_are_asked_for(
    folder: Path, editing_unet: Path, state: dict[str, Tensor], tmp_path: Path, weights: Any, factor: float
) -> None:
    averages = average_names({name: 2 * value for name, value in unet_of(state).items()})
    file = saved(state | averages, tmp_path / "both.ckpt")
    out = convert_original(file, folder, tmp_path / "out", weights)
    expected = {name: factor * value for name, value in load_unet(editing_unet).state_dict().items()}
    found = load_unet(out).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert equal(load_vae(out), load_vae(folder))


def test_half_an_average_is_refused(folder: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    averages = average_names(unet_of(state))
    del averages["model_ema.diffusion_modelout2weight"]
    with pytest.raises(BackboneError, match=r"expected model_ema\.diffusion_modelout2weight, the average of .*trained"):
        convert_original(saved(state | averages, tmp_path / "both.ckpt"), folder, tmp_path / "out")


def test_a_text_to_image_checkpoint_keeps_its_four_channels(folder: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    out = convert_original(saved(original_state(folder), tmp_path / "sd.ckpt"), folder, tmp_path / "out")
    assert equal(load_unet(out), load_unet(folder))
    assert StableDiffusionPipeline.from_pretrained(out).unet.config.in_channels == 4


class Callback:
    """What a training may have left in its file; making one is noticed."""

    made = 0

    def __init__(self) -> None:
        Callback.made += 1

    def __reduce__(self) -> tuple[Callable[[], "Callback"], tuple[()]]:
        return Callback, ()


class Command:
    """A file that would run a program."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.file}'",)


def test_objects_beside_the_weights_are_not_built(folder: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    left = {"callbacks": {Callback: {"best": 1.0}, "last": Callback()}, "state_dict": state}
    torch.save(left, tmp_path / "trained.ckpt")
    before = Callback.made
    convert_original(tmp_path / "trained.ckpt", folder, tmp_path / "out")
    assert Callback.made == before


def test_a_program_in_the_file_is_not_run(folder: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": state, "hook": Command(tmp_path / "ran")}, tmp_path / "bad.ckpt")
    with pytest.raises(BackboneError, match=r"bad\.ckpt: cannot be read as weights"):
        convert_original(tmp_path / "bad.ckpt", folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_another_layout_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    file = saved({"unet.conv_in.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BackboneError, match=r"expected a unet under model\.diffusion_model\.\* .*, found unet; give"):
        convert_original(file, folder, tmp_path / "out")
    with pytest.raises(BackboneError, match=r"no\.ckpt: expected a file of weights, found none"):
        convert_original(tmp_path / "no.ckpt", folder, tmp_path / "out")
    (tmp_path / "cut.ckpt").write_bytes(b"PK")
    with pytest.raises(BackboneError, match=r"cut\.ckpt: cannot be read as weights"):
        convert_original(tmp_path / "cut.ckpt", folder, tmp_path / "out")


def test_other_sizes_are_refused_and_nothing_is_left(state: dict[str, Tensor], tmp_path: Path) -> None:
    file, other = saved(state, tmp_path / "model.ckpt"), Path("assets/tiny/stable-diffusion")
    with pytest.raises(BackboneError, match=r"model\.ckpt: does not fit the sizes of assets/tiny/stable-diffusion: "):
        convert_original(file, other, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


def test_the_command_writes_the_folder_once(
    folder: Path, state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(state, tmp_path / "model.ckpt")
    command = ["convert-original", str(file), "--like", str(folder), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{file} -> {tmp_path / 'out'}\n"
    assert main(command) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'out'}: exists already; give a new folder\n"


def test_of_a_pipeline_on_the_hub_no_weights_are_fetched(
    folder: Path, editing_unet: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "hub" / "someone" / "sd")
    file = saved(state, tmp_path / "model.safetensors")
    with serve(tmp_path / "hub", []) as address:
        command = ("convert-original", file, "--like", "someone/sd", "--out", tmp_path / "out")
        done = _run(*command, home=tmp_path / "home", endpoint=address)
    assert done.returncode == 0, done.stderr
    assert equal(load_unet(tmp_path / "out"), load_unet(editing_unet))
    assert list((tmp_path / "home").rglob("config.json")) and not list((tmp_path / "home").rglob("*.safetensors"))


def test_a_file_of_the_original_code_given_as_a_backbone_names_the_command(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(BackboneError, match=r"original code: python -m mmig\.backbones convert-original"):
        load_unet(saved(state, tmp_path / "model.ckpt"))

"""Any training configuration in bench/stage_cost.py and bench/gpu.py: built at random, counted and measured."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from bench.gpu import CONFIG, main, measure, parse
from bench.stage_cost import count, count_configured
from bench.stage_cost import main as stage_cost
from bench.stages.build import STAGES, build_stage
from bench.stages.configured import (
    build_configured,
    configured_batch,
    configured_cost,
    read_configs,
    real_cost,
    set_checkpointing,
)
from bench.stages.count import Pieces, memory, operations, step_operations
from bench.stages.published import random_weights, with_folders
from bench.stages.sizes import PUBLISHED, SMALL
from bench.tools.gpu_steps import JOBS, ConfiguredJob, Setting, denoiser_operations
from bench.tools.loops import BareLoop
from bench.tools.trained import TrainedSteps, take_steps
from mmig.training.rng import Draws

CPU = torch.device("cpu")
EDITING, DRAWING = "configs/instruct_pix2pix/published.yaml", "configs/tiny/drawing.yaml"
SMALL_ON_CPU = ["--device", "cpu", "--sizes", "small", "--resolution", "64", "--backend", "eager", "--steps", "1"]
WRITING = "configs/mgie/published.yaml"
LOOKS_AT_VALUES = "configs/tiny/lm.yaml"


@pytest.fixture(autouse=True)
def from_the_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.fixture
def small_draw(tmp_path: Path) -> str:
    """Text to image around a published pipeline, with which it has no data."""
    settings = {
        "optimizer": {"lr": 1e-4},
        "loss_weights": {"sdm": 1.0},
        "backbone": "stable-diffusion-v1-5/stable-diffusion-v1-5@main",
        "unet": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    }
    module = "mmig.methods.latent_diffusion.text_to_image.TextToImageModule"
    path = tmp_path / "drawing.yaml"
    path.write_text(yaml.safe_dump({"model": {"class_path": module, "init_args": settings}}), encoding="utf-8")
    return str(path)


def test_files_are_merged_as_train_py_merges_them(tmp_path: Path) -> None:
    data = {"data": {"class_path": "datamodules.shard_data.ShardData", "init_args": {"train": "x", "resolution": 256}}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    (tmp_path / "more.yaml").write_text("model: {init_args: {drop: 0.25, seed: 3}}", encoding="utf-8")
    files = [EDITING, str(tmp_path / "more.yaml"), str(tmp_path / "data.yaml")]
    merged = read_configs(files, ["--model.init_args.seed", "4"])
    settings = merged.settings["model"]["init_args"]
    assert (merged.name, merged.resolution) == ("published", 256)
    assert (settings["drop"], settings["seed"], settings["text"]) == (0.25, 4, "instruction")
    assert read_configs([EDITING], []).resolution is None  # no data of its own, so none of its resolution


def test_a_wrong_configuration_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for files, more, said in (
        (["nowhere.yaml"], [], "nowhere.yaml"),
        ([EDITING], ["--model.init_args.nonsense", "3"], "'nonsense' is not accepted"),
    ):
        with pytest.raises(SystemExit) as ended:
            read_configs(files, more)
        (line,) = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2 and line.startswith("error: ") and said in line
    unknown = ["--config", EDITING, "--model.init_args.unet", "nobody/nothing"]
    with pytest.raises(SystemExit, match=r"^error: unet: nobody/nothing is no local folder[^\n]*$"):
        stage_cost(unknown)


def test_options_of_train_py_need_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (parse, stage_cost):
        with pytest.raises(SystemExit):
            command(["--model.init_args.seed", "3"])
        assert "--model.init_args.seed 3: options of train.py need a --config" in capsys.readouterr().err
    assert parse(["--config", EDITING]).jobs == [CONFIG]
    assert parse(["--config", EDITING, "--jobs", "bare"]).jobs == ["bare", CONFIG]
    assert parse([]).jobs == list(JOBS)


def test_published_backbones_are_made_without_a_file_of_weights() -> None:
    before = AutoencoderKL.from_pretrained
    named = {"llm": "huggyllama/llama-7b@main", "all": ["Salesforce/blip2-opt-2.7b", "elsewhere/model", 3]}
    with with_folders(named, SMALL) as located, random_weights("meta"):
        assert Path(located["all"][0], "config.json").exists() and located["all"][1:] == ["elsewhere/model", 3]
        llm = AutoModelForCausalLM.from_pretrained(located["llm"], dtype=torch.bfloat16)
        with pytest.raises(ValueError, match="random weights cannot be quantised"):
            AutoModelForCausalLM.from_pretrained(located["llm"], quantization_config={"load_in_4bit": True})
    assert {(value.is_meta, value.dtype) for value in llm.parameters()} == {(True, torch.bfloat16)}
    assert llm.config.hidden_size == SMALL.llm["hidden_size"]
    assert AutoencoderKL.from_pretrained == before and not Path(located["llm"]).exists()


@pytest.mark.parametrize("method", ["mgie", "lgie"])
def test_mgie_has_the_published_parameters(method: str) -> None:
    """Tables of 32,064 rows, the edit head and the UNet train; the rest of LLaVA 1.5 and the autoencoder do not."""
    found = memory(build_configured(read_configs([f"configs/{method}/published.yaml"], []), PUBLISHED, "meta"))
    assert found.trained == 2 * 32_064 * 4096 + 31_958_784 + 859_520_964 + 4 * 9 * 320
    llava = 7_063_427_072  # parameters of llava-hf/llava-1.5-7b-hf
    assert found.frozen == llava - 2 * 32_064 * 4096 + 83_653_863


def test_instruct_pix2pix_has_the_published_parameters_and_operations() -> None:
    """Stable Diffusion's UNet with four input channels more trains; both images and the text are encoded."""
    config = read_configs([EDITING], [])
    found = memory(build_configured(config, PUBLISHED, "meta"))
    assert found.trained == 859_520_964 + 4 * 9 * 320
    assert found.weights == 4 * (found.trained + found.frozen)
    pieces = Pieces(build_stage(STAGES[3], PUBLISHED, "meta").mmig, PUBLISHED)
    with torch.no_grad():
        encoder, text = operations(pieces.encoded), operations(pieces.text)
    expected = denoiser_operations(PUBLISHED) + 2 * encoder + text
    assert configured_cost(config, PUBLISHED).operations == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("which", ["editing", "drawing", "tiny", "writing"])
def test_what_is_counted_on_the_meta_device_is_what_a_step_does(which: str, small_draw: str) -> None:
    # an optimiser's own products (Muon's) are no operations of the model
    optimizer = ["--model.init_args.optimizer.kind", "adamw"]
    config = read_configs(
        [{"editing": EDITING, "drawing": small_draw, "tiny": DRAWING, "writing": WRITING}[which]], optimizer
    )
    cost = configured_cost(config, SMALL)
    module = build_configured(config, SMALL, CPU)
    set_checkpointing(module, False)
    batch = configured_batch(config, 1, SMALL)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        BareLoop(module, 10).step(batch)
    assert cost.how == "counted on the meta device"
    assert cost.operations == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_stage_of_mmig_costs_the_same_by_either_door() -> None:
    more = [
        word for name, value in (("dim", 16), ("heads", 2)) for word in (f"--model.init_args.mmsm.{name}", str(value))
    ]
    config = read_configs(["configs/mmig/stage3.yaml"], more)
    stage = build_stage(STAGES[3], SMALL, "meta")
    assert memory(build_configured(config, SMALL, "meta")) == memory(stage)
    assert configured_cost(config, SMALL).operations == step_operations(stage, Pieces(stage.mmig, SMALL))


def test_a_module_that_looks_at_values_takes_a_step_on_the_cpu() -> None:
    config = read_configs([LOOKS_AT_VALUES], [])
    cost = configured_cost(config, SMALL)
    assert cost.operations is None and cost.how.startswith("not counted on the meta device: ")
    lines = count_configured(config, SMALL)
    assert lines[0].endswith(f"{SMALL.resolution} px, counted in a step on the CPU")
    assert float(lines[3].split()[-1]) == pytest.approx(real_cost(config, SMALL).operations / 1e12, rel=5e-3)


def test_several_optimisers_cost_on_the_meta_device_what_their_step_costs() -> None:
    every_step = [f"--model.init_args.{name}={value}" for name, value in (("r1_every", 1), ("path_every", 1))]
    fixed = "--model.init_args.augmentation={fixed: 0.5}"  # the recipe itself has none
    config = read_configs(["configs/styleclip/tinyworld_gan.yaml"], [*every_step, fixed])
    sizes = replace(SMALL, resolution=64)
    cost = configured_cost(config, sizes)
    assert cost.how == "counted on the meta device"
    assert cost.operations == pytest.approx(real_cost(config, sizes).operations, rel=0.02)


def test_a_step_that_fails_is_not_counted_on_in_later_ones() -> None:
    config = read_configs([DRAWING], [])
    module, measured = build_configured(config, SMALL, CPU), TrainedSteps(CPU, 0, 0, counted=1)
    batch = configured_batch(config, 1, SMALL)
    del batch["target_caption"]
    with pytest.raises(KeyError, match="target_caption"):
        take_steps(module, batch, measured, "32-true")
    assert not _get_current_dispatch_mode_stack()


def test_several_optimisers_and_attachments_are_measured_and_counted_in_real_steps(tmp_path: Path) -> None:
    """One moves in even steps and one in odd ones; the operations of a step are the mean of both."""
    data = {"train": "x", "resolution": 32, "attachment_size": 16, "audio_rate": 8000, "audio_seconds": 0.01}
    (tmp_path / "toy.yaml").write_text(
        yaml.safe_dump(
            {
                "model": {"class_path": "tests.bench.hearing.Hearing"},
                "data": {"class_path": "datamodules.shard_data.ShardData", "init_args": data},
            }
        ),
        encoding="utf-8",
    )
    config = read_configs([str(tmp_path / "toy.yaml")], [])
    sizes = replace(SMALL, resolution=config.resolution)
    batch = configured_batch(config, 3, sizes)
    assert batch["attachment_images"].shape == (3, 2, 3, 16, 16) and batch["attachment_audio"].shape == (3, 2, 80)

    module = build_configured(config, sizes, CPU)
    found, parts = memory(module), (module.generator, module.discriminator)
    assert found.average == sum(parameter.nbytes for parameter in module.generator.parameters())
    counts = []
    for part, names in zip(parts, (("reconstruction", "l1", "gan"), ("hinge",)), strict=True):
        with FlopCounterMode(display=False) as counter:
            terms = module.losses(batch, Draws(0, torch.arange(3)))
            torch.autograd.grad(sum(terms[name].values.sum() for name in names), tuple(part.parameters()))
        counts.append(counter.get_total_flops())
    result = measure(partial(ConfiguredJob, config=config), Setting(sizes, 3, CPU, torch.float32), 2, warm_up=1)
    assert counts[0] != counts[1] and result.rate * result.seconds == pytest.approx(sum(counts) / 2)
    assert real_cost(config, sizes).operations == pytest.approx(sum(counts) / 2 / 3)
    cost = configured_cost(config, sizes)
    assert cost.how == "counted on the meta device"
    assert cost.operations == pytest.approx(sum(counts) / 2 / 3)


def test_the_table_of_a_configuration_has_the_columns_of_the_stages(capsys: pytest.CaptureFixture[str]) -> None:
    stage_cost(["--config", EDITING, "--sizes", "small"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mmig.methods.instruct_pix2pix.module.InstructPix2PixModule, one sample, 64 px, counted")
    assert lines[2].split() == count([1], SMALL)[2].split()[1:]
    name, trained, *_ = lines[3].split()
    module = build_configured(read_configs([EDITING], []), SMALL, "meta")
    assert (name, float(trained)) == ("published", pytest.approx(memory(module).trained / 1e6, abs=6e-4))


@pytest.mark.parametrize(
    "config", [EDITING, DRAWING, LOOKS_AT_VALUES, pytest.param("configs/mmig/stage3.yaml", marks=pytest.mark.slow)]
)
def test_each_configuration_takes_steps_that_are_timed_and_counted(config: str) -> None:
    setting = Setting(SMALL, 2, CPU, torch.float32)
    read = read_configs([config], ["--model.init_args.backbones.dtype", "float32"] if "stage3" in config else [])
    result = measure(partial(ConfiguredJob, config=read), setting, 1, warm_up=1)
    assert result.images == pytest.approx(2 / result.seconds) and result.failure is None
    assert result.resolution == SMALL.resolution and result.peak is None
    one = configured_cost(read, SMALL).operations or real_cost(read, SMALL).operations
    assert 0.1 * one < result.rate * result.seconds / 2 < 1.2 * one  # shorter texts than the longest of a stage


@pytest.mark.slow
def test_a_configuration_is_measured_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL_ON_CPU, "--batch", "2", "--peak", "1", "--config", EDITING, "--model.init_args.drop", "0.1"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("gpu/config:published_mfu ratio 0.") and "a step of 2" in line and ", 64 px, CPU)" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
def test_without_a_gpu_a_configuration_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--config", EDITING])
    assert capsys.readouterr().out == (
        "gpu not measured: needs a CUDA device, found none (images/s, memory and MFU of published)\n"
    )

"""The reader on a denoiser's middle: what it is asked, whom it teaches, and that the noise loss stays as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.schema import Batch, collate
from datamodules.tinyworld.sample import make_sample
from experiments.tiny_backbones.denoisers import TERM, Drawing, Editing, outputs_of
from experiments.tiny_backbones.export import export_run
from mmig.diffusion.fresh import UNetSize
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.latent_diffusion.text_to_image import TextToImageModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.terms import counts_of, values_of
from tests.tiny_fixtures import build_stable_diffusion

SIZE = UNetSize([16, 32], 1, [1, 2], 8, 16, [True, False])
CASES = [(Drawing, TextToImageModule), (Editing, InstructPix2PixModule)]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("denoisers") / "stable-diffusion"
    build_stable_diffusion(folder)
    return folder


@pytest.fixture
def world() -> Batch:
    """Eight samples whose scenes are known."""
    return collate([make_sample(0, "train", index, level="plain") for index in range(8)])


def build(kind: Any, pipeline: Path, terms: tuple[str, ...] = ("sdm", TERM), **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(OptimizerConfig(), dict.fromkeys(terms, 1.0), str(pipeline), SIZE, **options)


@pytest.mark.parametrize(("kind", "plain"), CASES)
def test_the_noise_loss_is_that_of_the_method(kind: Any, plain: Any, pipeline: Path, world: Batch) -> None:
    draws, module, other = Draws(0, world["position"]), build(kind, pipeline), build(plain, pipeline, ("sdm",))
    other.unet.load_state_dict(module.unet.state_dict())
    torch.testing.assert_close(values_of(module, world, draws)["sdm"], values_of(other, world, draws)["sdm"])


@pytest.mark.parametrize("kind", [Drawing, Editing])
def test_one_pass_gives_both_and_the_reader_teaches_all_up_to_the_middle(
    kind: Any, pipeline: Path, world: Batch
) -> None:
    module = build(kind, pipeline)
    with outputs_of(module.unet) as passes:
        values = values_of(module, world, Draws(0, world["position"]))
    assert len(passes) == 1 and (values[TERM] > 0).any()
    values[TERM].sum().backward()
    taught = {name.split(".")[0] for name, p in module.unet.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"conv_in", "down_blocks", "mid_block"} <= taught and not {"up_blocks", "conv_out"} & taught


def test_a_drawing_is_asked_for_the_scene_of_its_side_where_it_has_a_caption(pipeline: Path, world: Batch) -> None:
    draws = Draws(0, world["position"])
    assert counts_of(build(Drawing, pipeline, caption_drop=0.0), world, draws)[TERM].all()
    assert not counts_of(build(Drawing, pipeline, caption_drop=1.0), world, draws)[TERM].any()
    module = build(Drawing, pipeline, caption_drop=0.0)
    before = values_of(module, world, draws)[TERM]
    for known in world["metadata"]:
        known["target_scene"] = None
    targets = draws.bernoulli("side", 0.5)
    counts, after = counts_of(module, world, draws)[TERM], values_of(module, world, draws)[TERM]
    assert counts.tolist() == (~targets).tolist() and targets.any() and not targets.all()
    torch.testing.assert_close(after[~targets], before[~targets])


def test_an_edit_is_asked_for_what_can_be_told(pipeline: Path, world: Batch) -> None:
    draws = Draws(0, world["position"])
    assert counts_of(build(Editing, pipeline, drop=0.0), world, draws)[TERM].all()
    for text, drop in (("instruction", 0.3), ("response", 0.3)):
        module = build(Editing, pipeline, text=text, drop=drop)
        fields, blind = module._fields(world, draws)
        told = [
            field != "" and not (text == "instruction" and hidden) for field, hidden in zip(fields, blind, strict=True)
        ]
        assert counts_of(module, world, draws)[TERM].tolist() == told and 0 < sum(told) < 8


def test_the_reader_is_not_exported(pipeline: Path, tmp_path: Path) -> None:
    build_stable_diffusion(tmp_path / "stable-diffusion")
    export_run("unet", build(Editing, pipeline), tmp_path)
    assert (tmp_path / "instruct-pix2pix" / "unet").is_dir()
    files = [*tmp_path.rglob("*.safetensors")]
    assert files and not any(b"reader" in file.read_bytes() for file in files)

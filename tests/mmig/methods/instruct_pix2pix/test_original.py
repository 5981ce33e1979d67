"""Published InstructPix2Pix in both of its layouts: diffusers' folder and the one file of the original code."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from torch import Tensor

from mmig.backbones.original import convert_original
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.instruct_pix2pix.pipeline import EditSampling, open_editor
from mmig.training.optim import OptimizerConfig
from tests.mmig.batches import edit_batch
from tests.original_layout import average_names, original_state
from tests.tiny_fixtures import build_instruct_pix2pix, build_stable_diffusion

SAMPLING = EditSampling(num_steps=3, guidance_scale=5.0, image_guidance_scale=1.5)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as timbrooks/instruct-pix2pix is: all parts, what judges safety, the original file at the root."""
    folder = build_stable_diffusion(tmp_path_factory.mktemp("timbrooks") / "instruct-pix2pix")
    build_instruct_pix2pix(folder, seed=5)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    settings = {"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "epsilon"}
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | settings))
    judged = {
        "_class_name": "StableDiffusionInstructPix2PixPipeline",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "requires_safety_checker": True,
        "scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"],
    }
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | judged))
    for name in ("feature_extractor", "safety_checker"):
        (folder / name).mkdir()
    (folder / "safety_checker" / "config.json").write_text('{"model_type": "clip"}')
    (folder / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    state = original_state(folder)
    unet = {name: value for name, value in state.items() if name.startswith("model.diffusion_model.")}
    torch.save({"state_dict": state | average_names(unet)}, folder / "instruct-pix2pix-00-22000.ckpt")
    return folder


@pytest.fixture(scope="module")
def converted(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = published / "instruct-pix2pix-00-22000.ckpt"
    return convert_original(file, published, tmp_path_factory.mktemp("converted") / "instruct-pix2pix")


def edits(folder: Path) -> Tensor:
    return open_editor(str(folder), sampling=SAMPLING)(edit_batch(2), torch.Generator().manual_seed(3)).images


def test_the_original_file_edits_as_the_published_folder_does_to_the_bit(published: Path, converted: Path) -> None:
    assert torch.equal(edits(converted), edits(published))


def test_diffusers_opens_what_was_converted(converted: Path) -> None:
    theirs = StableDiffusionInstructPix2PixPipeline.from_pretrained(converted)
    ours = open_editor(str(converted))
    assert theirs.unet.config.in_channels == 8
    assert type(theirs.scheduler).__name__ == type(ours.scheduler).__name__ == "EulerAncestralDiscreteScheduler"
    expected, found = ours.unet.state_dict(), theirs.unet.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("layout", ["published", "converted"])
def test_a_training_starts_from_either(layout: str, request: pytest.FixtureRequest) -> None:
    folder = str(request.getfixturevalue(layout))
    method = InstructPix2PixModule(OptimizerConfig(), {"sdm": 1.0}, folder, folder, sampling=SAMPLING)
    images = method.make_pipeline()(edit_batch(2), torch.Generator().manual_seed(3)).images
    assert torch.equal(images, edits(Path(folder)))

"""A run of InstructPix2Pix as a folder: for diffusers, for our editors, and as the start of another run."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusionInstructPix2PixPipeline

from mmig.checkpoints.checkpoint import load_module
from mmig.evaluation.opening import open_checkpoint
from mmig.run.export import export_run
from tests.mmig.batches import edit_batch
from tests.mmig.methods.instruct_pix2pix.support import SAMPLING, published
from tests.saved_run import save_run, start_from, texts_that_name
from tests.tiny_fixtures import build_stable_diffusion

METHOD = "mmig.methods.instruct_pix2pix.module.InstructPix2PixModule"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_stable_diffusion(tmp_path_factory.mktemp("tiny") / "stable-diffusion")
    file = folder / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(file.read_text()) | {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
    file.write_text(json.dumps(scheduler))
    return folder


def arguments(backbone: Path, **settings: Any) -> dict[str, Any]:
    own = {"optimizer": {"lr": 1e-3}, "loss_weights": {"sdm": 1.0}, "backbone": str(backbone), "unet": str(backbone)}
    return own | {"sampling": SAMPLING} | settings


@pytest.fixture(scope="module")
def run(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = {"class_path": "datamodules.shard_data.ShardData", "init_args": {"train": str(backbone / "shards")}}
    return save_run(tmp_path_factory.mktemp("runs") / "edits", METHOD, arguments(backbone), data)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(run, tmp_path_factory.mktemp("exported") / "edits")


def test_diffusers_opens_it_and_gives_our_edits(run: Path, exported: Path) -> None:
    theirs = StableDiffusionInstructPix2PixPipeline.from_pretrained(exported)
    source, text = edit_batch(1)["source"], "make it red"
    ours = load_module(run).make_pipeline().edit(source, [text], [torch.Generator().manual_seed(7)])
    torch.testing.assert_close(ours / 2 + 0.5, published(theirs, source, text), atol=1e-4, rtol=1e-4)


def test_the_folder_is_complete_and_names_no_path(run: Path, exported: Path) -> None:
    parts = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert {path.name for path in exported.iterdir()} == parts | {"model_index.json", "README.md", "editor.yaml"}
    assert texts_that_name(exported, run.parent.parent) == []
    assert all(os.stat(file).st_mode & 0o044 for file in exported.rglob("*.safetensors"))


def test_it_opens_as_an_editor_that_edits_as_the_run_does_to_the_bit(run: Path, exported: Path) -> None:
    (before, after), batch = (open_checkpoint(path).editor for path in (run, exported)), edit_batch(2)
    assert after.sampling == before.sampling and after.required_fields == before.required_fields
    edits = [editor(batch, torch.Generator().manual_seed(3)).images for editor in (before, after)]
    assert torch.equal(*edits)


def test_it_says_what_opens_it_and_which_text_it_was_trained_on(backbone: Path, tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", METHOD, arguments(backbone, text="response", sampling=None))
    entry = yaml.safe_load((export_run(run, tmp_path / "out") / "editor.yaml").read_text())
    opened_by = "mmig.methods.instruct_pix2pix.pipeline.open_editor"
    assert entry == {"class_path": opened_by, "init_args": {"text": "response"}}


def test_the_card_is_of_this_method(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-to-image"
    for line in (
        'StableDiffusionInstructPix2PixPipeline.from_pretrained("edits")',
        "source image on extra input channels and follows the instruction of an edit.",
        f"| method | {METHOD} |",
        "| steps | 12 |",
    ):
        assert line in card


def test_a_new_run_starts_from_the_folder(run: Path, exported: Path, backbone: Path) -> None:
    trained, started = load_module(run), start_from(exported, METHOD, arguments(exported, unet=str(backbone)))
    for part in ("unet", "vae", "text_encoder"):
        expected, found = getattr(trained, part).state_dict(), getattr(started, part).state_dict()
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    text = "put a red hat on the circle"
    assert started.tokenizer(text).input_ids == trained.tokenizer(text).input_ids


def test_a_run_with_another_autoencoder_than_the_folders_is_refused(exported: Path, tmp_path: Path) -> None:
    other = build_stable_diffusion(tmp_path / "other", seed=9)
    with pytest.raises(ValueError, match=rf"backbone \w+: the checkpoint was trained on {exported}.* the config names"):
        start_from(exported, METHOD, arguments(other))


def test_a_damaged_folder_is_one_clear_line(exported: Path, backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"cannot read .*unet: .*; export the run again") as caught:
        start_from(tmp_path, METHOD, arguments(backbone))
    assert "\n" not in str(caught.value)

"""Runs of latent diffusion as folders: the text-to-image pipeline, a new autoencoder, a new decoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, StableDiffusionPipeline

from datamodules.shards import write_shards
from mmig.backbones.diffusion import load_vae
from mmig.checkpoints.checkpoint import CheckpointError, load_module
from mmig.methods.latent_diffusion import scale
from mmig.methods.latent_diffusion.scale import measure_scale
from mmig.run import export
from mmig.run.export import export_run
from tests.datamodules.make_samples import make_samples
from tests.saved_run import save_run, start_from, texts_that_name
from tests.tiny_fixtures import build_stable_diffusion

ROOM = "mmig.methods.latent_diffusion"
UNET = {"block_out_channels": [16, 32], "layers_per_block": 1, "attention_heads": 2, "norm_num_groups": 8}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stable_diffusion(tmp_path_factory.mktemp("tiny") / "stable-diffusion")


def common(weights: dict[str, float], **settings: Any) -> dict[str, Any]:
    return {"optimizer": {"lr": 1e-3}, "loss_weights": weights} | settings


def drawing(backbone: Path) -> dict[str, Any]:
    return common({"sdm": 1.0}, backbone=str(backbone), unet=UNET | {"sample_size": 16})


def autoencoder() -> dict[str, Any]:
    sizes = {"block_out_channels": [8, 16, 16], "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 16}
    return common({"reconstruction": 1.0}, **sizes)


def shards(folder: Path, count: int) -> dict[str, Any]:
    """A `data` section with a validation split of `count` samples, two images each."""
    write_shards(make_samples(count), folder, 500)
    arguments = {"val": str(folder), "resolution": 16, "eval_batch_size": 64}
    return {"class_path": "datamodules.shard_data.ShardData", "init_args": arguments}


def test_diffusers_draws_what_we_draw(backbone: Path, tmp_path: Path) -> None:
    run = save_run(tmp_path / "draws", f"{ROOM}.text_to_image.TextToImageModule", drawing(backbone))
    folder = export_run(run, tmp_path / "exported")
    theirs, ours = StableDiffusionPipeline.from_pretrained(folder), load_module(run)
    found, expected = theirs.unet.state_dict(), ours.unet.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert theirs.vae.config.scaling_factor == ours.vae.config.scaling_factor
    assert theirs.tokenizer("a red circle").input_ids == ours.tokenizer("a red circle").input_ids
    assert yaml.safe_load((folder / "editor.yaml").read_text()) == {"class_path": f"{ROOM}.pipeline.open_editor"}
    assert texts_that_name(folder, tmp_path) == [] == texts_that_name(folder, backbone)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "text-to-image"
    started = start_from(folder, f"{ROOM}.text_to_image.TextToImageModule", drawing(folder))
    assert all(torch.equal(value, expected[name]) for name, value in started.unet.state_dict().items())


def test_a_new_autoencoders_scale_is_measured_on_the_data_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "MIN_IMAGES", 30)  # 1000 of them take a while
    data, others = shards(tmp_path / "val", 20), shards(tmp_path / "others", 3)
    run = save_run(tmp_path / "vae", f"{ROOM}.autoencoder.AutoencoderModule", autoencoder(), data)
    folder = export_run(run, tmp_path / "exported")
    vae, module = AutoencoderKL.from_pretrained(folder, subfolder="vae"), load_module(run)
    expected, images = measure_scale(module.vae, scale.validation_batches({"data": data}))
    assert images == 40 and vae.config.scaling_factor == pytest.approx(expected, abs=1e-5) != 0.18215
    assert all(torch.equal(value, module.vae.state_dict()[name]) for name, value in vae.state_dict().items())
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "was measured on 40 images" in card and "None: all weights are of this run." in card
    assert "pipeline_tag" not in card
    assert yaml.safe_load((folder / "editor.yaml").read_text()) == {"class_path": f"{ROOM}.reconstruction.open_editor"}
    (tmp_path / "others.yaml").write_text(yaml.safe_dump({"data": others}))
    out = ["--checkpoint", str(run), "--out", str(tmp_path / "second"), "--data", str(tmp_path / "others.yaml")]
    with pytest.raises(SystemExit, match=r"at least 30 images, the data gave 6; name data .* with --data FILE"):
        export.main(out)
    started = start_from(folder, f"{ROOM}.autoencoder.AutoencoderModule", autoencoder())
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in started.vae.state_dict().items())


def test_without_data_no_scale_is_measured_and_nothing_written(tmp_path: Path) -> None:
    run = save_run(tmp_path / "vae", f"{ROOM}.autoencoder.AutoencoderModule", autoencoder())
    with pytest.raises(ValueError, match="names no data to measure the latent scale on; give --data FILE"):
        export_run(run, tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


def test_a_new_decoder_keeps_latents_and_scale_and_starts_another_run(backbone: Path, tmp_path: Path) -> None:
    class_path, arguments = f"{ROOM}.autoencoder.FineTuneDecoder", common({"squared": 1.0}, vae=str(backbone))
    run = save_run(tmp_path / "decoder", class_path, arguments)
    folder = export_run(run, tmp_path / "exported")
    before, after, image = load_vae(backbone), load_vae(folder), torch.rand(1, 3, 16, 16)
    assert after.config.scaling_factor == before.config.scaling_factor
    assert torch.equal(after.encode(image).latent_dist.mode(), before.encode(image).latent_dist.mode())
    assert not torch.equal(after.decoder.conv_in.weight, before.decoder.conv_in.weight)
    assert texts_that_name(folder, tmp_path) == []
    started = start_from(folder, class_path, arguments)
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in started.vae.state_dict().items())
    assert {name.split(".")[1] for name in started.stored_names()} == {"decoder", "post_quant_conv"}


def test_a_decoder_of_other_latents_is_no_start(backbone: Path, tmp_path: Path) -> None:
    other = build_stable_diffusion(tmp_path / "other", seed=9)
    with pytest.raises(CheckpointError, match=r"its vae\.\S+ is not that of the backbone of FineTuneDecoder"):
        start_from(other, f"{ROOM}.autoencoder.FineTuneDecoder", common({"squared": 1.0}, vae=str(backbone)))


def test_a_method_without_export_is_one_clear_line(tmp_path: Path) -> None:
    run = save_run(tmp_path / "toy", "tests.mmig.cache.toy_method.ToyMethod", {})
    with pytest.raises(SystemExit, match=r"^error: ToyMethod has no export\(folder\): its weights alone") as stop:
        export.main(["--checkpoint", str(run), "--out", str(tmp_path / "exported")])
    assert "\n" not in str(stop.value.code) and not (tmp_path / "exported").exists()

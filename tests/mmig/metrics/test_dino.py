"""DINO similarity: features of transformers' own model on pixels prepared by hand, and folders that cannot be used."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from transformers import AutoModel

from mmig.backbones.parts import BackboneError
from mmig.metrics.dino_encoder import DINO_PRESETS, DinoEncoder, load_dino
from mmig.metrics.images import ImageRangeError
from mmig.metrics.preprocess import PreprocessingError, prepare_images
from mmig.metrics.suite import MetricSuite
from mmig.metrics.tools import MetricInputError
from tests.mmig.metrics.support import in_batches, random_batch, random_images
from tests.tiny_fixtures import build_clip_vision
from tests.tiny_vision import DINO_SIZE, IMAGENET, build_dino

NAMES = ["dino_input", "dino_target"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def dino(folder: Path) -> DinoEncoder:
    return load_dino(str(folder))


def cat() -> torch.Tensor:
    return torch.from_numpy(data.chelsea().copy()).permute(2, 0, 1)[None]


@pytest.mark.parametrize("kind", ["dino", "dinov2"])
def test_features_are_the_class_token_of_transformers_own_model(kind: str, tmp_path: Path) -> None:
    folder = build_dino(tmp_path, kind)
    mean, std = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    images = torch.rand(2, 3, DINO_SIZE, DINO_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(pixel_values=(images - mean) / std).last_hidden_state[:, 0]
    expected = states / states.norm(dim=1, keepdim=True)
    torch.testing.assert_close(load_dino(str(folder)).encode_images(images), expected, atol=1e-6, rtol=1e-5)


def test_similarity_is_the_cosine_with_input_or_target(dino: DinoEncoder) -> None:
    suite, batch, edited = MetricSuite(NAMES, dino=dino), random_batch(3), random_images(3)
    batch["has_source"][1] = False
    values = suite.update(suite.bank(batch, edited))
    of_edited = dino.encode_images((edited + 1) / 2).double()
    for name, image in zip(NAMES, ("source", "target"), strict=True):
        expected = (of_edited * dino.encode_images((batch[image] + 1) / 2).double()).sum(1)
        torch.testing.assert_close(values[name].values[[0, 2]], expected[[0, 2]], atol=1e-6, rtol=0)
    assert values["dino_input"].reasons == [None, "no_source", None]


def test_the_same_image_has_similarity_one_and_not_more(dino: DinoEncoder) -> None:
    suite, batch = MetricSuite(NAMES, dino=dino), random_batch(3)
    values = suite.update(suite.bank(batch, batch["target"]))
    assert 0.999999 < float(values["dino_target"].values.min()) <= float(values["dino_target"].values.max()) <= 1
    assert float(values["dino_input"].values.max()) < 0.9999


def test_neither_batch_size_nor_seeds_change_a_value_and_each_image_is_encoded_once(
    dino: DinoEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, encoded = in_batches(NAMES, "dino", dino, monkeypatch)
    assert encoded == [4 * 8] * 3  # source, target, and two edited ones
    for other in results[1:]:
        assert other == pytest.approx(results[0], abs=1e-6)


def test_crop_of_magicbrush_is_dinos_own_transform(tmp_path: Path) -> None:
    theirs = Compose([Resize(256, InterpolationMode.BICUBIC), CenterCrop(224)])(Image.fromarray(data.chelsea()))
    ours = prepare_images(cat(), 224, DINO_PRESETS["compat_magicbrush"])
    difference = ours[0].permute(1, 2, 0).numpy() - np.asarray(theirs) / 255
    assert ours.shape == (1, 3, 224, 224)
    assert np.abs(difference).mean() < 0.003  # PIL rounds to bytes


def test_bytes_and_floats_are_one_and_signed_images_are_refused(dino: DinoEncoder) -> None:
    torch.testing.assert_close(dino.encode_images(cat()), dino.encode_images(cat().float() / 255))
    with pytest.raises(ImageRangeError):
        dino.encode_images(cat().float() / 127.5 - 1)


def test_the_description_names_model_weights_and_preprocessing(dino: DinoEncoder, folder: Path, tmp_path: Path) -> None:
    described = json.loads(json.dumps(dino.describe()))
    assert (described["name"], described["class"], described["image_size"]) == (str(folder), "ViTModel", DINO_SIZE)
    assert described["mean"] == IMAGENET["image_mean"] and described["preset"] == "default"
    assert described["preprocessing"] == {
        "resize": "squash",
        "short_side": None,
        "antialias": True,
        "input_range": "unit",
    }
    other = load_dino(str(build_dino(tmp_path, seed=1))).describe()
    assert len(described["fingerprint"]) == 64 and other["fingerprint"] != described["fingerprint"]


def test_a_metric_without_a_model_says_what_to_give() -> None:
    with pytest.raises(MetricInputError, match="metric 'dino_input' needs a DINO model; give --dino"):
        MetricSuite(["dino_input"])


@pytest.mark.parametrize(
    ("preset", "message"),
    [("squish", "'squish' is unknown; expected one of default"), ("compat_magicbrush", "cuts 224 pixels, .* takes 32")],
)
def test_presets_that_do_not_fit_are_refused(preset: str, message: str, folder: Path) -> None:
    with pytest.raises(PreprocessingError, match=message):
        load_dino(str(folder), preset)


def test_folders_that_cannot_be_used_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    broken = {name: shutil.copytree(folder, tmp_path / name) for name in ("bare", "wide", "short", "odd", "holes")}
    (broken["bare"] / "preprocessor_config.json").unlink()
    (broken["wide"] / "preprocessor_config.json").write_text(
        json.dumps({**IMAGENET, "size": {"height": 1, "width": 2}})
    )
    (broken["short"] / "preprocessor_config.json").write_text(json.dumps({"size": 32, "image_mean": [0.5]}))
    (broken["odd"] / "config.json").write_text('{"model_type": "no_such"}')
    config = json.loads((folder / "config.json").read_text())
    (broken["holes"] / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    expected = {
        "bare": "expected config.json . preprocessor_config.json of a image_model",
        "wide": "size: expected one number of pixels",
        "short": "image_mean: expected three numbers",
        "odd": "config.json: expected a model of transformers",
        "holes": "missing",
        "nowhere": "does not exist",
    }
    for name, message in expected.items():
        with pytest.raises(BackboneError, match=message) as refused:
            load_dino(str(tmp_path / name))
        assert "\n" not in str(refused.value)
    clip = build_clip_vision(tmp_path / "clip")
    with pytest.raises(BackboneError, match="expected an image model with a class token"):
        load_dino(str(clip))

"""Features behind FID and KID: of torchvision's models, of the FID's Inception, of other encoders."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torchvision.models import inception

from mmig.backbones.fid_inception import build_fid_inception, prepare_for_fid
from mmig.backbones.parts import BackboneError
from mmig.metrics.clip_encoder import ClipEncoder
from mmig.metrics.dino_encoder import load_dino
from mmig.metrics.images import ImageRangeError
from mmig.metrics.preprocess import Preprocessing, prepare_images
from mmig.metrics.set_features import NetworkFeatures, SharedFeatures, load_features
from mmig.metrics.suite import MetricSuite
from tests.mmig.metrics.support import random_batch, random_images
from tests.tiny_saving import seeded
from tests.tiny_vision import IMAGENET, build_dino

SMALL = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(SMALL, tmp_path_factory.mktemp("torchvision") / "small.pth")


def stored(name: str, file: Path, **options: bool) -> Path:
    with seeded(0):
        torch.save(torchvision.models.get_model(name, weights=None, **options).state_dict(), file)
    return file


def units(count: int, size: int = 40) -> torch.Tensor:
    return (random_images(count, size=size) + 1) / 2


@torch.no_grad()
def test_features_are_what_the_last_layer_of_torchvisions_model_reads(small: Path) -> None:
    network = torchvision.models.get_model(SMALL, weights=None).eval()
    network.load_state_dict(torch.load(small))
    read: list[torch.Tensor] = []
    network.fc.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    mean, std = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    network((prepare_images(units(2), 224, Preprocessing()) - mean) / std)
    torch.testing.assert_close(load_features(SMALL, small).encode_images(units(2)), read[0])


@torch.no_grad()
def test_models_that_torchvision_feeds_otherwise_with_their_weights_are_fed_so_here(tmp_path: Path) -> None:
    file = stored("googlenet", tmp_path / "googlenet.pth", init_weights=False)
    features = load_features("googlenet", file)
    assert features.network.transform_input
    assert features.encode_images(units(1)).shape == (1, 1024)


def test_each_sample_has_its_features_whatever_its_batch(small: Path) -> None:
    features, images = load_features(SMALL, small), units(4)
    alone = torch.cat([features.encode_images(images[row : row + 1]) for row in range(4)])
    torch.testing.assert_close(features.encode_images(images), alone, rtol=1e-4, atol=1e-5)


def test_features_of_other_encoders_are_not_computed_again(
    encoder: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dino, seen = load_dino(str(build_dino(tmp_path))), []
    for name, tool in (("clip", encoder), ("dino", dino)):
        encode = tool.encode_images
        monkeypatch.setattr(
            tool, "encode_images", lambda images, encode=encode: seen.append(len(images)) or encode(images)
        )
        names = {"clip": "clip_image_similarity_target", "dino": "dino_target"}
        suite = MetricSuite([names[name], "fid"], encoder, dino=dino, features=SharedFeatures(name))
        bank = suite.bank(random_batch(2), random_images(2))
        values = suite.update(bank)[names[name]].values
        found = suite.features(bank)
        assert sum(seen) == 4
        seen.clear()
        torch.testing.assert_close((found["edited"] * found["target"]).sum(1).double(), values, atol=1e-6, rtol=0)


def test_targets_are_encoded_once_for_all_seeds(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, seen = load_features(SMALL, small), []
    encode = features.encode_images
    monkeypatch.setattr(features, "encode_images", lambda images: seen.append(len(images)) or encode(images))
    suite = MetricSuite(["fid", "kid"], features=features)
    bank = suite.bank(random_batch(2), random_images(2))
    suite.features(bank)
    suite.features(bank.with_edited(random_images(2, 5)))
    assert sum(seen) == 6


def test_the_description_names_weights_and_preprocessing(small: Path) -> None:
    described = json.loads(json.dumps(load_features(SMALL, small).describe()))
    assert (described["name"], described["weights"], described["image_size"]) == (SMALL, str(small), 224)
    assert described["preprocessing"]["resize"] == "squash" and len(described["fingerprint"]) == 64


def test_signed_images_are_refused(small: Path) -> None:
    with pytest.raises(ImageRangeError):
        load_features(SMALL, small).encode_images(random_images(1))


def test_what_cannot_be_used_is_refused_in_one_line(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    squeeze = stored("squeezenet1_1", tmp_path / "squeeze.pth")
    wrong = [
        ("resnet1", None, "torchvision has no model 'resnet1'"),
        ("resnet18", None, "resnet18: expected a file of weights, found none, nor .* in torch's cache"),
        ("resnet18", small, "these are no weights of ResNet"),
        ("squeezenet1_1", squeeze, "squeezenet1_1 has no linear layer"),
        ("clip", "openai", "'clip' are those of --clip; leave weights out"),
        ("fid_inception", None, "needs the file weights-inception-2015-12-05"),
        ("fid_inception", small, "these are no weights of Inception3"),
    ]
    for name, weights, message in wrong:
        with pytest.raises(BackboneError, match=message) as refused:
            load_features(name, weights)
        assert "\n" not in str(refused.value)


def test_average_pools_of_the_fids_inception_do_not_count_their_padding_and_the_last_takes_the_maximum() -> None:
    network = build_fid_inception().eval()
    with seeded(0):
        inputs = {"Mixed_5b": torch.randn(1, 192, 5, 6), "Mixed_6c": torch.randn(1, 768, 5, 6)}
        inputs |= {"Mixed_7b": torch.randn(1, 1280, 5, 6), "Mixed_7c": torch.randn(1, 2048, 5, 6)}
    for name, images in inputs.items():
        block = getattr(network, name)
        theirs = next(kind for kind in type(block).__mro__ if kind.__module__ == inception.__name__)
        windows = F.pad(images, (1, 1, 1, 1), value=float("nan")).unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)
        highest = windows.nan_to_num(-1e9).amax(-1)
        pooled = highest if name == "Mixed_7c" else windows.nanmean(-1)
        with torch.no_grad():
            expected = torch.cat([*theirs._forward(block, images)[:-1], block.branch_pool(pooled)], 1)
            torch.testing.assert_close(block(images), expected)


def test_images_enter_the_fids_inception_as_tensorflow_has_it() -> None:
    images = units(2, size=32)
    pixels = (images.numpy() * 255).round()
    expected = np.zeros((2, 3, 299, 299))
    for row in range(0, 299, 23):
        for column in range(0, 299, 23):
            y, x = row * 32 / 299, column * 32 / 299
            top, left = int(y), int(x)
            below, right = min(top + 1, 31), min(left + 1, 31)
            upper = pixels[:, :, top, left] * (1 - x + left) + pixels[:, :, top, right] * (x - left)
            lower = pixels[:, :, below, left] * (1 - x + left) + pixels[:, :, below, right] * (x - left)
            expected[:, :, row, column] = (upper * (1 - y + top) + lower * (y - top) - 128) / 128
    ours = prepare_for_fid(images).numpy()
    np.testing.assert_allclose(ours[:, :, ::23, ::23], expected[:, :, ::23, ::23], atol=1e-4)


@torch.no_grad()
def test_the_fids_inception_is_read_from_a_file_with_torchvisions_names(tmp_path: Path) -> None:
    with seeded(0):
        network = build_fid_inception().eval()
    names = inception.Inception3(1008, aux_logits=False, init_weights=False).state_dict().keys()
    assert network.state_dict().keys() == names
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    features = load_features("fid_inception", tmp_path / "inception.pth")
    assert isinstance(features, NetworkFeatures)
    found = features.encode_images(units(1))
    assert found.shape == (1, 2048)
    torch.testing.assert_close(network.fc(found), network(prepare_for_fid(units(1))))
    assert features.describe()["resize"] == "bilinear of TensorFlow 1"

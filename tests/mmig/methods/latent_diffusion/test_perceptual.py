"""LPIPS as a loss: the metric's numbers, with gradients, from a folder that names its network."""

import json
from pathlib import Path

import pytest
import torch

from experiments.random_features import main, write_random_features
from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.named import Origin
from mmig.backbones.parts import BackboneError
from mmig.methods.latent_diffusion.perceptual import PERCEPTUAL, load_perceptual
from mmig.metrics.lpips import load_lpips


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_features(tmp_path_factory.mktemp("features") / "squeeze", "squeezenet1_1")


def test_it_is_the_metric(folder: Path) -> None:
    first, second = torch.rand(2, 2, 3, 48, 48) * 2 - 1
    metric = load_lpips("squeeze", folder / "model.safetensors")
    expected = metric.distance(*(metric.encode_images((images + 1) / 2) for images in (first, second)))
    found = load_perceptual(folder)(first, second)
    assert found.shape == (2,) and float(found.min()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_images_get_a_gradient_and_the_network_none(folder: Path) -> None:
    distance = load_perceptual(folder).train()  # as a trainer may do: nothing is dropped then either
    made, real = (torch.rand(1, 3, 32, 32) * 2 - 1).requires_grad_(), torch.rand(1, 3, 32, 32) * 2 - 1
    values = [distance(made, real) for _ in range(2)]
    assert torch.equal(*values)
    values[0].sum().backward()
    assert float(made.grad.abs().max()) > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_the_published_folder_of_vgg16_is_read(tmp_path: Path) -> None:
    """Its classifier, of which only a sign stands here, is left aside."""
    from safetensors.torch import load_file, save_file

    folder = write_random_features(tmp_path / "vgg16", "vgg16")
    classifier = {"pre_logits.fc1.weight": torch.zeros(1), "head.fc.weight": torch.zeros(1)}
    save_file(load_file(folder / "model.safetensors") | classifier, folder / "model.safetensors")
    assert len(list(load_perceptual(folder).network.net.parameters())) == 26  # 13 convolutions


def test_another_network_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50"}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(
        BackboneError, match="expected architecture alexnet or vgg16 or squeezenet1_1, found 'resnet50'"
    ):
        load_perceptual(tmp_path)
    with pytest.raises(BackboneError, match=r"^perceptual: the folder \S+nowhere does not exist"):
        load_perceptual(tmp_path / "nowhere")


def test_random_features_are_a_function_of_the_seed(folder: Path, tmp_path: Path) -> None:
    main(["squeezenet1_1", "--out", str(tmp_path / "again")])
    main(["squeezenet1_1", "--out", str(tmp_path / "other"), "--seed", "1"])
    again, other, first = (
        fingerprint(Origin(str(place), PERCEPTUAL)) for place in (tmp_path / "again", tmp_path / "other", folder)
    )
    assert first == again != other

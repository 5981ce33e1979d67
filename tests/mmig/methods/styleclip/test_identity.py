"""The face network and what stands on its body: sizes, the loss, the encoder for editing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmig.backbones.parts import BackboneError
from mmig.methods.styleclip.e4e import EditingEncoder, load_e4e
from mmig.methods.styleclip.identity import IdentityLoss, load_identity
from mmig.methods.styleclip.ir_se import FaceNetwork, Unit
from mmig.methods.styleclip.mapper_editor import ENCODER_FILE, save_encoder


def test_the_face_network_has_the_published_sizes_and_names() -> None:
    with torch.device("meta"):
        network = FaceNetwork()
    assert sum(weight.numel() for weight in network.parameters()) == 43_797_696
    names = network.state_dict().keys()
    assert len(names) == 397
    assert {"input_layer.2.weight", "body.3.shortcut_layer.1.running_var", "body.23.res_layer.5.fc2.weight"} <= names
    assert {"body.23.res_layer.4.num_batches_tracked", "output_layer.3.weight", "output_layer.4.bias"} <= names
    assert "body.1.shortcut_layer.0.weight" not in names


def test_a_unit_keeps_every_second_pixel_of_its_shortcut() -> None:
    unit = Unit(16, 16, 2).eval()
    torch.nn.init.zeros_(unit.res_layer[3].weight)
    features = torch.randn(1, 16, 8, 8)
    torch.testing.assert_close(unit(features), features[:, :, ::2, ::2])


@pytest.fixture(scope="module")
def faces() -> IdentityLoss:
    torch.manual_seed(0)
    return IdentityLoss(FaceNetwork())


@torch.no_grad()
def test_the_same_face_costs_nothing_and_vectors_have_length_one(faces: IdentityLoss) -> None:
    images = torch.rand(1, 3, 128, 128) * 2 - 1
    torch.testing.assert_close(faces.encode(images).norm(dim=1), torch.ones(1))
    torch.testing.assert_close(faces(images, images), torch.zeros(1), atol=1e-6, rtol=0)


@torch.no_grad()
def test_only_the_frame_of_the_face_is_seen(faces: IdentityLoss) -> None:
    images = torch.rand(1, 3, 256, 256) * 2 - 1
    beside = images.clone()
    beside[:, :, :35], beside[:, :, 223:], beside[:, :, :, :32], beside[:, :, :, 220:] = 0, 0, 0, 0
    assert torch.equal(faces.encode(images), faces.encode(beside))


def test_the_networks_statistics_stay_in_training(faces: IdentityLoss) -> None:
    assert not faces.train().network.training


def test_weights_come_from_a_file_and_without_one_there_is_no_loss(faces: IdentityLoss, tmp_path: Path) -> None:
    assert load_identity(None) is None
    save_file(faces.network.state_dict(), tmp_path / "faces.safetensors")
    loaded = load_identity(tmp_path / "faces.safetensors")
    assert torch.equal(loaded.network.body[0].res_layer[1].weight, faces.network.body[0].res_layer[1].weight)
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BackboneError, match=r"other.safetensors: these are no weights of FaceNetwork"):
        load_identity(tmp_path / "other.safetensors")


@pytest.mark.slow
@torch.no_grad()
def test_the_encoder_reads_the_authors_layout_and_refuses_another_generators(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = EditingEncoder(4).eval()
    average = torch.randn(1, 512)
    stored = {f"encoder.{n}": value for n, value in encoder.state_dict().items() if n != "latent_avg"}
    file = tmp_path / "e4e.pt"
    torch.save({"state_dict": stored | {"decoder.x": torch.ones(1)}, "latent_avg": average, "opts": {"a": 1}}, file)
    loaded, images = load_e4e(file, 4), torch.rand(1, 3, 256, 256)
    torch.testing.assert_close(loaded(images), encoder(images) + average)
    save_encoder(loaded, tmp_path)
    torch.testing.assert_close(load_e4e(tmp_path / ENCODER_FILE, 4)(images), loaded(images))
    for head in encoder.styles[1:]:
        torch.nn.init.zeros_(head.linear.weight)
    same = encoder(images)
    torch.testing.assert_close(same, same[:, :1].expand_as(same))
    with pytest.raises(BackboneError, match="expected an encoder of the 18 codes of the generator, found one of 4"):
        load_e4e(file, 18)


def test_the_published_encoder_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in EditingEncoder(18).parameters()) == 267_136_704

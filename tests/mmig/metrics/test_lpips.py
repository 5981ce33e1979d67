"""LPIPS against the paper's formula on torchvision's own features, and against torchmetrics' network."""

import json
from pathlib import Path

import pytest
import torch
import torchmetrics
import torchvision
from torchmetrics.functional.image.lpips import _LPIPS

from mmig.backbones.parts import BackboneError
from mmig.metrics.images import ImageRangeError
from mmig.metrics.lpips import BACKBONES, MIN_SIZE, Lpips, LpipsError, load_lpips
from mmig.metrics.suite import MetricSuite
from mmig.metrics.tools import MetricInputError
from tests.mmig.metrics.support import in_batches, random_batch, random_images
from tests.tiny_vision import build_lpips_backbone

NAMES = ["lpips_input", "lpips_target"]
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29), "squeeze": (1, 4, 7, 9, 10, 11, 12)}
"""Layers of torchvision's `features` after which the paper's code compares activations."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lpips")
    return {name: build_lpips_backbone(folder / f"{model}.pth", model) for name, model in BACKBONES.items()}


@pytest.fixture(scope="module")
def squeeze(files: dict[str, Path]) -> Lpips:
    return load_lpips("squeeze", files["squeeze"])


def by_hand(name: str, file: Path, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Distance of images in [-1,1], layer by layer."""
    with torch.device("meta"):
        features = getattr(torchvision.models, BACKBONES[name])(weights=None).features
    state = {
        key.removeprefix("features."): value
        for key, value in torch.load(file, map_location="cpu").items()
        if "features" in key
    }
    features.load_state_dict(state, assign=True)
    shipped = Path(torchmetrics.__file__).parent / f"functional/image/lpips_models/{name}.pth"
    linear = [
        torch.load(shipped, map_location="cpu")[f"lin{number}.model.1.weight"] for number in range(len(TAPS[name]))
    ]
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    both, total = (torch.cat([first, second]) - shift) / scale, torch.zeros(len(first))
    for number, layer in enumerate(features):
        both = layer(both)
        if number in TAPS[name]:
            one, other = (both / both.square().sum(1, keepdim=True).add(1e-8).sqrt()).chunk(2)
            weights = linear[TAPS[name].index(number)]
            total += ((one - other).square() * weights).sum(1).mean((1, 2))
            both = both.clone()  # the next activation may work in place
    return total


@pytest.mark.parametrize("name", list(BACKBONES))
@torch.no_grad()
def test_distance_is_the_papers_and_torchmetrics(name: str, files: dict[str, Path]) -> None:
    first, second = random_images(2, 1), random_images(2, 2)
    lpips = load_lpips(name, files[name])
    ours = lpips.distance(*(lpips.encode_images((images + 1) / 2) for images in (first, second)))
    torch.testing.assert_close(ours, by_hand(name, files[name], first, second), rtol=1e-4, atol=1e-6)
    assert isinstance(lpips.network, _LPIPS)
    torch.testing.assert_close(ours, lpips.network(first, second).flatten(), rtol=1e-4, atol=1e-6)
    assert float(ours.min()) > 1e-4


def test_distance_is_to_input_or_target_and_zero_for_a_copy(squeeze: Lpips) -> None:
    suite, batch = MetricSuite(NAMES, lpips=squeeze), random_batch(3)
    batch["has_target"][2] = False
    values = suite.update(suite.bank(batch, batch["target"]))
    assert values["lpips_target"].values[:2].tolist() == [0.0, 0.0]
    assert values["lpips_target"].reasons == [None, None, "no_target"]
    assert float(values["lpips_input"].values.min()) > 0
    assert not suite.metrics["lpips_input"].higher_is_better


def test_neither_batch_size_nor_seeds_change_a_value_and_each_image_is_encoded_once(
    squeeze: Lpips, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, encoded = in_batches(NAMES, "lpips", squeeze, monkeypatch)
    assert encoded == [4 * 8] * 3  # source, target, and two edited ones
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_smallest_images_are_the_smallest_that_the_backbone_can_pool(name: str, files: dict[str, Path]) -> None:
    lpips, least = load_lpips(name, files[name]), MIN_SIZE[name]
    assert lpips.encode_images(torch.rand(1, 3, least, 40))[-1].numel() > 0
    with pytest.raises(LpipsError, match=f"at least {least}x{least} pixels, found {least - 1}x40"):
        lpips.encode_images(torch.rand(1, 3, least - 1, 40))
    with pytest.raises(RuntimeError):
        lpips.network.net(torch.rand(1, 3, least - 1, 40))


def test_signed_images_are_refused(squeeze: Lpips) -> None:
    with pytest.raises(ImageRangeError):
        squeeze.encode_images(random_images(1))


def test_a_broken_image_is_counted_and_not_averaged(squeeze: Lpips) -> None:
    edited = random_images(3)
    edited[1] = float("nan")
    suite = MetricSuite(["lpips_target"], lpips=squeeze)
    assert suite.update(suite.bank(random_batch(3), edited))["lpips_target"].reasons == [None, "not_finite", None]


def test_the_description_names_network_and_weights(squeeze: Lpips, files: dict[str, Path]) -> None:
    described = json.loads(json.dumps(squeeze.describe()))
    assert (described["name"], described["backbone"]) == ("squeeze", "squeezenet1_1")
    assert described["weights"] == str(files["squeeze"]) and len(described["fingerprint"]) == 64


def test_a_metric_without_a_network_says_what_to_give() -> None:
    with pytest.raises(MetricInputError, match="metric 'lpips_target' needs an LPIPS network; give --lpips NAME"):
        MetricSuite(["lpips_target"])


def test_names_and_files_that_cannot_be_used_are_refused_in_one_line(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    wrong = [
        ("alexnet", None, "'alexnet' is unknown; expected one of alex, vgg, squeeze"),
        ("squeeze", None, r"expected a file of weights, found none, nor .*squeezenet1_1-.*\.pth in torch's cache"),
        ("squeeze", tmp_path / "nothing.pth", "is no file"),
        ("squeeze", tmp_path / "text.pth", "cannot be read as weights"),
        ("squeeze", tmp_path / "list.pth", "expected tensors by name, found list"),
        ("squeeze", files["alex"], "these are no weights of SqueezeNet"),
    ]
    for name, file, message in wrong:
        with pytest.raises((LpipsError, BackboneError), match=message) as refused:
            load_lpips(name, file)
        assert "\n" not in str(refused.value)


def test_weights_in_torchs_cache_are_found(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    cached.parent.mkdir()
    cached.write_bytes(files["squeeze"].read_bytes())
    assert load_lpips("squeeze").describe()["weights"] == cached.name

import numpy as np
import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr

from mmig.metrics.images import ImageRangeError
from mmig.metrics.pixels import l1, l2, psnr, ssim
from mmig.metrics.suite import MetricSuite
from tests.mmig.metrics.support import random_batch


def photographs() -> tuple[torch.Tensor, torch.Tensor]:
    clean = torch.from_numpy(data.astronaut()[None, 100:260, 100:232]).permute(0, 3, 1, 2).float() / 255
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    images = torch.cat([(clean + sigma * noise).clamp(0, 1) for sigma in (0.02, 0.1, 0.3)])
    return images, clean.expand_as(images)


def test_l1_and_l2_are_numpy_means() -> None:
    images, references = photographs()
    difference = images.numpy() - references.numpy()
    np.testing.assert_allclose(l1(images, references), np.abs(difference).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(l2(images, references), (difference**2).mean((1, 2, 3)), rtol=1e-5)


def test_psnr_is_scikit_images_and_torchmetrics_of_each_image_alone() -> None:
    images, references = photographs()
    pairs = list(zip(images, references, strict=True))
    expected = [peak_signal_noise_ratio(second.numpy(), first.numpy(), data_range=1.0) for first, second in pairs]
    np.testing.assert_allclose(psnr(images, references), expected, rtol=1e-5)
    theirs = [float(torchmetrics_psnr(first, second, data_range=1.0)) for first, second in pairs]
    np.testing.assert_allclose(psnr(images, references), theirs, rtol=1e-5)


def test_psnr_of_a_perfect_copy_is_skipped_and_counted_and_of_opposites_zero() -> None:
    batch = random_batch(3)
    batch["source"][1], batch["has_source"][2] = 1.0, False
    edited = torch.stack([batch["source"][0], -torch.ones(3, 64, 64), batch["source"][2]])
    suite = MetricSuite(["psnr_input"])
    values = suite.update(suite.bank(batch, edited))["psnr_input"]
    assert values.reasons == ["identical_images", None, "no_source"]
    assert suite.compute()["psnr_input"] == 0.0


def test_ssim_is_scikit_images() -> None:
    images, references = photographs()
    expected = [
        structural_similarity(
            first.double().numpy(),
            second.double().numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for first, second in zip(images, references, strict=True)
    ]
    np.testing.assert_allclose(ssim(images, references), expected, atol=1e-6)


def test_ssim_of_an_image_and_itself_is_one() -> None:
    images, _ = photographs()
    np.testing.assert_allclose(ssim(images, images), 1.0, atol=1e-6)


def test_ssim_of_a_sample_does_not_depend_on_its_batch() -> None:
    images, references = photographs()
    dark = torch.cat([images[:1] * 0.1, images[1:]])
    alone = ssim(dark[:1], references[:1])
    torch.testing.assert_close(ssim(dark, references)[:1], alone)


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))


@pytest.mark.parametrize("metric", [l1, l2, psnr, ssim])
def test_bytes_and_floats_give_one_score(metric) -> None:
    images, references = ((photograph * 255).to(torch.uint8) for photograph in photographs())
    torch.testing.assert_close(metric(images, references), metric(images.float() / 255, references.float() / 255))


@pytest.mark.parametrize("metric", [l1, l2, psnr, ssim])
def test_signed_images_are_refused(metric) -> None:
    images, references = photographs()
    with pytest.raises(ImageRangeError):
        metric(images * 2 - 1, references)


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        l1(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 18))

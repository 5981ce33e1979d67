"""Faults of pictures: of the size asked for, the same for a sample wherever it is drawn."""

import torch

from experiments.tiny_backbones.augmentation import Augmentation, augmented
from mmig.training.rng import Draws

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5


def test_without_faults_pictures_stay():
    torch.testing.assert_close(augmented(IMAGES, Augmentation(), Draws(0, [0, 1, 2]), "source"), IMAGES)


def test_faults_follow_from_the_sample():
    settings = Augmentation(exposure=0.1, blur=0.5, noise=0.1)
    together = augmented(IMAGES, settings, Draws(0, [0, 1, 2]), "source")
    alone = augmented(IMAGES[2:], settings, Draws(0, [2]), "source")
    torch.testing.assert_close(together[2:], alone)
    assert not torch.equal(together, augmented(IMAGES, settings, Draws(0, [0, 1, 2]), "target"))


def test_blur_keeps_the_mean_and_takes_contrast():
    blurred = augmented(IMAGES, Augmentation(blur=1.0), Draws(0, [0, 1, 2]), "source")
    assert (blurred.std((1, 2, 3)) < IMAGES.std((1, 2, 3))).all()
    torch.testing.assert_close(blurred.mean(), IMAGES.mean(), atol=0.02, rtol=0)


def test_pixels_stay_in_range():
    bright = augmented(IMAGES * 2, Augmentation(exposure=0.5, noise=0.5), Draws(0, [0, 1, 2]), "source")
    assert bright.abs().max() == 1

"""Losses of StyleGAN2 (Karras et al. 2020), one value a sample."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake: Tensor) -> Tensor:
    """-log sigmoid(D(G(z))), the non-saturating loss (Goodfellow et al. 2014), of scores [B]."""
    return F.softplus(-fake)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z)))) of scores [B] each."""
    return F.softplus(-real) + F.softplus(fake)


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018): squared gradient of the score by a real picture, [B]; its usual weight is gamma / 2.

    It works without a graph outside as well, as in validation, and has none then.

    Args:
        discriminator: D.
        images: [B,3,H,W].
    """
    keep = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        seen = images.view_as(images)  # counters of operations hook what enters a module, and cannot hook a leaf
        (gradient,) = torch.autograd.grad(discriminator(seen).sum(), images, create_graph=keep)
        return gradient.square().sum((1, 2, 3))


def path_lengths(pictures: Callable[[Tensor], Tensor], codes: Tensor, noise: Tensor) -> Tensor:
    """|J_w^T y| (Karras et al. 2020, eq 4): how far a picture moves with its code, [B].

    Args:
        pictures: G, [B,3,H,W] of codes.
        codes: w+ [B,n,D].
        noise: standard normal, of the pictures' shape.
    """
    keep = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        codes = codes.clone() if codes.requires_grad else codes.detach().clone().requires_grad_()
        images = pictures(codes.view_as(codes))
        noise = noise.clone() / math.sqrt(images.shape[2] * images.shape[3])
        (gradient,) = torch.autograd.grad((images * noise).sum(), codes, create_graph=keep)
        return gradient.square().sum(2).mean(1).sqrt()


def path_penalty(lengths: Tensor, mean: Tensor) -> Tensor:
    """(|J_w^T y| - a)^2 of lengths [B] and their running mean a (eq 4)."""
    return (lengths - mean).square()


def running_mean(mean: Tensor, lengths: Tensor, decay: float = 0.99) -> Tensor:
    """The mean a after the lengths of a step, given as their mean."""
    return decay * mean + (1 - decay) * lengths


def mixed(first: Tensor, second: Tensor, crossing: Tensor, num_codes: int) -> Tensor:
    """Style mixing (Karras et al. 2019): w+ [B,num_codes,D] of w before and after a crossing.

    Args:
        first, second: w, [B,D] each.
        crossing: index of the first code of `second`, int64 [B]; num_codes for none.
        num_codes: n.
    """
    before = torch.arange(num_codes, device=first.device)[None, :, None] < crossing.view(-1, 1, 1)
    return torch.where(before, first[:, None], second[:, None])

"""The corruptions C that the refinement prior learns to undo (Li et al. 2023, section 3.3), as functions of tensors.

Either noise on the vector, or a domain shift: the vector of the paired text or sound in its place. Where sounds are
targets too (the bidirectional prior of section 3.4.2), the same holds for them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Task(NamedTuple):
    """What is restored of what, of each sample.

    Attributes:
        source, target: numbers of modalities, int64 [B].
        noisy: whether the source is the target's own vector with noise, bool [B].
        valid: whether there is anything to restore, bool [B]; where not, the others mean nothing.
    """

    source: Tensor
    target: Tensor
    noisy: Tensor
    valid: Tensor


def choose_task(present: Tensor, targets: Sequence[int], noise_share: float, uniforms: Sequence[Tensor]) -> Task:
    """A target among what a sample has, and its corruption: noise in a fixed share, else another modality that it has.

    A sample with nothing but its target is always noised.

    Args:
        present: which modalities a sample has, bool [B,M].
        targets: modalities that may be restored.
        noise_share: of noise among the corruptions, in [0, 1].
        uniforms: three draws in [0, 1) a sample, [B] each: of target, corruption and source.
    """
    wanted = torch.zeros_like(present)
    wanted[:, list(targets)] = present[:, list(targets)]
    target = picked(wanted, uniforms[0])
    others = present & ~F.one_hot(target, present.shape[1]).bool()
    noisy = (uniforms[1].to(present.device) < noise_share) | ~others.any(dim=1)
    return Task(torch.where(noisy, target, picked(others, uniforms[2])), target, noisy, wanted.any(dim=1))


def picked(allowed: Tensor, uniform: Tensor) -> Tensor:
    """One of the allowed numbers of each row, all equally likely, int64 [B]; 0 where none is.

    Args:
        allowed: bool [B,M].
        uniform: in [0, 1), [B].
    """
    order = allowed.cumsum(dim=1)
    wanted = (uniform.to(allowed.device) * order[:, -1]).long() + 1
    return ((order == wanted[:, None]) & allowed).int().argmax(dim=1)


def noised(vectors: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Unit vectors of vectors with noise on them, [...,D].

    The paper adds standard normal noise to ImageBind's vectors without saying how long these are: at length 1 nothing
    would be left of them in 1,024 dimensions. sigma 0.05 is that noise on vectors of length 20, the released scale.

    Args:
        vectors: of length 1.
        noise: standard normal, of the same shape.
        sigma: of each dimension.
    """
    return F.normalize(vectors + sigma * noise.to(vectors), dim=-1)


def drops(uniform: Tensor, drop: float) -> tuple[Tensor, Tensor]:
    """(without a score, without a vector too), bool [B] each: `drop` of the samples, and half of these.

    Args:
        uniform: in [0, 1), [B].
        drop: share of samples.
    """
    return uniform < drop, uniform < drop / 2

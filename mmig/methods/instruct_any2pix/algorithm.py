"""Algorithm 1 of Li et al. 2023 line by line, as functions of tensors: retrieval, and the two mixings.

The paper writes norms of whole tensors; here they are those of each sample. Where it leaves scales open, vectors have
length 1 before they are mixed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def retrieve(base: Tensor, candidates: Tensor, allowed: Tensor) -> Tensor:
    """K = argmax_i Sim(H_i, H_base), int64 [B]: the allowed candidate of the largest cosine, the first of equal ones;
    -1 where none is allowed.

    Args:
        base: H_base, [B,D].
        candidates: H_i, [B,K,D].
        allowed: bool [B,K]; False at sounds and empty slots.
    """
    if not candidates.shape[1]:
        return torch.full((len(base),), -1, device=base.device)
    similar = (F.normalize(candidates, dim=-1) * F.normalize(base, dim=-1)[:, None]).sum(dim=-1)
    found = similar.masked_fill(~allowed, -torch.inf).argmax(dim=1)
    return torch.where(allowed.any(dim=1), found, -1)


def mix_noise(inverted: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """z'_k = alpha z_k + (1 - alpha) epsilon, brought back to the norm of z_k, [B,C,h,w].

    Of uncorrelated parts the sum is shorter: by sqrt(alpha^2 + (1 - alpha)^2) where both are of one length. The paper's
    last line hands z_k on, without the prime; what is meant is z'_k, or the mixing would do nothing.

    Args:
        inverted: z_k.
        noise: standard normal, of the same shape.
        alpha: in [0, 1]; 1 keeps z_k as it is, bit for bit; 0 keeps nothing of it but its norm.
    """
    if alpha == 1.0:
        return inverted
    mixed = alpha * inverted + (1 - alpha) * noise
    norms = [value.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for value in (inverted, mixed)]
    return mixed * norms[0] / norms[1]


def mix_conditions(
    refined: Tensor, gen: Tensor, base: Tensor, beta: float, prior_weight: float = 1.0, gen_weight: float = 1.0
) -> Tensor:
    """H'_gen / ||H'_gen|| with H'_gen = F_prior(H_gen) + H_gen + beta H_k, unit vectors [B,D].

    Args:
        refined: F_prior(H_gen).
        gen: H_gen.
        base: H_k, zeros where there is no picture to edit.
        beta: how much of the source's meaning is kept.
        prior_weight, gen_weight: 1 in the paper; the released code has weights of its own (h2 and h1).
    """
    parts = zip((prior_weight, gen_weight, beta), (refined, gen, base), strict=True)
    return F.normalize(sum(weight * F.normalize(part, dim=-1) for weight, part in parts), dim=-1)

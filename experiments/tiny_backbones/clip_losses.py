"""Losses of the tiny CLIP as pure functions: contrast with hard negatives, and the next token of a caption."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmig.language.token_loss import IGNORED, token_loss


def contrastive_losses(
    image_features: Tensor, text_features: Tensor, texts: Sequence[str], valid: Tensor, scale: Tensor
) -> Tensor:
    """Symmetric cross-entropy of each image-text pair, [N]; 0 where the pair is not valid.

    Args:
        image_features: [N,E].
        text_features: [N+M,E]; the first N belong to the images, the others to no image (hard negatives).
        texts: the N+M texts; another column with a row's own text is no negative and is left out. "" is left out too.
        valid: bool [N], pairs with both image and text.
        scale: factor of the cosines.
    """
    cosines = F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T
    number = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    ids = torch.tensor([number[text] for text in texts], device=cosines.device)
    absent = torch.tensor([text == "" for text in texts], device=cosines.device)
    return paired_contrast(scale * cosines, (ids[: len(image_features), None] == ids) | absent, valid)


def paired_contrast(logits: Tensor, left_out: Tensor, valid: Tensor) -> Tensor:
    """Symmetric cross-entropy (InfoNCE) of the pairs on the diagonal, [N]; 0 where a pair is not valid.

    Args:
        logits: [N,N+M]; the last M columns belong to no row.
        left_out: bool [N,N+M], what is no negative of its row; columns of pairs that are not valid are none either.
        valid: bool [N].
    """
    count = len(logits)
    own = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    invalid = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    invalid[:count] = ~valid
    answers = torch.arange(count, device=logits.device)
    hidden = (left_out | invalid) & ~own
    forth = F.cross_entropy(logits.masked_fill(hidden, -torch.inf), answers, reduction="none")
    hidden = (left_out[:, :count].T | invalid[:count]) & ~own[:, :count]
    back = F.cross_entropy(logits[:, :count].T.masked_fill(hidden, -torch.inf), answers, reduction="none")
    return torch.where(valid, (forth + back) / 2, torch.zeros_like(forth))


def pair_mean(values: Tensor, valid: Tensor) -> Tensor:
    """[2B] values of two pairs a sample, first those of one kind -> [B], the mean over the valid ones."""
    values = torch.where(valid, values, torch.zeros_like(values))
    by_sample, count = values.view(2, -1).sum(0), valid.view(2, -1).sum(0)
    return by_sample / count.clamp(min=1)


def next_token_losses(logits: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens behind the first, [N]; logits [N,L,T], ids [N,L], lengths [N] with both ends."""
    inside = torch.arange(1, ids.shape[1], device=ids.device) < lengths[:, None]
    return token_loss(logits[:, :-1], ids[:, 1:].masked_fill(~inside, IGNORED)).values

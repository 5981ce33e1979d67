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
    count = len(image_features)
    cosines = F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T
    logits = scale * cosines
    number = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    ids = torch.tensor([number[text] for text in texts], device=logits.device)
    absent = torch.tensor([text == "" for text in texts], device=logits.device)
    absent[:count] |= ~valid
    own = torch.eye(count, len(texts), dtype=torch.bool, device=logits.device)
    same = ids[:count, None] == ids
    answers = torch.arange(count, device=logits.device)
    to_text = F.cross_entropy(logits.masked_fill((same | absent) & ~own, -torch.inf), answers, reduction="none")
    no_image = (same[:, :count] | ~valid) & ~own[:, :count]
    to_image = F.cross_entropy(logits[:, :count].T.masked_fill(no_image, -torch.inf), answers, reduction="none")
    return torch.where(valid, (to_text + to_image) / 2, torch.zeros_like(to_text))


def next_token_losses(logits: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens behind the first, [N]; logits [N,L,T], ids [N,L], lengths [N] with both ends."""
    inside = torch.arange(1, ids.shape[1], device=ids.device) < lengths[:, None]
    return token_loss(logits[:, :-1], ids[:, 1:].masked_fill(~inside, IGNORED)).values

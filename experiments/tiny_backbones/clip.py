"""Training of the tiny CLIP: contrast with hard negatives, helped by a caption decoder that is thrown away.

Both images of a sample are used: the source with its caption, the target with its caption or the response. As the two
differ by one edit they are hard negatives of each other; captions with exchanged words are added to them.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.schema import Batch
from experiments.tiny_backbones.clip_model import CaptionDecoder, ClipSize, build_clip, image_states, text_states
from experiments.tiny_backbones.hard_negatives import wrong_caption
from mmig.language.token_loss import IGNORED, token_loss
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

MAX_SCALE = math.log(100.0)
"""Upper bound of the learned log temperature, as in CLIP (arXiv 2103.00020, section 2.5)."""


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


class ClipModule(TrainingModule):
    """Trains both towers from scratch. Negatives come from the micro-batch, so keep it the whole batch.

    Args:
        optimizer, loss_weights, seed, micro_batch_size: see `TrainingModule`; the terms are "contrastive", "caption".
        tokenizer: folder of the CLIP tokenizer.
        size: widths of the towers.
        swaps: words that exclude each other, by name, for hard negatives; one of them a target caption.
        response_share: how often the target's text is the response instead of its caption.
    """

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        tokenizer: str,
        swaps: dict[str, list[str]],
        size: ClipSize | None = None,
        response_share: float = 0.5,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights, seed, micro_batch_size)
        from transformers import CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.size = size or ClipSize()
        self.swaps = swaps
        self.response_share = response_share
        torch.manual_seed(seed)
        self.clip = build_clip(self.size, len(self.tokenizer))
        self.decoder = CaptionDecoder(self.size.text_width, self.size.vision_width, head_width=self.size.head_width)

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids [N,L], cut after the longest text, and lengths [N] with start and end; on this module's device."""
        encoded = self.tokenizer(
            list(texts),
            padding="longest",
            truncation=True,
            max_length=self.size.context_length,
            return_tensors="pt",
        ).to(self.device)
        return encoded.input_ids, encoded.attention_mask.sum(1)

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Contrastive and next-token loss of each sample with an image that has a text, the mean over its pairs."""
        source = batch["has_source"] & batch["has_source_caption"]
        target = batch["has_target"] & (batch["has_target_caption"] | batch["has_response"])
        forward = cache(lambda: self._forward(batch, draws))
        return {
            name: LossTerm(source | target, lambda place=place: forward()[place])
            for place, name in enumerate(("contrastive", "caption"))
        }

    def _forward(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        target_texts = self._target_texts(batch, draws)
        seeds = draws.integers("wrong caption", 2**31).tolist()
        wrong = [wrong_caption(text, self.swaps, seed) for text, seed in zip(target_texts, seeds, strict=True)]
        texts = [*batch["source_caption"], *target_texts, *wrong]
        has_text = torch.tensor([bool(text) for text in texts], device=self.device)
        valid = torch.cat([batch["has_source"], batch["has_target"]]) & has_text[: 2 * len(wrong)]
        features, patches = image_states(self.clip, torch.cat([batch["source"], batch["target"]]))
        ids, lengths = self.tokens(texts)
        text_features, states = text_states(self.clip, ids)
        scale = self.clip.logit_scale.clamp(max=MAX_SCALE).exp()
        contrastive = contrastive_losses(features, text_features, texts, valid, scale)
        count = len(valid)
        logits = self.decoder(states[:count], patches, self.clip.token_embedding.weight)
        caption = next_token_losses(logits, ids[:count], lengths[:count]) * valid
        self._scale = scale.detach()
        return _pair_mean(contrastive, valid), _pair_mean(caption, valid)

    def _target_texts(self, batch: Batch, draws: Draws) -> list[str]:
        use_response = draws.bernoulli("response", self.response_share).tolist()
        pairs = zip(use_response, batch["response"], batch["target_caption"], strict=True)
        return [(response or caption) if use else (caption or response) for use, response, caption in pairs]

    def logged(self) -> dict[str, Tensor]:
        """The factor of the cosines."""
        return {"scale": self._scale}


def _pair_mean(values: Tensor, valid: Tensor) -> Tensor:
    """[2B] values of source and target pairs -> [B], the mean over the valid ones."""
    by_sample, count = values.view(2, -1).sum(0), valid.view(2, -1).sum(0)
    return by_sample / count.clamp(min=1)

"""Training of the tiny CLIP: contrast with hard negatives, helped by dense objectives that are thrown away.

Both images of a sample are used: the source with its caption, the target with its caption or the response. As the two
differ by one edit they are hard negatives of each other; captions with exchanged words are added to them. Contrast
alone learns slowly which colour belongs to which shape where: a captioning decoder reads the patches, and readers tell
what stands at each place from patches, class tokens and texts.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from experiments.tiny_backbones.augmentation import Augmentation, augmented
from experiments.tiny_backbones.clip_losses import contrastive_losses, next_token_losses, pair_mean
from experiments.tiny_backbones.clip_model import (
    CaptionDecoder,
    ClipSize,
    ImageStates,
    build_clip,
    image_states,
    text_states,
)
from experiments.tiny_backbones.hard_negatives import wrong_caption
from experiments.tiny_backbones.scene_reader import SceneReader, are_known, edit_labels, reading_losses, scene_labels
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

MAX_SCALE = math.log(100.0)
"""Upper bound of the learned log temperature, as in CLIP (arXiv 2103.00020, section 2.5)."""
FIELDS = ("source", "target")


class Pairs(NamedTuple):
    """Images and texts of a batch through both towers: first all sources, then all targets, 2B pairs.

    Attributes:
        images: states of the images.
        text_features, text_states, ids, lengths: of the pairs' texts and, behind them, of their hard negatives.
        texts: these texts.
    """

    images: ImageStates
    text_features: Tensor
    text_states: Tensor
    ids: Tensor
    lengths: Tensor
    texts: Sequence[str]


class ClipModule(TrainingModule):
    """Trains both towers from scratch. Negatives come from the micro-batch, so keep it the whole batch.

    Args:
        optimizer, loss_weights, seed, micro_batch_size: see `TrainingModule`; for the terms see `losses`. One without a
            weight is not computed.
        tokenizer: folder of the CLIP tokenizer.
        size: widths of the towers.
        swaps: words that exclude each other, by name, for hard negatives; one of each caption.
        response_share: how often the target's text is the response instead of its caption.
        augmentation: faults that the training images get; None for none.
    """

    known_losses = ("contrastive", "caption", "dense_patches", "dense_class_tokens", "dense_texts", "dense_edits")

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        tokenizer: str,
        swaps: dict[str, list[str]],
        size: ClipSize | None = None,
        response_share: float = 0.5,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights, seed, micro_batch_size)
        from transformers import CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.size = size = size or ClipSize()
        self.swaps = swaps
        self.response_share = response_share
        self.augmentation = augmentation
        torch.manual_seed(seed)
        self.clip = build_clip(size, len(self.tokenizer))
        if "caption" in loss_weights:
            self.decoder = CaptionDecoder(size.text_width, size.vision_width, head_width=size.head_width)
        self.patch_reader = SceneReader(size.vision_width)
        self.class_token_reader = SceneReader(size.vision_width)
        self.text_reader = SceneReader(size.text_width)
        self.edit_readers = nn.ModuleList(SceneReader(size.text_width) for _ in ("before", "after"))

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
        """Each term of a sample is the mean over its one or two pairs that have what the term needs.

        "contrastive" and "caption" (next token, from the patches) need an image with a text; "dense_patches",
        "dense_class_tokens" and "dense_texts" an image, or a text, whose scene graph is known; "dense_edits" reads the
        object of an edit, before and after it, from the edit's expressive text.
        """
        texts = [*batch["source_caption"], *self._target_texts(batch, draws)]
        has_text = torch.tensor([bool(text) for text in texts], device=self.device)
        has_image = torch.cat([batch["has_source"], batch["has_target"]])
        scenes = [known.get(f"{field}_scene") for field in FIELDS for known in batch["metadata"]]
        has_scene = are_known(scenes).to(self.device)
        labels = scene_labels(scenes).to(self.device)
        pairs = cache(lambda: self._pairs(batch, texts, draws))
        described, seen, told = has_image & has_text, has_image & has_scene, has_text & has_scene
        count = len(texts)

        def term(valid: Tensor, values: Callable[[], Tensor]) -> LossTerm:
            return LossTerm(valid.view(2, -1).any(0), lambda: pair_mean(values(), valid))

        def dense(reader: SceneReader, valid: Tensor, states: Callable[[], Tensor]) -> LossTerm:
            return term(valid, lambda: reading_losses(reader(states()), labels))

        terms = {
            "contrastive": term(described, lambda: self._contrastive(pairs(), described)),
            "caption": term(described, lambda: self._captioning(pairs())),
            "dense_patches": dense(self.patch_reader, seen, lambda: pairs().images.patches),
            "dense_class_tokens": dense(self.class_token_reader, seen, lambda: pairs().images.class_tokens),
            "dense_texts": dense(self.text_reader, told, lambda: pairs().text_states[:count]),
            "dense_edits": self._edit_term(batch),
        }
        return {name: terms[name] for name in self.loss_weights}

    def _edit_term(self, batch: Batch) -> LossTerm:
        described = zip(batch["metadata"], batch["expressive"], strict=True)
        edits = [known.get("edit") if text else None for known, text in described]
        labels = [part.to(self.device) for part in edit_labels(edits)]

        def values() -> Tensor:
            states = text_states(self.clip, self.tokens(batch["expressive"])[0])[1]
            read = zip(self.edit_readers, labels, strict=True)
            return sum(reading_losses(reader(states), part) for reader, part in read)

        return LossTerm(torch.tensor([edit is not None for edit in edits], device=self.device), values)

    def _pairs(self, batch: Batch, texts: Sequence[str], draws: Draws) -> Pairs:
        seeds = [seed for field in FIELDS for seed in draws.integers(f"wrong caption of {field}", 2**31).tolist()]
        wrong = [wrong_caption(text, self.swaps, seed) for text, seed in zip(texts, seeds, strict=True)]
        images = [batch["source"], batch["target"]]
        if self.augmentation is not None and self.training:
            images = [
                augmented(part, self.augmentation, draws, name) for part, name in zip(images, FIELDS, strict=True)
            ]
        ids, lengths = self.tokens([*texts, *wrong])
        features, states = text_states(self.clip, ids)
        return Pairs(image_states(self.clip, torch.cat(images)), features, states, ids, lengths, [*texts, *wrong])

    def _contrastive(self, pairs: Pairs, described: Tensor) -> Tensor:
        scale = self.clip.logit_scale.clamp(max=MAX_SCALE).exp()
        self._scale = scale.detach()
        return contrastive_losses(pairs.images.features, pairs.text_features, pairs.texts, described, scale)

    def _captioning(self, pairs: Pairs) -> Tensor:
        count = len(pairs.images.features)
        logits = self.decoder(pairs.text_states[:count], pairs.images.patches, self.clip.token_embedding.weight)
        return next_token_losses(logits, pairs.ids[:count], pairs.lengths[:count])

    def _target_texts(self, batch: Batch, draws: Draws) -> list[str]:
        use_response = draws.bernoulli("response", self.response_share).tolist()
        pairs = zip(use_response, batch["response"], batch["target_caption"], strict=True)
        return [(response or caption) if use else (caption or response) for use, response, caption in pairs]

    def logged(self) -> dict[str, Tensor]:
        """The factor of the cosines."""
        return {"scale": self._scale}

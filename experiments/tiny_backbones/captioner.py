"""Training of the tiny captioner: `Blip2ForConditionalGeneration` with all parts trained together.

The published model is trained in two stages with frozen ViT and OPT (`reference/mmig.md` section 6); at this size
one stage with the stage-2 loss is enough. The ViT may start from the tiny CLIP's image tower, and it is taught beside
the captions what each patch shows, by the masks of the concepts: from captions alone it learns that very slowly.
"""

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.schema import Batch
from experiments.tiny_backbones.captioner_model import CaptionerSize, build_captioner, start_from_clip
from experiments.tiny_backbones.clip_model import normalise_images
from experiments.tiny_backbones.prompt import padded_rows
from mmig.language.token_loss import token_loss
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm


def patch_words(masks: Tensor, concepts: Sequence[Sequence[Sequence[int]]], patch: int, vocabulary: int) -> Tensor:
    """Which words each patch shows: for each patch the tokens of the concepts on it, weighted by their share of it.

    Args:
        masks: [B,K,H,W] in {0,1}; K may be larger than a sample's number of concepts.
        concepts: token ids of the phrase of each concept of each sample.
        patch: side of a patch in pixels.
        vocabulary: T.

    Returns:
        Weights [B,P,T] that sum to 1 over T, or to 0 where no concept is.
    """
    shares = F.avg_pool2d(masks, patch).flatten(2)
    words = torch.zeros(*shares.shape[:2], vocabulary, device=masks.device)
    for row, phrases in enumerate(concepts):
        for number, ids in enumerate(phrases):
            words[row, number, list(ids)] = 1 / max(1, len(set(ids)))
    weights = torch.einsum("bkp,bkt->bpt", shares, words)
    total = weights.sum(-1, keepdim=True)
    return weights / total.where(total > 0, 1)


class CaptionerModule(TrainingModule):
    """Trains the captioner on the target images and their captions (a sample without target shows its source).

    Args:
        optimizer, loss_weights, seed, micro_batch_size: see `TrainingModule`; the terms are "caption" and "concepts",
            the cross-entropy of the words of the concept under each patch.
        tokenizer: folder of the OPT-like tokenizer.
        size: widths.
        clip_vision: folder of a `CLIPVisionModel` to start the ViT from; None trains it from scratch.
    """

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        tokenizer: str,
        size: CaptionerSize | None = None,
        clip_vision: str | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights, seed, micro_batch_size)
        from transformers import GPT2Tokenizer

        self.tokenizer = GPT2Tokenizer.from_pretrained(tokenizer)
        torch.manual_seed(seed)
        self.captioner = build_captioner(size or CaptionerSize(), self.tokenizer)
        vision = self.captioner.config.vision_config
        self.patch_size = vision.patch_size
        self.word_head = torch.nn.Linear(vision.hidden_size, len(self.tokenizer))  # for "concepts" only, not exported
        self.clip_vision = clip_vision

    def on_fit_start(self) -> None:
        """Start the ViT from CLIP's, unless the run is a continued one."""
        super().on_fit_start()
        if self.clip_vision is None or self.step > 0:
            return
        from transformers import CLIPVisionModel

        clip = CLIPVisionModel.from_pretrained(self.clip_vision, dtype=torch.float32)
        batch = next(iter(self.trainer.datamodule.val_dataloader()))
        start_from_clip(self.captioner, clip, normalise_images(batch["source"]))

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Mean cross-entropy of each sample's caption tokens with the end, and of the words of its patches.

        Counted are caption tokens with the end (0 without image or caption), and targets with concepts.
        """
        captions = self._captions(batch, batch["has_target"])
        answers = [self.tokenizer(text, add_special_tokens=False).input_ids for text in captions]
        tokens = torch.tensor([len(answer) + 1.0 for answer in answers], device=self.device)
        has_text = torch.tensor([bool(text) for text in captions], device=self.device)
        has_image = (batch["has_target"] | batch["has_source"]).to(self.device)
        has_concepts = (batch["has_target"] & batch["has_concept_masks"].any(1)).to(self.device)
        forward = cache(lambda: self._forward(batch, answers))
        return {
            "caption": LossTerm(tokens * (has_image & has_text), lambda: forward()[0]),
            "concepts": LossTerm(has_concepts, lambda: self._concept_losses(batch, forward()[1])),
        }

    def _forward(self, batch: Batch, answers: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of each caption's tokens [B], and the states of the patches [B,N,D]."""
        pixels = torch.where(batch["has_target"][:, None, None, None], batch["target"], batch["source"])
        ids, mask, labels = (x.to(self.device) for x in self._rows(answers))
        output = self.captioner(
            pixel_values=normalise_images(pixels), input_ids=ids, attention_mask=mask, use_cache=False
        )
        patches = output.vision_outputs.last_hidden_state[:, 1:]
        return token_loss(output.logits[:, :-1], labels[:, 1:]).values, patches

    def _concept_losses(self, batch: Batch, patches: Tensor) -> Tensor:
        """Cross-entropy of the words under each patch, mean over the patches with a concept, [B]."""
        phrases = [
            [self.tokenizer(f" {phrase}", add_special_tokens=False).input_ids for phrase in of_sample]
            for of_sample in batch["concepts"]
        ]
        masks = batch["concept_masks"] * batch["has_concept_masks"][..., None, None]
        words = patch_words(masks, phrases, self.patch_size, len(self.tokenizer))
        losses = -(words * self.word_head(patches).log_softmax(-1)).sum(-1)
        return losses.sum(1) / words.sum((1, 2)).clamp(min=1)

    def _captions(self, batch: Batch, shows_target: Tensor) -> list[str]:
        rows = zip(shows_target.tolist(), batch["source_caption"], batch["target_caption"], strict=True)
        return [target if use_target else source for use_target, source, target in rows]

    def _rows(self, answers: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Placeholders for the queries, start, caption, end; labels on caption and end only."""
        config = self.captioner.config
        prefix = [config.image_token_index] * config.num_query_tokens + [self.tokenizer.bos_token_id]
        pairs = [(prefix, [*answer, self.tokenizer.eos_token_id]) for answer in answers]
        return padded_rows(pairs, self.tokenizer.pad_token_id)

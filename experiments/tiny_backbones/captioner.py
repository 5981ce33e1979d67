"""Training of the tiny captioner: `Blip2ForConditionalGeneration` with all parts trained together.

The published model is trained in two stages with frozen ViT and OPT (`reference/mmig.md` section 6); at this size
one stage with the stage-2 loss is enough. The ViT may start from the tiny CLIP's image tower. Beside the captions
readers of the scene, thrown away afterwards, ask what stands at each place: from captions alone the queries learn very
slowly to say where they look.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.schema import Batch
from experiments.tiny_backbones.captioner_model import CaptionerSize, build_captioner, start_from_clip
from experiments.tiny_backbones.clip_model import normalise_images
from experiments.tiny_backbones.prompt import padded_rows
from experiments.tiny_backbones.scene_reader import SceneReader, are_known, reading_losses, scene_labels
from mmig.language.token_loss import token_loss
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm


class Passed(NamedTuple):
    """A batch through the captioner.

    Attributes:
        losses: mean cross-entropy of each caption's tokens, [B].
        patches, queries: states of the ViT's patches [B,N,D] and of the Q-Former's queries [B,Q,D].
    """

    losses: Tensor
    patches: Tensor
    queries: Tensor


class CaptionerModule(TrainingModule):
    """Trains the captioner on the target images and their captions (a sample without target shows its source).

    Args:
        optimizer, loss_weights, seed, micro_batch_size: see `TrainingModule`; for the terms see `losses`.
        tokenizer: folder of the OPT-like tokenizer.
        size: widths.
        clip_vision: folder of a `CLIPVisionModel` to start the ViT from; None trains it from scratch.
    """

    known_losses = ("caption", "dense_patches", "dense_queries")

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
        self.patch_reader = SceneReader(self.captioner.config.vision_config.hidden_size)
        self.query_reader = SceneReader(self.captioner.config.qformer_config.hidden_size)
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
        """Mean cross-entropy of each sample's caption tokens with the end, and what stands at each place.

        "caption" counts tokens with the end (0 without image or caption); "dense_patches" and "dense_queries" need an
        image whose scene graph is known.
        """
        captions = self._captions(batch, batch["has_target"])
        answers = [self.tokenizer(text, add_special_tokens=False).input_ids for text in captions]
        tokens = torch.tensor([len(answer) + 1.0 for answer in answers], device=self.device)
        has_text = torch.tensor([bool(text) for text in captions], device=self.device)
        has_image = batch["has_target"] | batch["has_source"]
        shown = ["target" if target else "source" for target in batch["has_target"].tolist()]
        scenes = [known.get(f"{field}_scene") for field, known in zip(shown, batch["metadata"], strict=True)]
        seen = has_image & are_known(scenes).to(self.device)
        labels = scene_labels(scenes).to(self.device)
        passed = cache(lambda: self._passed(batch, answers))

        def dense(reader: SceneReader, states: Callable[[], Tensor]) -> LossTerm:
            return LossTerm(seen, lambda: reading_losses(reader(states()), labels))

        return {
            "caption": LossTerm(tokens * (has_image & has_text), lambda: passed().losses),
            "dense_patches": dense(self.patch_reader, lambda: passed().patches),
            "dense_queries": dense(self.query_reader, lambda: passed().queries),
        }

    def _passed(self, batch: Batch, answers: list[list[int]]) -> Passed:
        pixels = torch.where(batch["has_target"][:, None, None, None], batch["target"], batch["source"])
        ids, mask, labels = (x.to(self.device) for x in self._rows(answers))
        output = self.captioner(
            pixel_values=normalise_images(pixels), input_ids=ids, attention_mask=mask, use_cache=False
        )
        losses = token_loss(output.logits[:, :-1], labels[:, 1:]).values
        patches = output.vision_outputs.last_hidden_state[:, 1:]
        return Passed(losses, patches, output.qformer_outputs.last_hidden_state)

    def _captions(self, batch: Batch, shows_target: Tensor) -> list[str]:
        rows = zip(shows_target.tolist(), batch["source_caption"], batch["target_caption"], strict=True)
        return [target if use_target else source for use_target, source, target in rows]

    def _rows(self, answers: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Placeholders for the queries, start, caption, end; labels on caption and end only."""
        config = self.captioner.config
        prefix = [config.image_token_index] * config.num_query_tokens + [self.tokenizer.bos_token_id]
        pairs = [(prefix, [*answer, self.tokenizer.eos_token_id]) for answer in answers]
        return padded_rows(pairs, self.tokenizer.pad_token_id)

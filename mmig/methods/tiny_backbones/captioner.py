"""Training of the tiny captioner: `Blip2ForConditionalGeneration` with all parts trained together.

The published model is trained in two stages with frozen ViT and OPT (`reference/mmig.md` section 6); at this size
one stage with the stage-2 loss is enough. The ViT may start from the tiny CLIP's image tower.
"""

import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.methods.tiny_backbones.captioner_model import CaptionerSize, build_captioner, start_from_clip
from mmig.methods.tiny_backbones.clip_model import normalise_images
from mmig.methods.tiny_backbones.prompt import padded_rows, token_losses
from mmig.optim import OptimizerConfig
from mmig.rng import Draws
from mmig.stages.base import TrainingModule


class CaptionerModule(TrainingModule):
    """Trains the captioner; each sample shows either its source or its target image with that image's caption.

    Args:
        optimizer, loss_weights, seed, micro_batch_size: see `TrainingModule`; the one term is "caption".
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

    def losses(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Mean cross-entropy of each sample's caption tokens and end of sequence."""
        shows_target = self._shows_target(batch)
        pixels = torch.where(shows_target[:, None, None, None], batch["target"], batch["source"])
        ids, mask, labels = (x.to(self.device) for x in self._rows(self._captions(batch, shows_target)))
        output = self.captioner(
            pixel_values=normalise_images(pixels), input_ids=ids, attention_mask=mask, use_cache=False
        )
        return {"caption": token_losses(output.logits, labels)[0]}

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Caption tokens of each sample, end of sequence included; 0 without the image or its caption."""
        shows_target = self._shows_target(batch)
        captions = self._captions(batch, shows_target)
        lengths = [len(self.tokenizer(text, add_special_tokens=False).input_ids) + 1 for text in captions]
        has_image = torch.where(shows_target, batch["has_target"], batch["has_source"]).to(self.device)
        has_text = torch.tensor([bool(text) for text in captions], device=self.device)
        return {"caption": torch.tensor(lengths, dtype=torch.float32, device=self.device) * (has_image & has_text)}

    def _shows_target(self, batch: Batch) -> Tensor:
        """Which image is shown, bool [B]: by the sample's place in the stream, so that both get their turn."""
        turn = (batch["position"] % 2 == 1).to(batch["target"].device)
        return batch["has_target"] & (turn | ~batch["has_source"])

    def _captions(self, batch: Batch, shows_target: Tensor) -> list[str]:
        rows = zip(shows_target.tolist(), batch["source_caption"], batch["target_caption"], strict=True)
        return [target if use_target else source for use_target, source, target in rows]

    def _rows(self, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Placeholders for the queries, start, caption, end; labels on caption and end only."""
        config = self.captioner.config
        prefix = [config.image_token_index] * config.num_query_tokens + [self.tokenizer.bos_token_id]
        answers = [self.tokenizer(text, add_special_tokens=False).input_ids for text in captions]
        pairs = [(prefix, [*answer, self.tokenizer.eos_token_id]) for answer in answers]
        return padded_rows(pairs, self.tokenizer.pad_token_id)

"""Training of the tiny ImageBind: texts and sounds are each contrasted with pictures, never with each other
(Girdhar et al. 2023, eq 1); that they come near each other too is what the method is about.

All three towers learn from scratch, where the published picture and text towers were a frozen CLIP. Both pictures of a
sample are used: as they differ by one edit they are hard negatives of each other, and a sound says what only the target
shows. In a world of few words many pictures of a batch show what a sound stands for; they are no negatives of it.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.schema import Batch
from experiments.tiny_backbones.clip_losses import contrastive_losses, pair_mean, paired_contrast
from experiments.tiny_backbones.hard_negatives import wrong_caption
from experiments.tiny_backbones.imagebind_meanings import shows
from experiments.tiny_backbones.imagebind_size import ImageBindSize, tiny_config
from mmig.backbones.imagebind import text_ids
from mmig.backbones.imagebind_model import ImageBindModel
from mmig.diffusion.saving import save_parts
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

ABOUT = "A tiny ImageBind of the small world: pictures, captions and synthesised sounds in one space."
FIELDS = ("target", "source")
"""In this order the 2B pictures of a batch come: the targets are what sounds belong to."""


class ImageBindModule(TrainingModule):
    """Trains the three towers. Negatives come from the micro-batch, so keep it the whole batch.

    Args:
        optimizer, loss_weights, seed, micro_batch_size: see `TrainingModule`; for the terms see `losses`. One without a
            weight is not computed.
        tokenizer: folder of the CLIP tokenizer.
        swaps: words that exclude each other, by name, for hard negatives of captions.
        size: widths of the towers.
    """

    known_losses = ("text", "audio", "word")
    hub_task: ClassVar[str] = ""

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        tokenizer: str,
        swaps: dict[str, list[str]],
        size: ImageBindSize | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights, seed, micro_batch_size)
        from transformers import CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.swaps = swaps
        torch.manual_seed(seed)
        self.encoder = ImageBindModel(tiny_config(size or ImageBindSize(), self.tokenizer))

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """InfoNCE against the pictures, in both directions, at ImageBind's temperatures.

        "text": each picture with its caption, wrong captions beside them; a sample's mean over its one or two pairs.
        "audio": the sound of a sample with its target. "word": the word for what it stands for with the same, so that
        a word alone has its place beside the captions. Both need the target's scene graph and `metadata.sound`.
        """
        pictures = cache(lambda: self.encoder.embed_images(torch.cat([batch[field] for field in FIELDS])))
        captions = [text for field in FIELDS for text in batch[f"{field}_caption"]]
        has_image = torch.cat([batch[f"has_{field}"] for field in FIELDS])
        described = has_image & torch.tensor([bool(text) for text in captions], device=self.device)
        names = [known.get("sound", "") for known in batch["metadata"]]
        named = torch.tensor([bool(name) for name in names], device=self.device) & batch["has_target"]
        sounds, samples, has_sound = self._sounds(batch)

        def bound(vectors: Tensor, valid: Tensor) -> Tensor:
            scenes = [known.get(f"{field}_scene") for field in FIELDS for known in batch["metadata"]]
            left_out = shows(scenes, names).to(self.device) | ~has_image
            return paired_contrast(vectors @ pictures().T, left_out, valid)

        terms = {
            "text": LossTerm(
                described.view(2, -1).any(0),
                lambda: pair_mean(self._captioned(pictures(), captions, described, draws), described),
            ),
            "audio": LossTerm(
                named & has_sound,
                lambda: bound(self.encoder.embed_sounds(sounds, samples, scaled=True), named & has_sound),
            ),
            "word": LossTerm(named, lambda: bound(self._texts(names, scaled=True), named)),
        }
        return {name: terms[name] for name in self.loss_weights}

    def _captioned(self, pictures: Tensor, captions: Sequence[str], described: Tensor, draws: Draws) -> Tensor:
        seeds = [seed for field in FIELDS for seed in draws.integers(f"wrong caption of {field}", 2**31).tolist()]
        wrong = [wrong_caption(text, self.swaps, seed) for text, seed in zip(captions, seeds, strict=True)]
        texts = [*captions, *wrong]
        return contrastive_losses(pictures, self._texts(texts), texts, described, self.encoder.text_scale)

    def _texts(self, texts: Sequence[str], scaled: bool = False) -> Tensor:
        return self.encoder.embed_texts(text_ids(self.tokenizer, texts).to(self.device), scaled=scaled)

    def _sounds(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The first sound of each sample [B,n], its length [B] and whether there is one [B]; a batch may have none."""
        if batch["attachment_audio"].shape[1] == 0:
            nothing = torch.zeros(len(batch["key"]), 1, device=self.device)
            return nothing, nothing[:, 0].long(), nothing[:, 0].bool()
        names = ("attachment_audio", "attachment_audio_samples", "has_attachment_audio")
        sounds, samples, has = (batch[name][:, 0] for name in names)
        return sounds, samples, has

    def logged(self) -> dict[str, Tensor]:
        """The factor of the cosines of texts; that of sounds is 20."""
        return {"text_scale": self.encoder.text_scale.detach()}

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """imagebind/: the encoder and its tokenizer, so that a run of it serves where an ImageBind is named."""
        save_parts(folder, {"imagebind": self.encoder})
        self.tokenizer.save_pretrained(folder / "imagebind")
        return ABOUT

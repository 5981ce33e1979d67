"""BLIP-2 in MMIG: the caption of the new image (eq 4) and its loss (L_BLIP2 of eq 22).

The captioner itself is transformers' `Blip2ForConditionalGeneration`. L_BLIP2 is the loss of BLIP-2's second stage
(Li et al. 2023, section 3.3): cross-entropy of the frozen language model on the caption; what trains is the Q-Former
(Q-Former, its projection, the queries). How a denoiser's prediction becomes an image for it is in `image_path.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmig.backbones.blip2 import load_blip2, load_blip2_processor
from mmig.backbones.loading import remove_dropout
from mmig.evaluation.pictures import tower_pixels
from mmig.language.greedy import plain_generation
from mmig.language.token_loss import IGNORED, TokenLoss, token_loss
from mmig.training.modes import evaluating

if TYPE_CHECKING:
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

QFORMER = ("qformer.", "language_projection.", "query_tokens")
"""Where the names of the trained weights begin."""
BICUBIC = 3
MAX_TOKENS = 64
"""Of a caption, written or measured; a longer one is cut and has no end then."""


def trainable_parameters(model: "Blip2ForConditionalGeneration") -> dict[str, nn.Parameter]:
    """Q-Former, projection and queries by name; 107,130,880 numbers at the published size."""
    return {name: value for name, value in model.named_parameters() if name.startswith(QFORMER)}


def check_placeholders(ids: Tensor, image_token: int, expected: int) -> None:
    """Refuse rows in which the image has not exactly its places: without them BLIP-2 ignores it and says nothing.

    Args:
        ids: [B,L].
        image_token: id of the placeholder.
        expected: number of query tokens.

    Raises:
        ValueError: naming the first wrong row.
    """
    counts = (ids == image_token).sum(dim=1).tolist()
    for row, found in enumerate(counts):
        if found != expected:
            raise ValueError(
                f"captioner: row {row} of the batch has {found} image placeholders (token {image_token}), expected "
                f"{expected}; give one for each query, and no placeholder inside a caption"
            )


class Captioner(nn.Module):
    """Captions images and measures captions with a BLIP-2.

    Everything is frozen, and the frozen parts' dropouts are 0, until `set_trainable`.

    Args:
        model: a BLIP-2 with a decoder-only language model (OPT).
        processor: its processor; only the tokenizer and the numbers of the image processor are used.

    Raises:
        ValueError: model and processor do not fit each other, or are of a kind that is not supported.
    """

    def __init__(self, model: "Blip2ForConditionalGeneration", processor: "Blip2Processor") -> None:
        super().__init__()
        _check_fit(model, processor)
        self.model, self.processor = model, processor
        self.tokenizer = processor.tokenizer
        images, text = processor.image_processor, model.config.text_config
        self.size = (images.size["height"], images.size["width"])
        self.mean, self.std = tuple(images.image_mean), tuple(images.image_std)
        self.image_token, self.num_query_tokens = model.config.image_token_id, model.config.num_query_tokens
        # the end is the config's, not the tokenizer's: the published OPT models were taught to end with a line break
        ends = text.eos_token_id
        self.start, self.end = text.bos_token_id, ends[0] if isinstance(ends, list) else ends
        pad = self.tokenizer.pad_token_id
        self.pad = self.end if pad is None else pad
        for part in (model.vision_model, model.language_model):
            remove_dropout(part)
        # a trained Q-Former is in float32 behind a bfloat16 image tower, and transformers casts its output back
        model.language_projection.register_forward_pre_hook(_match_dtype)
        self.set_trainable(False)

    def set_trainable(self, trainable: bool = True) -> "Captioner":
        """Let the Q-Former with its queries and projection train in float32, or freeze it; the towers stay frozen.

        Returns itself.
        """
        self.model.requires_grad_(False)
        for parameter in trainable_parameters(self.model).values():
            parameter.requires_grad_(trainable)
            if trainable:
                parameter.data = parameter.data.float()
        return self

    def pixels(self, images: Tensor) -> Tensor:
        """Pixels as the image tower expects them, from float images [B,3,H,W] in [-1,1]; see `tower_pixels`."""
        return tower_pixels(images, self.size, self.mean, self.std)

    @torch.no_grad()
    def caption(self, images: Tensor) -> list[str]:
        """Greedy captions d_new of images [B,3,H,W] in [-1,1] (MMIG paper, eq 4), whatever the checkpoint's defaults.

        Args:
            images: float, any size.
        """
        with evaluating(self.model), plain_generation(self.model.language_model):
            ids = self.model.generate(
                pixel_values=self.pixels(images),
                input_ids=torch.tensor([self._prefix()] * len(images), device=images.device),
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                num_beams=1,
                eos_token_id=self.end,
                pad_token_id=self.pad,
            )
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def encode(self, captions: Sequence[str]) -> list[list[int]]:
        """Ids of each caption and its end, which the loss counts; of a cut one without end, of an empty one none."""
        found = [self.tokenizer(caption.strip(), add_special_tokens=False)["input_ids"] for caption in captions]
        return [[*ids, self.end] if 0 < len(ids) <= MAX_TOKENS else ids[:MAX_TOKENS] for ids in found]

    def loss(self, images: Tensor, captions: Sequence[list[int]]) -> TokenLoss:
        """Cross-entropy of captions given their images, differentiable in both the Q-Former and the images.

        An empty caption (none is known) counts nothing, but its row runs like any other.

        Args:
            images: float [B,3,H,W], about in [-1,1].
            captions: one an image.

        Raises:
            ValueError: another number of captions than images, or a caption that holds the image placeholder.
        """
        if len(captions) != len(images):
            raise ValueError(f"captioner: {len(images)} images and {len(captions)} captions; give one caption an image")
        prefix = self._prefix()
        device, length = images.device, len(prefix)
        rows = [torch.tensor(prefix + (answer or [self.pad])) for answer in captions]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.pad)
        check_placeholders(ids, self.image_token, self.num_query_tokens)  # before the move, not to wait for a GPU
        ids, counts = ids.to(device), torch.tensor([len(answer) for answer in captions], device=device)
        places = torch.arange(ids.shape[1], device=device) - length
        labels = torch.where((places >= 0) & (places < counts[:, None]), ids, IGNORED)
        mask = (places < counts[:, None]).long()
        logits = self.model(
            pixel_values=self.pixels(images), input_ids=ids, attention_mask=mask, use_cache=False
        ).logits
        return token_loss(logits[:, length - 1 : -1], labels[:, length:])  # those at a token are about the one after it

    def _prefix(self) -> list[int]:
        return [self.image_token] * self.num_query_tokens + [self.start]


def _match_dtype(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].to(module.weight.dtype), *inputs[1:])


def _check_fit(model: "Blip2ForConditionalGeneration", processor: "Blip2Processor") -> None:
    config, images = model.config, processor.image_processor
    side = config.vision_config.image_size
    size = {name: images.size.get(name) for name in ("height", "width")}
    wrong = None
    if not config.use_decoder_only_language_model:
        wrong = "a decoder-only language model (OPT), found an encoder-decoder"
    elif config.image_token_id is None:
        wrong = "an image_token_index in its config, found none"
    elif processor.num_query_tokens != config.num_query_tokens:
        wrong = f"{config.num_query_tokens} queries, found {processor.num_query_tokens} in the processor"
    elif set(size.values()) != {side} or images.resample != BICUBIC:
        wrong = f"bicubic resizing to {side}x{side}, found {size} with filter {images.resample} in the processor"
    if wrong:
        raise ValueError(f"captioner: expected {wrong}; give a BLIP-2 and the processor of the same folder")


def load_captioner(
    path: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    trainable: bool = False,
    gradient_checkpointing: bool = False,
) -> Captioner:
    """The captioner of a BLIP-2 folder or hub id; frozen parts in `dtype`, trainable ones in float32.

    Raises:
        BackboneError: a missing or broken file.
        ValueError: model and processor do not fit each other.
    """
    options = {"dtype": dtype, "frozen": not trainable, "gradient_checkpointing": gradient_checkpointing}
    return Captioner(load_blip2(path, **options), load_blip2_processor(path)).set_trainable(trainable)

"""D_CLIP, the distance of a picture from a text in CLIP's space, with a gradient (StyleCLIP eq 6 and 8)."""

from collections.abc import Callable, Sequence

import open_clip
import torch
from torch import Tensor, nn

from mmig.backbones.clip import OpenClip
from mmig.methods.styleclip.errors import StyleClipError

ONE_TEMPLATE: tuple[Callable[[str], str], ...] = (str,)
"""The text as it is."""
PHOTO_TEMPLATES: tuple[Callable[[str], str], ...] = tuple(
    template for template in open_clip.OPENAI_IMAGENET_TEMPLATES if "many" not in template("")
)
"""CLIP's 80 sentences about a class of ImageNet without that of many of it: 79."""


def area_weights(num_in: int, num_out: int) -> Tensor:
    """Matrix [num_out,num_in] that brings a row of pixels to another number, as means over areas; rows sum to 1."""
    edges = torch.arange(num_out + 1, dtype=torch.float64) * num_in / num_out
    pixels = torch.arange(num_in, dtype=torch.float64)
    ends = torch.minimum(edges[1:, None], pixels[None] + 1)
    overlap = (ends - torch.maximum(edges[:-1, None], pixels[None])).clamp(min=0)
    return (overlap * num_out / num_in).float()


class ClipLoss(nn.Module):
    """A frozen CLIP that pictures can be moved by.

    The authors' code enlarges a picture seven times and averages it down to 224 pixels, which is a mean over areas with
    fractional overlaps, and gives CLIP values in [-1,1] as they are.

    Args:
        clip: from `load_loss_clip`.
        normalise: bring pictures to CLIP's mean and deviation, as it was trained; False is the authors' code.
    """

    def __init__(self, clip: OpenClip, normalise: bool = False) -> None:
        super().__init__()
        self.model, self.tokenizer = clip.model, clip.tokenizer
        self.image_size, self.context_length, self.normalise = clip.image_size, clip.context_length, normalise
        self.register_buffer("mean", torch.tensor(clip.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(clip.std).view(3, 1, 1), persistent=False)

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors [B,D] of pictures [B,3,H,W] in [-1,1]."""
        rows, columns = (area_weights(side, self.image_size).to(images) for side in images.shape[-2:])
        pixels = torch.einsum("ih,bchw,jw->bcij", rows, images, columns)
        if self.normalise:
            pixels = ((pixels + 1) / 2 - self.mean) / self.std
        return self.model.encode_image(pixels, normalize=True)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], templates: Sequence[Callable[[str], str]] = ONE_TEMPLATE) -> Tensor:
        """Unit vectors [B,D], each the mean of those of a text's sentences.

        Args:
            texts: prompts.
            templates: that make sentences of one.

        Raises:
            StyleClipError: a text that says nothing, or is longer than CLIP reads.
        """
        rows = []
        for text in texts:
            sentences = [template(text) for template in templates]
            self._check(text, sentences)
            tokens = self.tokenizer(sentences, context_length=self.context_length).to(self.mean.device)
            rows.append(self.model.encode_text(tokens, normalize=True).mean(0))
        return nn.functional.normalize(torch.stack(rows), dim=1)

    def distance(self, images: Tensor, texts: Tensor) -> Tensor:
        """D_CLIP = 1 - cos, [B], of pictures and unit vectors of texts [B,D]."""
        return 1 - (self.encode_images(images) * texts).sum(1)

    def _check(self, text: str, sentences: Sequence[str]) -> None:
        if not text.strip():
            raise StyleClipError("prompt: expected words that say what the picture is to show, found an empty text")
        tokens = self.tokenizer(sentences, context_length=self.context_length)
        longer = self.tokenizer(sentences, context_length=self.context_length + 1)  # one slot more shows what is cut
        if bool((longer[:, : self.context_length] != tokens).any()):
            raise StyleClipError(
                f"prompt: expected at most the {self.context_length} tokens that CLIP reads, found more in "
                f"{max(sentences, key=len)[:60]!r}; say it in fewer words"
            )

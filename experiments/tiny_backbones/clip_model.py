"""The tiny CLIP as an `open_clip.CLIP`, its batch-trimmed text pass, and the decoder that helps it to learn.

What is trained with which loss is in `clip.py`; the published layouts are in `clip_export.py`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mmig.backbones.clip_image import CLIP_MEAN, CLIP_STD
from mmig.methods.mmig.llm.visual_tokens import depths

if TYPE_CHECKING:
    from open_clip.model import CLIP


@dataclass
class ClipSize:
    """Widths of both towers.

    Attributes:
        embed_dim: width of the common space.
        image_size, patch_size: pixels.
        vision_width, vision_layers: image tower; heads are `head_width` wide in both towers.
        text_width, text_layers: text tower; its width is the UNet's cross-attention width.
        mlp_ratio: hidden width of the feed-forward layers over the tower's width.
        context_length: tokens a text may have, start and end included.
    """

    embed_dim: int = 128
    image_size: int = 64
    patch_size: int = 8
    vision_width: int = 128
    vision_layers: int = 6
    text_width: int = 128
    text_layers: int = 4
    head_width: int = 32
    mlp_ratio: float = 4.0
    context_length: int = 77


def model_config(size: ClipSize, vocabulary: int) -> dict[str, Any]:
    """`model_cfg` of open_clip_config.json; also the arguments of `open_clip.model.CLIP`."""
    return {
        "embed_dim": size.embed_dim,
        "quick_gelu": False,
        "vision_cfg": {
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            "width": size.vision_width,
            "layers": size.vision_layers,
            "head_width": size.head_width,
            "mlp_ratio": size.mlp_ratio,
        },
        "text_cfg": {
            "context_length": size.context_length,
            "vocab_size": vocabulary,
            "width": size.text_width,
            "heads": size.text_width // size.head_width,
            "layers": size.text_layers,
            "mlp_ratio": size.mlp_ratio,
        },
    }


def build_clip(size: ClipSize, vocabulary: int) -> "CLIP":
    """A randomly initialised open_clip model of this size."""
    from open_clip.model import CLIP

    return CLIP(**model_config(size, vocabulary))


def normalise_images(images: Tensor) -> Tensor:
    """[B,3,H,W] in [-1,1] -> the same pictures with CLIP's mean and standard deviation."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return ((images + 1) / 2 - mean) / std


class ImageStates(NamedTuple):
    """What the image tower makes of N images.

    Attributes:
        features: in the common space, [N,E].
        patches: last states of the patches, before the final norm, [N,P,W].
        class_tokens: the class token at the six depths where MMIG takes it, [N,6,W].
    """

    features: Tensor
    patches: Tensor
    class_tokens: Tensor


def image_states(model: "CLIP", images: Tensor) -> ImageStates:
    """States and features of images in [-1,1]."""
    found = model.visual.forward_intermediates(normalise_images(images), output_fmt="NLC", output_extra_tokens=True)
    class_tokens = found["image_intermediates_prefix"]
    chosen = [class_tokens[block - 1] for block in depths(len(class_tokens))]
    return ImageStates(found["image_features"], found["image_intermediates"][-1], torch.cat(chosen, dim=1))


def text_states(model: "CLIP", ids: Tensor) -> tuple[Tensor, Tensor]:
    """Projected text features [N,E] and token states [N,L,W]; `ids` [N,L] may be cut after the longest row's end.

    The tower is causal, so what is behind the end of text changes nothing before it.
    """
    length = ids.shape[1]
    states = model.token_embedding(ids) + model.positional_embedding[:length]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    ends = states[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]
    return ends @ model.text_projection, states


class CaptionDecoder(nn.Module):
    """Predicts each next token from the causal text state and the image's patches (as CoCa's upper decoder).

    It exists only while training: contrast alone learns slowly which colour belongs to which shape.
    """

    def __init__(self, text_width: int, vision_width: int, layers: int = 2, head_width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CrossAttentionLayer(text_width, vision_width, text_width // head_width) for _ in range(layers)
        )
        self.norm_patches, self.norm = nn.LayerNorm(vision_width), nn.LayerNorm(text_width)

    def forward(self, states: Tensor, patches: Tensor, embedding: Tensor) -> Tensor:
        """Logits [N,L,T] of the token behind each state, from states [N,L,W], patches [N,P,V], token table [T,W]."""
        patches = self.norm_patches(patches)
        for layer in self.layers:
            states = layer(states, patches)
        return self.norm(states) @ embedding.T


class CrossAttentionLayer(nn.Module):
    """Cross-attention to the patches and a feed-forward layer, both behind a norm."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, kdim=source_width, vdim=source_width, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, states: Tensor, patches: Tensor, hidden: Tensor | None = None) -> Tensor:
        """New states [N,L,W] from states [N,L,W] and patches [N,P,V]; those patches are not seen that are `hidden`."""
        asked = self.norm(states)
        states = states + self.attention(asked, patches, patches, key_padding_mask=hidden, need_weights=False)[0]
        return states + self.feed_forward(states)

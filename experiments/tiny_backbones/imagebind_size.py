"""Sizes of the tiny ImageBind and the configuration of its three towers: the published classes, made small."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.tiny_backbones.clip_model import ClipSize
from mmig.backbones.imagebind_model import ImageBindConfig

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


@dataclass
class ImageBindSize(ClipSize):
    """Widths of the towers of pictures and texts, see `ClipSize`, and of the third one.

    Attributes:
        audio_width, audio_layers: audio tower; its heads are `head_width` wide too.
        audio_patch, audio_stride: of its patches, in mel bins and frames.
        num_clips, clip_seconds: of a sound; those of the small world last 1.2 seconds at most, and one clip holds them.
        num_frames: of a clip's features.
    """

    vision_layers: int = 4
    text_layers: int = 2
    audio_width: int = 96
    audio_layers: int = 3
    audio_patch: int = 16
    audio_stride: int = 16
    num_clips: int = 1
    clip_seconds: float = 1.28
    num_frames: int = 128


def tiny_config(size: ImageBindSize, tokenizer: "CLIPTokenizer") -> ImageBindConfig:
    """The configuration of an `ImageBindModel` of this size."""

    def transformer(width: int, layers: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "intermediate_size": int(width * size.mlp_ratio),
            "num_hidden_layers": layers,
            "num_attention_heads": width // size.head_width,
            "projection_dim": size.embed_dim,
        }

    return ImageBindConfig(
        vision_config=transformer(size.vision_width, size.vision_layers)
        | {"image_size": size.image_size, "patch_size": size.patch_size},
        text_config=transformer(size.text_width, size.text_layers)
        | {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": size.context_length,
            **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
        },
        audio_config=transformer(size.audio_width, size.audio_layers)
        | {
            "patch_size": size.audio_patch,
            "patch_stride": size.audio_stride,
            "num_clips": size.num_clips,
            "clip_seconds": size.clip_seconds,
            "num_frames": size.num_frames,
        },
    )

"""ImageBind's audio tower (Girdhar et al. 2023, section 3.2): a vision transformer over patches of a log-mel picture.

Plain pre-norm blocks (AST, Gong et al. 2021), with one thing that is not: every attention has one more key and value
than tokens, both learned. The stochastic depth of its training is left out: here it is used as it was released.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from mmig.backbones.imagebind_sound import SoundSettings


class ImageBindAudioConfig(PreTrainedConfig):
    """Sizes of the audio tower and of what it hears; the defaults are those of the published model.

    Attributes:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: of the transformer.
        layer_norm_eps: of every norm but the one behind the patches, which has 1e-5.
        patch_size, patch_stride: of the patches, in bins and in frames; they overlap where the stride is smaller.
        projection_dim: width D of the common space.
        sample_rate, num_clips, clip_seconds, num_mel_bins, num_frames, mean, std: see `SoundSettings`.
    """

    model_type = "imagebind_audio"
    base_config_key = "audio_config"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    layer_norm_eps: float = 1e-6
    patch_size: int = 16
    patch_stride: int = 10
    projection_dim: int = 1024
    sample_rate: int = 16_000
    num_clips: int = 3
    clip_seconds: float = 2.0
    num_mel_bins: int = 128
    num_frames: int = 204
    mean: float = -4.268
    std: float = 9.138
    initializer_range: float = 0.02

    @property
    def sounds(self) -> SoundSettings:
        """What becomes of a sound before the tower."""
        return SoundSettings(
            self.sample_rate,
            self.num_clips,
            self.clip_seconds,
            self.num_mel_bins,
            self.num_frames,
            self.mean,
            self.std,
        )

    @property
    def num_patches(self) -> int:
        """Tokens of a clip without the class token: 12 x 19 of the published model."""
        high, wide = (
            (size - self.patch_size) // self.patch_stride + 1 for size in (self.num_mel_bins, self.num_frames)
        )
        return high * wide


class AudioTower(nn.Module):
    """Features of clips [N,bins,frames], see `sound_features`, -> embeddings [N,D], not yet of length 1."""

    def __init__(self, config: ImageBindAudioConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.patches = nn.Conv2d(1, width, config.patch_size, config.patch_stride, bias=False)
        self.patch_norm = nn.LayerNorm(width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + config.num_patches, width))
        self.blocks = nn.ModuleList(AudioBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.projection = nn.Linear(width, config.projection_dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings of clips; features in any floating dtype."""
        weights = self.patches.weight
        patches = self.patch_norm(self.patches(features[:, None].to(weights.dtype)).flatten(2).transpose(1, 2))
        states = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1) + self.positions
        for block in self.blocks:
            states = block(states)
        return self.projection(self.norm(states[:, 0]))


class AudioBlock(nn.Module):
    """Attention and a feed-forward layer, each behind a norm: states [N,L,W] -> [N,L,W]."""

    def __init__(self, config: ImageBindAudioConfig) -> None:
        super().__init__()
        width, heads, eps = config.hidden_size, config.num_attention_heads, config.layer_norm_eps
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attention = nn.MultiheadAttention(width, heads, add_bias_kv=True, batch_first=True)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, states: Tensor) -> Tensor:
        """New states."""
        asked = self.norm_1(states)
        states = states + self.attention(asked, asked, asked, need_weights=False)[0]
        return states + self.fc2(nn.functional.gelu(self.fc1(self.norm_2(states))))

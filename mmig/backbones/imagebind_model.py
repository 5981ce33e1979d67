"""Pictures, texts and sounds as vectors of one space: ImageBind (Girdhar et al. 2023), the encoder of InstructAny2Pix
(Li et al. 2023, section 3.1).

The image and text towers of the published model are a CLIP's (OpenCLIP ViT-H/14, frozen in its training), so
transformers' classes hold them; `imagebind_audio` is ours.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedConfig,
    PreTrainedModel,
)

from mmig.backbones.clip_image import ClipImageEncoder
from mmig.backbones.imagebind_audio import AudioTower, ImageBindAudioConfig
from mmig.backbones.imagebind_sound import sound_features

PUBLISHED_VISION = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
PUBLISHED_TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
    "projection_dim": 1024,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
"""Of imagebind_huge."""
MAX_SCALE = 100.0
"""Upper bound of the factor of texts."""


class ImageBindConfig(PreTrainedConfig):
    """Sizes of the three towers; what is not given of one is that of the published model.

    Raises:
        ValueError: towers that do not end in one space.
    """

    model_type = "imagebind"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "vision_config": CLIPVisionConfig,
        "text_config": CLIPTextConfig,
        "audio_config": ImageBindAudioConfig,
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: object) -> None:
        for name, published in (("vision_config", PUBLISHED_VISION), ("text_config", PUBLISHED_TEXT)):
            given = getattr(self, name)
            if not isinstance(given, PreTrainedConfig):
                setattr(self, name, published | (given or {}))
        super().__post_init__(**kwargs)
        widths = [part.projection_dim for part in (self.vision_config, self.text_config, self.audio_config)]
        if len(set(widths)) > 1:
            raise ValueError(f"projection_dim: expected one for vision, text and audio, found {widths}")

    @property
    def embed_dim(self) -> int:
        """D of the embeddings."""
        return self.vision_config.projection_dim


class ImageBindModel(PreTrainedModel):
    """The three towers. Embeddings are unit vectors in float32, whatever the precision of the weights.

    With `scaled` they have the lengths that ImageBind gives them in place of 1, on which softmaxes over their products
    rest: pictures 1, texts the learned `text_scale`, sounds 20, where the mean of clips is a little shorter.
    InstructAny2Pix normalises them (section 3.1).
    """

    config_class = ImageBindConfig
    base_model_prefix = "imagebind"
    main_input_name = "images"
    _supports_sdpa = True

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__(config)
        self.vision = ClipImageEncoder(CLIPVisionModelWithProjection._from_config(config.vision_config))
        self.text = CLIPTextModelWithProjection._from_config(config.text_config)
        self.audio = AudioTower(config.audio_config)
        self.text_log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.audio_log_scale = nn.Parameter(torch.tensor(math.log(20.0)), requires_grad=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AudioTower):
            for parameter in (module.class_token, module.positions):
                nn.init.normal_(parameter, std=self.config.audio_config.initializer_range)

    @property
    def text_scale(self) -> Tensor:
        """Length of the vectors of texts with `scaled`, a scalar, at most 100."""
        return self.text_log_scale.float().exp().clamp(max=MAX_SCALE)

    @property
    def audio_scale(self) -> Tensor:
        """Length of the vectors of clips with `scaled`, a scalar: 20."""
        return self.audio_log_scale.float().exp()

    def embed_images(self, images: Tensor) -> Tensor:
        """Vectors [N,D] of pictures.

        Args:
            images: float [N,3,H,W] in [-1,1]; of another size than the tower's they are squashed to it, bicubic, where
                ImageBind scales the shorter side and cuts the middle out. Of squares both see the same.
        """
        return F.normalize(self.vision(images).float(), dim=-1)

    def embed_texts(self, ids: Tensor, *, scaled: bool = False) -> Tensor:
        """Vectors [N,D] of texts, read at their end-of-text token.

        Args:
            ids: int64 [N,L] with start and end of text; what is behind the first end changes nothing.
            scaled: see the class.
        """
        vectors = F.normalize(self.text(input_ids=ids).text_embeds.float(), dim=-1)
        return vectors * self.text_scale if scaled else vectors

    def embed_sounds(self, sounds: Tensor, samples: Tensor, *, scaled: bool = False) -> Tensor:
        """Vectors [N,D] of sounds: the mean over the vectors of their clips.

        Args:
            sounds: float [N,n] in [-1,1] at the tower's rate.
            samples: true lengths, int64 [N]; for silence, short and absent sounds see `sound_features`.
            scaled: see the class.
        """
        features = sound_features(sounds, samples, self.config.audio_config.sounds)
        clips = F.normalize(self.audio(features.flatten(0, 1)).float(), dim=-1)
        mean = clips.unflatten(0, features.shape[:2]).mean(dim=1)
        return mean * self.audio_scale if scaled else F.normalize(mean, dim=-1)

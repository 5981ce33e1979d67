"""F_ase, the aesthetic score of a picture: LAION's linear predictor on CLIP's embedding (Schuhmann et al. 2022)."""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mmig.backbones.clip_image import ClipImageEncoder, load_clip_image
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import BackboneError, Part

AESTHETIC = Part("aesthetic", "aesthetic", kind_key="_class_name", kinds=("AestheticPredictor",))


class AestheticPredictor(ModelMixin, ConfigMixin):
    """Scores of CLIP embeddings, about 1 to 10; without activations, so that it is one affine map.

    Weights have the names of the published `sac+logos+ava1-l14-linearMSE.pth`.

    Args:
        embed_dim: of the embeddings, 768 of CLIP ViT-L/14.
    """

    @register_to_config
    def __init__(self, embed_dim: int = 768) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(embed_dim, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Scores [N] of embeddings [N,D] of any length."""
        return self.layers(F.normalize(embeddings.float(), dim=-1)).squeeze(-1)


class AestheticScorer(nn.Module):
    """Scores of pictures.

    Args:
        clip: image side, with its projection.
        predictor: on its embeddings.
    """

    def __init__(self, clip: ClipImageEncoder, predictor: AestheticPredictor) -> None:
        super().__init__()
        self.clip, self.predictor = clip, predictor

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Scores [N] of pictures [N,3,H,W] in [-1,1]."""
        return self.predictor(self.clip(images.to(self.clip.tower.device)))


def load_aesthetic(path: Source, clip: Source) -> AestheticScorer:
    """The predictor of a folder that `convert-aesthetic` wrote, on the CLIP that it was trained on, frozen.

    Raises:
        BackboneError: a missing or broken file, another model, or a CLIP of another width.
    """
    predictor = load_strictly(AestheticPredictor, locate(path, AESTHETIC), torch.float32)
    scorer = AestheticScorer(load_clip_image(clip), prepare(predictor, frozen=True, gradient_checkpointing=False))
    if scorer.clip.width != predictor.config.embed_dim:
        raise BackboneError(
            f"aesthetic: expected a CLIP whose embeddings are {predictor.config.embed_dim} wide, found "
            f"{scorer.clip.width}; give the CLIP that the predictor was trained on"
        )
    return scorer

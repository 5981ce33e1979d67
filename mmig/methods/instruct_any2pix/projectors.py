"""What stands between one ImageBind vector and a denoiser of Stable Diffusion's kind (Li et al. 2023, section 9.2)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection
from torch import Tensor, nn

from mmig.backbones.files import read_json
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import Part
from mmig.diffusion.sdxl import TextCondition

PROJECTOR = Part("projector", "projector", kind_key="_class_name", kinds=("EmbeddingProjector", "IPAdapterProjector"))
CROSS_ATTENTION = "attn2"
"""Name of the attention to texts in blocks of diffusers."""


class EmbeddingProjector(ModelMixin, ConfigMixin):
    """The paper's: MLPs to one token in the place of the text's states, and to SDXL's pooled vector.

    With one token every attention to it is 1 everywhere: each layer adds the same to all places, so that one vector
    changes a whole scene and tells no place (A7). Without condition both are zeros, as released. 21.5 M parameters from
    1,024 to 2,048 and 1,280.

    Args:
        embed_dim: D of the vectors.
        context_dim: width of the denoiser's tokens.
        pooled_dim: width of its pooled vector; None for a denoiser without one.
        hidden_dim: of both MLPs.
        constant_dim: input of the second MLP if it is zeros, so that the pooled vector is the same for all, as
            released (768); None: the vector itself.
        vector_norm: length to which vectors are brought first.
    """

    @register_to_config
    def __init__(
        self,
        embed_dim: int = 1024,
        context_dim: int = 2048,
        pooled_dim: int | None = 1280,
        hidden_dim: int = 4096,
        constant_dim: int | None = None,
        vector_norm: float = 20.0,
    ) -> None:
        super().__init__()
        self.context = _mlp(embed_dim, hidden_dim, context_dim)
        self.pooled = None if pooled_dim is None else _mlp(constant_dim or embed_dim, hidden_dim, pooled_dim)

    def forward(self, vectors: Tensor) -> TextCondition:
        """Tokens [B,1,C] and pooled vectors [B,P] of vectors [B,D]."""
        given = lengthened(vectors, self.config.vector_norm, self.context[0].weight.dtype)
        if self.pooled is None:
            return TextCondition(self.context(given)[:, None], None)
        width = self.config.constant_dim
        told = given if width is None else given.new_zeros(len(given), width)
        return TextCondition(self.context(given)[:, None], self.pooled(told))

    def null(self, count: int) -> TextCondition:
        """Without condition: zeros."""
        like = self.context[2].weight
        pooled = None if self.pooled is None else like.new_zeros(count, self.config.pooled_dim)
        return TextCondition(like.new_zeros(count, 1, self.config.context_dim), pooled)

    def install(self, unet: nn.Module) -> None:
        """Nothing to do: the denoiser stays as it is."""


class IPAdapterProjector(ModelMixin, ConfigMixin):
    """IP-Adapter's (Ye et al. 2023), the released variant: tokens with keys and values of their own beside a text's.

    The text is the same for all and kept as its states, so that no text encoder is needed to draw; so is that of the
    branch without condition, whose vector is zeros.

    Args:
        embed_dim: D of the vectors.
        context_dim: width of the denoiser's tokens.
        hidden_sizes: of its attentions to texts, in the order of their names.
        num_tokens: of a vector.
        text_length: tokens of the text.
        pooled_dim: width of the pooled vector; None for a denoiser without one.
        scale: how much the tokens' attention counts beside the text's.
        vector_norm: length to which vectors are brought first.
    """

    @register_to_config
    def __init__(
        self,
        embed_dim: int,
        context_dim: int,
        hidden_sizes: Sequence[int],
        num_tokens: int = 4,
        text_length: int = 77,
        pooled_dim: int | None = None,
        scale: float = 1.0,
        vector_norm: float = 20.0,
    ) -> None:
        super().__init__()
        self.image_proj = ImageProjection(embed_dim, context_dim, num_tokens)
        self.layers = nn.ModuleList(
            IPAdapterAttnProcessor2_0(size, context_dim, num_tokens=(num_tokens,), scale=scale) for size in hidden_sizes
        )
        for name in ("text", "null_text"):
            self.register_buffer(name, torch.zeros(text_length, context_dim))
            pooled = None if pooled_dim is None else torch.zeros(pooled_dim)
            self.register_buffer(f"{name}_pooled", pooled)

    def set_texts(self, texts: TextCondition) -> None:
        """Keep the states of two texts: the one of every picture, and the one of no condition."""
        for number, name in enumerate(("text", "null_text")):
            getattr(self, name).copy_(texts.tokens[number])
            if texts.pooled is not None:
                getattr(self, f"{name}_pooled").copy_(texts.pooled[number])

    def forward(self, vectors: Tensor) -> TextCondition:
        """Tokens [B,L+n,C], the vectors' own last, and pooled vectors [B,P] of vectors [B,D]."""
        own = self.image_proj(lengthened(vectors, self.config.vector_norm, self.text.dtype))
        return self._beside("text", own)

    def null(self, count: int) -> TextCondition:
        """Without condition."""
        return self._beside("null_text", self.image_proj(self.text.new_zeros(count, self.config.embed_dim)))

    def install(self, unet: nn.Module) -> None:
        """Let the denoiser's attentions to texts attend to the last tokens apart; its own weights stay."""
        for layer, module in zip(self.layers, cross_attentions(unet).values(), strict=True):
            module.set_processor(_AppendedTokens(layer, self.config.num_tokens))

    def _beside(self, name: str, own: Tensor) -> TextCondition:
        text, pooled = getattr(self, name), getattr(self, f"{name}_pooled")
        tokens = torch.cat([text.expand(len(own), -1, -1), own], dim=1)
        return TextCondition(tokens, None if pooled is None else pooled.expand(len(own), -1))


class _AppendedTokens:
    """An attention processor for tokens of which the last are a picture's.

    No module, so that the denoiser's state does not hold the layer, which is the projector's.
    """

    def __init__(self, layer: IPAdapterAttnProcessor2_0, num_tokens: int) -> None:
        self.layer, self.num_tokens = (layer,), num_tokens

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        text, own = encoder_hidden_states[:, : -self.num_tokens], encoder_hidden_states[:, -self.num_tokens :]
        return self.layer[0](attn, hidden_states, (text, [own[:, None]]), attention_mask, temb)


def cross_attentions(unet: nn.Module) -> dict[str, Any]:
    """The attentions to texts of a UNet of diffusers, by name and in order."""
    return {name: module for name, module in unet.named_modules() if name.rpartition(".")[2] == CROSS_ATTENTION}


def lengthened(vectors: Tensor, norm: float, dtype: torch.dtype) -> Tensor:
    """Vectors [...,D] brought to a length."""
    return (norm * F.normalize(vectors.float(), dim=-1)).to(dtype)


def load_projector(path: Source) -> EmbeddingProjector | IPAdapterProjector:
    """A projector of either kind from a folder or run, frozen.

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    folder = locate(path, PROJECTOR)
    kinds = {kind.__name__: kind for kind in (EmbeddingProjector, IPAdapterProjector)}
    projector = load_strictly(kinds[read_json(folder / "config.json")["_class_name"]], folder, torch.float32)
    return prepare(projector, frozen=True, gradient_checkpointing=False)


def _mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))

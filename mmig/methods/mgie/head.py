"""MGIE's edit head: from the states at the [IMG] tokens to what conditions the denoiser (Fu et al. 2024, section 3.2).

The paper writes u = T({h_[IMG] + e_[IMG]}, q): a sequence-to-sequence model T, queries q, guidance u in the place of
the text encoder's states. Layers and sizes are those of the released code; the paper speaks of four layers, the code
has four in the encoder and four in the decoder.
"""

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


@dataclass
class HeadSize:
    """Sizes of an edit head; the defaults are the published ones.

    Attributes:
        dim: width between the projections.
        num_queries: tokens of the guidance.
        heads: of every attention.
        layers: of the encoder, and as many of the decoder.
        feed_forward: inner width of the feed-forward layers.
    """

    dim: int = 512
    num_queries: int = 77
    heads: int = 4
    layers: int = 4
    feed_forward: int = 2048


class EditHead(ModelMixin, ConfigMixin):
    """A transformer whose encoder reads the [IMG] tokens and whose decoder reads learned queries; no masks, no places.

    31,958,784 parameters from 4,096 to 768 wide at the published size. Saved and loaded as diffusers' models are.

    Args:
        in_dim: width D of the language model.
        out_dim: width of the denoiser's text states.
        dim, num_queries, heads, layers, feed_forward: see `HeadSize`.
        own_embeddings: how many embeddings e it keeps for itself, in place of those that it is given. None, as trained
            here; a released head may have been saved with others than its language model's.
    """

    @register_to_config
    def __init__(
        self,
        in_dim: int = 4096,
        out_dim: int = 768,
        dim: int = 512,
        num_queries: int = 77,
        heads: int = 4,
        layers: int = 4,
        feed_forward: int = 2048,
        own_embeddings: int = 0,
    ) -> None:
        super().__init__()
        options = {"dropout": 0.0, "norm_first": True, "batch_first": True}
        encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(dim, heads, feed_forward, **options),
            layers,
            nn.LayerNorm(dim),
            enable_nested_tensor=False,  # norm_first allows none, and torch would warn
        )
        self.project_in = nn.Linear(in_dim, dim)
        self.queries = nn.Parameter(torch.randn(1, num_queries, dim))
        self.transformer = nn.Transformer(
            dim, heads, num_decoder_layers=layers, dim_feedforward=feed_forward, custom_encoder=encoder, **options
        )
        self.project_out = nn.Linear(dim, out_dim)
        self.register_buffer("embeddings", torch.zeros(own_embeddings, in_dim) if own_embeddings else None)

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """Guidance u, [B,queries,out_dim].

        Args:
            states: h, the language model's last hidden states from which each [IMG] token is predicted, [B,n,D]; zeros
                give the null guidance of these embeddings.
            embeddings: e, the tokens' rows of the input embedding as they are now, [n,D].
        """
        embeddings = embeddings if self.embeddings is None else self.embeddings
        tokens = self.project_in((states + embeddings).to(self.project_in.weight.dtype))
        return self.project_out(self.transformer(tokens, self.queries.expand(len(tokens), -1, -1)))

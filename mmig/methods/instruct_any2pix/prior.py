"""The refinement prior F_prior (Li et al. 2023, sections 3.3 and 9.3): GPT-2 on vectors in the place of words.

It restores a vector that was corrupted, or gives that of another modality: text or sound to picture, and to sound.
"""

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import Part

PRIOR = Part("prior", "prior", kind_key="_class_name", kinds=("RefinementPrior",))
VECTOR, STATES, SCORE = 1, 2, 3
"""Numbers of the inputs in the released tables of start and end tokens."""


class RefinementPrior(ModelMixin, ConfigMixin):
    """One causal pass over (source type, <vector>, <score>, target type); the last state is the vector.

    The paper says: GPT-2's design, an MLP in place of the token embedding, the aesthetic score as a further input.
    Layout and widths are those of the released prior, a GPT-2 medium: 303 M parameters. Each input stands between a
    start and an end token of its own. A misplaced comma keeps the released one from ever reading the target type;
    `reads_target_type` is False for its weights. Saved and loaded as diffusers' models are.

    Args:
        embed_dim: D of the vectors.
        hidden_dim, layers, heads: of the transformer; of another width than D the last state is projected.
        score_dim: of the sinusoidal embedding of scores.
        text_dim: width of a text encoder's states that the released prior reads too, between vector and score; None.
        vector_norm: length to which vectors are brought before they are projected.
        reads_target_type: whether the last token says which modality is wanted.
        dropout: of GPT-2 throughout.
    """

    @register_to_config
    def __init__(
        self,
        embed_dim: int = 1024,
        hidden_dim: int = 1024,
        layers: int = 24,
        heads: int = 16,
        score_dim: int = 512,
        text_dim: int | None = None,
        vector_norm: float = 20.0,
        reads_target_type: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2Model

        self.types = nn.Embedding(10, hidden_dim)
        self.starts, self.ends = nn.Embedding(32, hidden_dim), nn.Embedding(32, hidden_dim)
        self.project_vector = nn.Linear(embed_dim, hidden_dim)
        self.project_states = None if text_dim is None else nn.Linear(text_dim, hidden_dim)
        self.project_score = nn.Linear(score_dim, hidden_dim)
        rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
        sizes = {"n_embd": hidden_dim, "n_layer": layers, "n_head": heads, "bos_token_id": None, "eos_token_id": None}
        self.transformer = GPT2Model(GPT2Config(vocab_size=1, **sizes, **rates, use_cache=False))
        self.transformer.wte = nn.Identity()  # it reads no words
        self.project_out = nn.Identity() if hidden_dim == embed_dim else nn.Linear(hidden_dim, embed_dim)

    def forward(
        self,
        vectors: Tensor,
        source: Tensor,
        target: Tensor,
        scores: Tensor,
        has_score: Tensor,
        states: Tensor | None = None,
    ) -> Tensor:
        """Restored unit vectors [B,D].

        Args:
            vectors: corrupted ones [B,D] of any length; zeros stand for none.
            source, target: modalities, int64 [B].
            scores: f, aesthetic scores, about 0 to 10, [B].
            has_score: bool [B]; without one its embedding is zeros.
            states: of a text encoder, [B,L,W]; None leaves them out.
        """
        dtype = self.project_vector.weight.dtype
        lengthened = self.config.vector_norm * F.normalize(vectors.float(), dim=-1)
        parts = [self._wrapped(VECTOR, self.project_vector(lengthened.to(dtype))[:, None])]
        if states is not None:
            parts.append(self._wrapped(STATES, self.project_states(states.to(dtype))))
        score = get_timestep_embedding(scores.float(), self.config.score_dim, True, 0)
        score = score.where(has_score[:, None], 0).to(dtype)
        parts.append(self._wrapped(SCORE, self.project_score(score)[:, None]))
        last = [self.types(target)[:, None]] if self.config.reads_target_type else []
        tokens = torch.cat([self.types(source)[:, None], *parts, *last], dim=1)
        hidden = self.transformer(inputs_embeds=tokens).last_hidden_state[:, -1]
        return F.normalize(self.project_out(hidden).float(), dim=-1)

    def refine(
        self, vectors: Tensor, source: Tensor, target: Tensor, score: float | None, guidance: float = 1.0
    ) -> Tensor:
        """F_prior as it is used: unit vectors [B,D], with one score for all.

        Guidance goes on from what the prior says without vector and score, as the released code does, u + w (c - u);
        that of 1 is the prior itself.

        Args:
            vectors: [B,D].
            source, target: modalities, int64 [B].
            score: f; None for no score.
            guidance: w.
        """
        count = len(vectors)
        scores = vectors.new_full((count,), score or 0.0)
        has_score = torch.full((count,), score is not None, device=vectors.device)
        found = self(vectors, source, target, scores, has_score)
        if guidance == 1.0:
            return found
        nothing = self(torch.zeros_like(vectors), source, target, scores, torch.zeros_like(has_score))
        return F.normalize(nothing + guidance * (found - nothing), dim=-1)

    def _wrapped(self, number: int, tokens: Tensor) -> Tensor:
        """Tokens [B,n,W] between the start and the end token of an input, [B,n+2,W]."""
        around = [table.weight[number].expand(len(tokens), 1, -1) for table in (self.starts, self.ends)]
        return torch.cat([around[0], tokens, around[1]], dim=1)


def load_prior(path: Source) -> RefinementPrior:
    """A refinement prior from a folder or run, frozen.

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    prior = load_strictly(RefinementPrior, locate(path, PRIOR), torch.float32)
    return prepare(prior, frozen=True, gradient_checkpointing=False)

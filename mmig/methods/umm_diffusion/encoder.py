"""The text-and-image unified encoder, TIUE (Ma et al. 2023, section 3.2): a picture as a word in CLIP's text."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mmig.methods.umm_diffusion.words import NO_SUBJECT

if TYPE_CHECKING:
    from transformers import CLIPTextModel

PROBES = 256
"""Random embeddings by which a fresh MLP's pseudo words are measured."""


class PseudoWord(ModelMixin, ConfigMixin):
    """The MLP from a CLIP image embedding c_s to a pseudo word embedding v, all that trains of the encoder.

    The paper says "MLP" and that it starts randomly. Layers and widths are those of ELITE's mapper (Wei et al. 2023),
    with a LayerNorm before, so that the length of the image embedding does not matter: 2,629,888 parameters from 768 to
    768. Saved and loaded as diffusers' models are.

    Args:
        image_dim: D of image embeddings.
        word_dim: width of the text encoder's words.
        hidden_dim: of the two layers between.
    """

    @register_to_config
    def __init__(self, image_dim: int = 768, word_dim: int = 768, hidden_dim: int = 1024) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(image_dim),
            nn.Linear(image_dim, hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.LeakyReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.LeakyReLU(),
            nn.Linear(hidden_dim, word_dim),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """V [...,word_dim] of image embeddings [...,image_dim]."""
        return self.layers(embeddings.to(self.layers[1].weight.dtype))

    @torch.no_grad()
    def match_length(self, words: Tensor) -> None:
        """Scale the last layer so that pseudo words are as long as words are on average.

        Args:
            words: the text encoder's table [V,word_dim]; the MLP moves to its device.
        """
        self.to(words.device)
        probes = torch.randn(PROBES, self.config.image_dim, generator=torch.Generator().manual_seed(0))
        length = self(probes.to(words.device)).norm(dim=-1).mean()
        scale = words.float().norm(dim=-1).mean() / length
        for parameter in self.layers[-1].parameters():
            parameter.mul_(scale)


class TextStates(NamedTuple):
    """What conditions the denoiser, [B,L,D] each: h_y of the text alone, h_u with the subjects in it."""

    text: Tensor
    unified: Tensor


def unified_states(text_encoder: "CLIPTextModel", ids: Tensor, owner: Tensor, pseudo_words: Tensor) -> TextStates:
    """h_u = TIUE(y, x_s, p), and h_y.

    Gradients reach the pseudo words through h_r at p alone. The text encoder is causal, so that of two subjects the
    later one's state has seen the earlier pseudo word, not the other way round.

    Args:
        text_encoder: CLIP's, frozen; its states h are the last ones behind the final norm, not pooled.
        ids: tokens of y, int64 [B,L].
        owner: number of the subject at each token, int64 [B,L], `NO_SUBJECT` where there is none (`place_subjects`).
        pseudo_words: v, [B,K,D], K at least 1.
    """
    with torch.no_grad():
        text = text_encoder(ids).last_hidden_state  # h_y = P(w), w = f(y)
    mixed = rearranged_states(text_encoder, ids, owner, pseudo_words)
    at_subject = (owner != NO_SUBJECT).unsqueeze(-1)
    return TextStates(text, torch.where(at_subject, mixed, text))  # h_u: h_r at p, h_y elsewhere


def rearranged_states(text_encoder: "CLIPTextModel", ids: Tensor, owner: Tensor, pseudo_words: Tensor) -> Tensor:
    """h_r = P(w_r), [B,L,D], which has pseudo words in the place of words; arguments as of `unified_states`."""
    at_subject = (owner != NO_SUBJECT).unsqueeze(-1)

    def rearranged(_module: nn.Module, _inputs: tuple, words: Tensor) -> Tensor:
        index = owner.clamp(min=0).unsqueeze(-1).expand(-1, -1, pseudo_words.shape[-1])
        return torch.where(at_subject, pseudo_words.gather(1, index).to(words.dtype), words)  # w_r

    # the text encoder takes no embeddings in place of ids; positions are added behind this table
    handle = text_encoder.get_input_embeddings().register_forward_hook(rearranged)
    try:
        return text_encoder(ids).last_hidden_state
    finally:
        handle.remove()

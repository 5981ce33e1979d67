"""Textual inversion (Gal et al. 2022): the one new word of a subject is found by descent, all else stays frozen."""

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.schema import Span
from experiments.subject_tuning.tuning import Subject, SubjectTuning, Tuned
from mmig.diffusion.text import split_texts
from mmig.methods.umm_diffusion.encoder import rearranged_states
from mmig.methods.umm_diffusion.words import NO_SUBJECT, SubjectError, subject_tokens


class TextualInversion(SubjectTuning):
    """v* = argmin E |eps - eps_theta(x_t, P(w_r))|^2 over the embedding of one token (their eq 2).

    It starts from the embedding of the subject's class, its word in the caption, and stands in that word's place in
    training ("a S*") and in the caption. 1,000 steps by default, a fifth of the paper's 5,000.
    """

    def tune(self, caption: str, subjects: Sequence[Subject], generator: torch.Generator) -> Tuned:
        """Find the words, one subject after the other."""
        found = [self._invert(subject, caption[slice(*subject.word)], generator) for subject in subjects]
        states = self._states(caption, [subject.word for subject in subjects], torch.stack(found, dim=1))
        return Tuned(self.unet, states)

    def _invert(self, subject: Subject, name: str, generator: torch.Generator) -> Tensor:
        """The embedding of a subject's word, [1,D]."""
        ids, owner = self._placed(name, [(0, len(name))])
        table = self.text_encoder.get_input_embeddings()
        word = table(ids[owner != NO_SUBJECT]).detach().clone().requires_grad_(True)

        def loss(_step: int) -> Tensor:
            states = self._states(f"a {name}", [(2, 2 + len(name))], word[:, None])
            return self.noise_loss(self.unet, subject.latents, states, generator)

        self.steps([word], loss, self.sampling.tuning_steps)
        return word.detach()

    def _states(self, text: str, words: Sequence[Span], embeddings: Tensor) -> Tensor:
        """States of a text with embeddings [1,K,D] in the place of its words."""
        return rearranged_states(self.text_encoder, *self._placed(text, words), embeddings)

    def _placed(self, text: str, words: Sequence[Span]) -> tuple[Tensor, Tensor]:
        """Tokens of a text, and which of its words each belongs to, int64 [1,L] both."""
        tokens, lost = subject_tokens(self.tokenizer, text, dict(enumerate(words)))
        if lost:
            raise SubjectError(f"subject {lost[0].number}: {lost[0].detail}")
        ids = split_texts(self.tokenizer, [text]).ids[:, 0].to(self.text_encoder.device)
        owner = torch.full_like(ids, NO_SUBJECT)
        for number, places in tokens.items():
            owner[0, places] = number
        return ids, owner

"""DreamBooth (Ruiz et al. 2023) with low-rank updates: the denoiser learns what a rare word before the class means."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.subject_tuning.tuning import Subject, SubjectTuning, Tuned, TuningSampling
from mmig.diffusion.text import encode_text
from mmig.training.lora import UNET_TARGETS, LoRAConfig, add_lora

IDENTIFIERS = ("sks", "pwz")
"""Words that mean nothing, of the first and the second subject."""


class DreamBooth(SubjectTuning):
    """The noise loss under "a sks CLASS", over LoRA of all attention; the caption then says "sks CLASS".

    As their section 3.1, but for LoRA in the place of the whole UNet, and without prior preservation (3.2): what it
    preserves, other members of the class, is not asked for here. Subjects of one sample share the updates, each with an
    identifier of its own, and take turns.

    Args:
        path, sampling: see `SubjectTuning`.
        lora: sizes of the updates.
    """

    def __init__(self, path: str, sampling: TuningSampling | None = None, lora: LoRAConfig | None = None) -> None:
        super().__init__(path, sampling or TuningSampling(tuning_steps=500, learning_rate=1.0e-3))
        self.lora = lora or LoRAConfig()

    def tune(self, caption: str, subjects: Sequence[Subject], generator: torch.Generator) -> Tuned:
        """Train the updates of a copy of the UNet; there are as many identifiers as subjects of a sample may be.

        Raises:
            ValueError: more subjects.
        """
        if len(subjects) > len(IDENTIFIERS):
            raise ValueError(f"DreamBooth: expected at most {len(IDENTIFIERS)} subjects, found {len(subjects)}")
        named = list(zip(subjects, IDENTIFIERS, strict=False))
        prompts = [f"a {word} {caption[slice(*subject.word)]}" for subject, word in named]
        states, _ = encode_text(self.text_encoder, self.tokenizer, prompts)
        unet = copy.deepcopy(self.unet)
        with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            add_lora(unet, self.lora, UNET_TARGETS, "lora")

        def loss(step: int) -> Tensor:
            number = step % len(subjects)
            return self.noise_loss(unet, subjects[number].latents, states[number : number + 1].detach(), generator)

        trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        self.steps(trained, loss, self.sampling.tuning_steps * len(subjects))
        text = caption
        for subject, word in sorted(named, key=lambda pair: -pair[0].word[0]):  # from the last, lest places move
            text = f"{text[: subject.word[0]]}{word} {text[subject.word[0] :]}"
        return Tuned(unet, encode_text(self.text_encoder, self.tokenizer, [text])[0])

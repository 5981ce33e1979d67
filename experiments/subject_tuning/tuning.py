"""What tuning on a subject's picture has in common: the picture as a training image, the steps, drawing, the time."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.schema import Batch, Span, take, words_in
from mmig.base.values import check_values
from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.drawing import draw_guided
from mmig.diffusion.guidance import text_guidance
from mmig.diffusion.latents import encode
from mmig.diffusion.losses import noise_loss
from mmig.diffusion.problem import denoising_problem
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.sampling import Generators, per_sample
from mmig.diffusion.text import encode_text
from mmig.editor import EditOutput, ResponseSource, check_fields
from mmig.methods.latent_diffusion.pipeline import open_editor

FIELD = "target_caption"
SECONDS = "preparation_seconds"
"""In `EditOutput.extras`: seconds of tuning a subject, float64 [B]."""


@dataclass(frozen=True)
class TuningSampling:
    """How to tune, then draw.

    Attributes:
        num_steps: of the sampler.
        guidance_scale: classifier-free guidance; 1 switches it off.
        tuning_steps: of the optimiser, for each subject.
        learning_rate: of AdamW.
        num_noises: noises and timesteps of one step, the batch.
        shown_side: side in pixels at which the picture stands in its training image. A picture that fills the image
            would teach a subject of that size.
    """

    num_steps: int = 20
    guidance_scale: float = 1.5
    tuning_steps: int = 1000
    learning_rate: float = 5.0e-3
    num_noises: int = 1
    shown_side: int = 20

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        least = {"tuning_steps": 0, "learning_rate": 0, "num_noises": 1, "shown_side": 1}
        check_values(self, "sampling", **{name: (low, float("inf")) for name, low in least.items()})


class Subject(NamedTuple):
    """A subject: latents [1,c,h,w] of its training image, and the characters of its word in the caption."""

    latents: Tensor
    word: Span


class Tuned(NamedTuple):
    """What a sample is drawn with: a denoiser, and the states of its caption [1,L,D]."""

    unet: nn.Module
    states: Tensor


class SubjectTuning(ABC):
    """Tunes on a sample's attached pictures, then draws its target caption; every sample begins anew.

    A subclass says how (`tune`). Samples are tuned one by one, so that results do not depend on the batch and the time
    is that of one subject. Drawing starts from the noise that another editor starts from under the same generator.

    Args:
        path: folder or hub id of a Stable Diffusion.
        sampling: how to tune and draw.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
    """

    response_source: ResponseSource = "given"
    required_fields: tuple[str, ...] = (FIELD, "attachment_images")
    metrics: tuple[str, ...] = ("experiments.subject_tuning.measures.PreparationSeconds",)

    def __init__(self, path: str, sampling: TuningSampling | None = None) -> None:
        opened = open_editor(path)
        self.vae, self.unet, self.text_encoder = opened.vae, opened.unet, opened.text_encoder
        self.tokenizer, self.scheduler = opened.tokenizer, opened.scheduler
        self.process = NoiseProcess.from_scheduler(self.scheduler)
        self.sampling = sampling or TuningSampling()

    @abstractmethod
    def tune(self, caption: str, subjects: Sequence[Subject], generator: torch.Generator) -> Tuned:
        """Learn the subjects of one sample; `generator` gives all random numbers, and every part stays as it is."""

    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """Tune on and draw each sample; `texts` are the captions without placeholders.

        Raises:
            MissingFieldError: a sample has no caption or no picture.
            ValueError: a picture that is bound to no word of the caption.
        """
        check_fields(self, batch)
        texts, images, seconds = [], [], []
        for row, source in enumerate(per_sample(generator, len(batch["key"]))):
            tuning = torch.Generator().manual_seed((source.initial_seed() + 1) % 2**63)  # `source` is for drawing
            started = time.perf_counter()
            caption, subjects = self.subjects(take(batch, [row]))
            tuned = self.tune(caption, subjects, tuning)
            seconds.append((time.perf_counter() - started) / len(subjects))
            images.append(self._draw(tuned, batch["target"].shape[-2:], source))
            texts.append(caption)
        return EditOutput(torch.cat(images), texts, {SECONDS: torch.tensor(seconds, dtype=torch.float64)})

    def steps(self, parameters: Iterable[Tensor], loss: Callable[[int], Tensor], count: int) -> None:
        """Optimise by AdamW without decay; `loss` is of the step, counted from 0."""
        optimizer = torch.optim.AdamW(parameters, lr=self.sampling.learning_rate, weight_decay=0.0)
        with torch.enable_grad():
            for step in range(count):
                optimizer.zero_grad()
                loss(step).backward()
                optimizer.step()

    def noise_loss(self, unet: nn.Module, latents: Tensor, states: Tensor, generator: torch.Generator) -> Tensor:
        """The noise loss of Stable Diffusion, a mean over `num_noises` draws; latents [1,c,h,w], states [1,L,D]."""
        count = self.sampling.num_noises
        clean = latents.expand(count, -1, -1, -1)
        timesteps = self.process.sample_timesteps(torch.rand(count, generator=generator))
        noise = torch.randn(clean.shape, generator=generator)
        condition = Conditioning(states.expand(count, -1, -1))
        problem = denoising_problem(self.process, clean, noise, timesteps, condition)
        return noise_loss(denoise(unet, problem.noisy, problem.timesteps, condition), problem.target).mean()

    @torch.no_grad()
    def subjects(self, sample: Batch) -> tuple[str, list[Subject]]:
        """Caption and subjects of a batch of one sample."""
        caption, words = words_in(sample, 0, FIELD)
        size, device = sample["target"].shape[-2:], self.text_encoder.device
        subjects = []
        for number, (kind, word) in enumerate(zip(sample["attachment_kinds"][0], words, strict=True)):
            if kind == "image" and word is None:
                raise ValueError(f"sample {sample['key'][0]!r}: attachment {number} is bound to no word of the caption")
            if kind == "image":
                picture = sample["attachment_images"][0, number].to(device)
                subjects.append(Subject(encode(self.vae, shown(picture, self.sampling.shown_side, size)), word))
        return caption, subjects

    @torch.no_grad()
    def _draw(self, tuned: Tuned, size: Sequence[int], generator: torch.Generator) -> Tensor:
        null = encode_text(self.text_encoder, self.tokenizer, [""])[0]
        branches = {"full": Conditioning(tuned.states), "null": Conditioning(null)}
        weights, device = text_guidance(self.sampling.guidance_scale), self.text_encoder.device
        num_steps, parts = self.sampling.num_steps, (self.vae, tuned.unet, self.scheduler)
        return draw_guided(*parts, branches, weights, (size[0], size[1]), num_steps, [generator], device)


def shown(picture: Tensor, side: int, size: Sequence[int]) -> Tensor:
    """A picture [3,h,w] in [-1,1] at `side` pixels in the middle of an image [1,3,H,W] of the mean of its edge."""
    height, width = size
    side = min(side, height, width)
    small = F.interpolate(picture[None], (side, side), mode="bicubic", antialias=True).clamp(-1, 1)
    edge = torch.cat([small[..., 0, :], small[..., -1, :], small[..., 0], small[..., -1]], dim=-1).mean(-1)
    image = edge[..., None, None].expand(-1, -1, height, width).clone()
    top, left = (height - side) // 2, (width - side) // 2
    image[..., top : top + side, left : left + side] = small
    return image

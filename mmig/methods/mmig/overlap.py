"""How far the attention of a text's concepts overlaps in an edited image: eq 19's mean over the pairs, as a measure.

Of every editor alike, whether it was trained with L_AS, guided by it or neither: the image is noised again to fixed
levels, with noise of its own seed, and the denoiser looks once at each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmig.diffusion.attention import capture_attention
from mmig.diffusion.latents import encode
from mmig.methods.mmig.attention_losses import concept_maps, segregation_loss, text_attention
from mmig.methods.mmig.editor import SamplingConfig
from mmig.methods.mmig.inference import Task, check_shows_text, conditions, locate, unguided_denoiser
from mmig.methods.mmig.model import MMIG
from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import PerSampleMetric, SampleValues, sample_values
from mmig.training.rng import generator

LEVELS = (0.2, 0.4, 0.6, 0.8)
"""Parts of the noise schedule; at the noisiest end there is nothing to look for, at the other nothing to tell apart."""
TOO_FEW = "fewer_than_two_concepts"


@torch.no_grad()
def concept_overlap(
    model: MMIG, task: Task, sampling: SamplingConfig, images: Tensor, generators: Sequence[torch.Generator]
) -> Tensor:
    """Mean over the levels and over the pairs of concepts of a text, float32 [B] in [0, 1/2]; NaN without a pair.

    Args:
        model: whose attention.
        task: what the denoiser is told. sampling: of the edit.
        images: edited ones, [B,3,H,W] in [-1,1].
        generators: one an image; their seeds decide the noise.

    Raises:
        ValueError: the denoiser reads no text.
    """
    check_shows_text(model, task.use_mmsm)
    latents = encode(model.vae, images.to(model.vae.dtype)).float()
    tokens, _ = locate(model, task)
    condition = conditions(model, task, sampling)[0]["full"]
    predict = unguided_denoiser(model, task, condition)
    size = (latents.shape[2], latents.shape[3])
    resolution = model.kind.attention_size(model.unet, size, model.objective.attention_resolution)
    found = []
    for level in LEVELS:
        timesteps = torch.full((len(latents),), int(level * model.process.num_timesteps), device=latents.device)
        seeded = [generator(source.initial_seed(), "concept overlap", str(level)) for source in generators]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=own) for own in seeded]).to(latents)
        with capture_attention(model.unet, resolution) as capture:
            predict(model.process.add_noise(latents, noise, timesteps), timesteps)
        maps, valid = concept_maps(text_attention(capture.average(), tokens), tokens)
        count = valid.sum(dim=1)
        found.append(segregation_loss(maps, valid) / (count * (count - 1) / 2))  # (19) of one pair; 0/0 without
    return torch.stack(found).mean(dim=0)


class ConceptOverlap(PerSampleMetric):
    """`concept_overlap` of what MMIG's editor gives with `measure_overlap`; less is better."""

    name = "concept_overlap"
    higher_is_better = False

    def values(self, bank: FeatureBank) -> SampleValues:
        """Samples whose text has no two concepts are skipped.

        Raises:
            ValueError: the editor did not measure it.
        """
        found = bank.extras.get("concept_overlap")
        if found is None:
            raise ValueError(f"metric {self.name}: the editor does not say it; give --sampling measure_overlap=true")
        return sample_values(found, {TOO_FEW: found.isnan()})

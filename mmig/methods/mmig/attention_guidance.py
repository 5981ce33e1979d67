"""A-STAR at sampling time (Agarwal et al. 2023): before each step the latents descend L_AS + L_AR (MMIG eq 19, 20).

For `mmig.diffusion.sampling.sample(..., before_step=AttentionGuidance(...))`. The losses are the ones of training;
their weights are 1 and every step is guided, as A-STAR's ablation wants.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmig.diffusion.attention import capture_attention
from mmig.diffusion.concepts import ConceptTokens
from mmig.diffusion.sampling import Step
from mmig.methods.mmig.attention_losses import (
    ConceptMaps,
    binarize,
    concept_maps,
    retention_loss,
    segregation_loss,
    text_attention,
)


def guidance_step_size(index: int, count: int, scale: float = 20.0) -> float:
    """alpha_t = scale * sqrt(1 ... 1/2, evenly over the steps), Attend-and-Excite's schedule (Chefer et al. 2023)."""
    return scale * (1.0 - 0.5 * index / max(1, count - 1)) ** 0.5


class AttentionGuidance:
    """Moves latents so that the attention of the concepts separates (eq 19) and stays where it was (eq 20).

    z_t <- z_t - alpha_t * gradient of L_AS + L_AR, from the second step on with L_AR, whose regions are those of the
    step before. Gradients are those of each sample's own loss, so no sample depends on another; one without concepts
    is left as it is. One forward and backward pass of the conditional branch a step, in the precision of the denoiser.

    The step is taken on what the denoiser sees, which makes it the same for schedulers that keep latents at another
    scale (Euler).

    Args:
        model: the denoiser, as `predict` calls it; frozen, or weights take part in the graph for nothing.
        predict: one forward pass of the conditional branch without classifier-free guidance: (noisy [B,C,h,w],
            timesteps [B]) -> anything. Works under `torch.inference_mode` if what runs here is frozen; else
            conditions that were made in that mode cannot take part in the graph.
        tokens: where each sample's concepts are in that branch's text.
        resolution: (h, w) of the attention, as in `capture_attention`.
        scale: alpha at the first step; 0 changes nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        predict: Callable[[Tensor, Tensor], object],
        tokens: ConceptTokens,
        resolution: tuple[int, int],
        *,
        scale: float = 20.0,
    ) -> None:
        self.model, self.predict, self.resolution = model, predict, resolution
        with torch.inference_mode(False):  # tensors made in inference mode cannot take part in a graph
            self.tokens = ConceptTokens(*(value.clone() for value in tokens))
        self.scale = scale
        self._regions: Tensor | None = None

    def __call__(self, latents: Tensor, step: Step) -> Tensor:
        """The latents z_t' from which to take a step, [B,C,h,w]; step 0 begins a new trajectory."""
        if step.index == 0:
            self._regions = None
        with torch.inference_mode(False), torch.enable_grad():
            inputs = step.scale(latents).detach().clone().requires_grad_()
            maps, valid = self._maps(inputs, step.timestep)
            losses = segregation_loss(maps, valid)
            if self._regions is not None:
                losses = losses + retention_loss(maps, self._regions, valid)
            (gradient,) = torch.autograd.grad(losses.sum(), inputs)
            self._regions = binarize(maps)
        factor = step.scale(torch.ones_like(latents[:1, :1, :1, :1]))
        return latents - guidance_step_size(step.index, step.count, self.scale) * gradient.to(latents.dtype) / factor

    def _maps(self, inputs: Tensor, timestep: Tensor) -> ConceptMaps:
        with capture_attention(self.model, self.resolution) as capture:
            self.predict(inputs, timestep.expand(len(inputs)))
        return concept_maps(text_attention(capture.average(), self.tokens), self.tokens)

"""The layered edit as an `Editor`: what `edit.py --layered` and `evaluate.py --layered` run.

The embeddings are `layered.py`, the sampling `layered_sampling.py`; here a batch becomes phrases, masks and conditions.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.base.texts import joined
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.latents import decode, encode
from mmig.diffusion.losses import mask_to_latents
from mmig.diffusion.sampling import Denoiser, per_sample
from mmig.editor import EditOutput
from mmig.methods.mmig.editor import PipelineEditor
from mmig.methods.mmig.inference import Task, conditions, guided_denoiser, respond, unguided_denoiser
from mmig.methods.mmig.layered import LayeredTokens, MaskMode, amortised
from mmig.methods.mmig.layered_sampling import LayeredEdit, LayeredSampling, layered_edit
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.nouns import noun_phrases


class LayeredEditor(PipelineEditor):
    """MMIG's parts under the embeddings of object and background, optimised on each source (eq 15, 16).

    The response goes to the connector as in every edit, but to none that stands in place of the text; what the
    denoiser's cross-attention reads are the phrases. No weight changes: eq 15 is about the embeddings. Of a batch all
    samples are optimised at once, without influence on each other, so smaller batches save memory and give the same.

    Args:
        pipeline: MMIG's pipeline.
        sampling: how to sample, and eq 15's settings.
    """

    sampling: LayeredSampling
    optional_fields: tuple[str, ...] = ("object_phrase", "background_phrase", "reference_mask")

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        """Edit the sources of a batch; fields beside the required ones and `extras` as `EditsInLayers` says, and
        "captions" where there is a captioner.

        Raises:
            ValueError: attention guidance or overlap, which need the response in place of the phrases.
        """
        for name, off, found in (
            ("attention_guidance", "0", f"{self.sampling.attention_guidance:g}"),
            ("measure_overlap", "false", str(self.sampling.measure_overlap).lower()),
        ):
            if found != off:
                raise ValueError(
                    f"sampling.{name}: a layered edit reads its phrases, not the response's concepts; expected {off}, "
                    f"found {found}: give --sampling {name}={off}"
                )
        model = self.pipeline.model
        source = batch["source"].to(model.unet.device, model.vae.dtype)
        responses = batch["response"] if self.response_source == "given" else None
        texts, states = respond(model, source, batch["instruction"], responses, self.sampling.sees)
        # a connector in place of the text has none beside the phrases
        task = Task(source, texts, states, self.sampling.use_mmsm and not model.replaces_text)
        layers = _phrases(batch, texts)
        edit = self._edit(model, task, layers, batch, per_sample(generator, len(source)))
        images = decode(model.vae, edit.latents.to(source.dtype)).float().clamp(-1, 1)
        extras: dict[str, Any] = {"layers": layers, "layered_loss": torch.stack([edit.loss_before, edit.loss_after])}
        pairs = zip(("object_phrase", "background_phrase"), zip(*layers, strict=True), strict=True)
        extras["cut"] = joined(*(model.reader.cut(phrases, name, chunks=1) for name, phrases in pairs))
        if model.captioner is not None:
            extras["captions"] = model.captioner.caption(images)
        return EditOutput(images, texts, extras)

    def _edit(
        self,
        model: MMIG,
        task: Task,
        layers: Sequence[tuple[str, str]],
        batch: Batch,
        generators: Sequence[torch.Generator],
    ) -> LayeredEdit:
        latents = encode(model.vae, task.source).float()
        branches, weights = conditions(model, task, self.sampling)
        null = model.encode_text([""]).float()
        branches = {name: _under(branch, null.expand(len(latents), -1, -1)) for name, branch in branches.items()}

        def predict(noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
            return unguided_denoiser(model, task, condition)(noisy, timesteps).float()

        def denoiser_under(states: Tensor) -> Denoiser:
            full = _under(branches["full"], states)
            return guided_denoiser(model, task, branches | {"full": full}, weights)

        objects, backgrounds = zip(*layers, strict=True)
        tokens = amortised(model.encode_text, objects, backgrounds)
        return layered_edit(
            predict,
            denoiser_under,
            self.pipeline.scheduler,
            latents,
            LayeredTokens(*(states.float() for states in tokens)),  # steps of Adam are lost in half precision
            _masks(batch, (latents.shape[2], latents.shape[3]), self.sampling.mask_mode).to(latents.device),
            generators,
            self.sampling,
            branches["full"],
            from_noise=model.source_conditioning != "img2img",
            schedule=model.kind.schedule(
                self.pipeline.scheduler, self.sampling.num_steps, (latents.shape[2], latents.shape[3])
            ),
        )


def split_response(response: str, instruction: str = "") -> tuple[str, str]:
    """A guess at the phrases of object and background, where the data name none; the user's own are always better.

    The object is the response's first noun that the instruction names too, else its first noun, with the article and
    the attributes before it; the background is the rest. "a red ball on the wet beach" gives ("a red ball", "on the
    wet beach"); a response without a noun is all object.
    """
    phrases, named = noun_phrases(response), set(re.findall(r"\w+", instruction.lower()))
    if not phrases:
        return response, ""
    words = next((words for words in phrases if words[-1] in named), phrases[0])
    match = re.search(r"\b(?:(?:an?|the)\s+)?" + r"[\s-]+".join(words) + r"\b", response, re.IGNORECASE)
    if match is None:  # a letter whose lower case is spelt otherwise
        return response, ""
    rest = f"{response[: match.start()]} {response[match.end() :]}"
    return match.group(), " ".join(rest.split()).strip(" ,.;:")


def _phrases(batch: Batch, texts: Sequence[str]) -> list[tuple[str, str]]:
    """(object, background) of each sample: the batch's phrases, or else parts of the response or the instruction."""
    nothing = [""] * len(texts)
    given = zip(batch.get("object_phrase", nothing), batch.get("background_phrase", nothing), strict=True)
    guesses = [
        split_response(text or instruction, instruction)
        for text, instruction in zip(texts, batch["instruction"], strict=True)
    ]
    return [(a or b, c or d) for (a, c), (b, d) in zip(given, guesses, strict=True)]


def _masks(batch: Batch, size: tuple[int, int], mode: MaskMode) -> Tensor:
    """M of eq 15 on the latent grid, [B,1,h,w]; a sample without a mask is compared all over in every mode."""
    everywhere = torch.full((len(batch["key"]), 1, *size), 0.0 if mode == "background" else 1.0)
    if "reference_mask" not in batch:
        return everywhere
    masks = mask_to_latents(batch["reference_mask"], size)
    return torch.where(batch["has_reference_mask"].view(-1, 1, 1, 1), masks, everywhere.to(masks.device))


def _under(condition: Conditioning, tokens: Tensor) -> Conditioning:
    return replace(condition, tokens=tokens, mask=None)

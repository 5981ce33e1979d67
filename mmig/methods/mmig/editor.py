"""How MMIG samples, as configs name it, and MMIG's pipeline as evaluate.py, edit.py and the callbacks see it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from datamodules.schema import Batch
from mmig.base.values import check_values
from mmig.editor import Editor, EditOutput, ResponseSource

if TYPE_CHECKING:
    from mmig.methods.mmig.pipeline import MMIGPipeline


@dataclass
class SamplingConfig:
    """How to sample.

    Attributes:
        num_steps: steps of the whole schedule.
        guidance_scale: weight of the text; 1 switches guidance off.
        image_guidance_scale: weight of the source image; not for "img2img".
        strength: how far back in the noise an edit starts, in [0, 1]; only for "img2img".
        response: "given" takes the batch's response, "generated" lets the LLM write it from the instruction.
        attention_guidance: step size of A-STAR at the first step (`AttentionGuidance`; 20 is Attend-and-Excite's);
            0 switches it off.
        measure_overlap: also say how far the concepts' attention overlaps in the edited images (`overlap.py`).
        use_mmsm: False leaves the mutual support modules out, or the connector in their place, for comparison.
        sees: False hides the source from the language model, for comparison; the denoiser is shown it all the same.
        embedded_guidance: what a FLUX transformer that was distilled with guidance is told of it (Kontext: 2.5); others
            are told nothing. Such ones are sampled with both scales at 1.
    """

    num_steps: int = 50
    guidance_scale: float = 7.5
    image_guidance_scale: float = 1.5
    strength: float = 0.8
    response: ResponseSource = "given"
    attention_guidance: float = 0.0
    use_mmsm: bool = True
    embedded_guidance: float = 2.5
    measure_overlap: bool = False
    sees: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError for a response from elsewhere, or a value that cannot be."""
        if self.response not in ("given", "generated"):
            raise ValueError(f"sampling.response: expected 'given' or 'generated', found {self.response!r}")
        check_values(self, "sampling", attention_guidance=(0, math.inf), embedded_guidance=(0, math.inf))


class PipelineEditor:
    """What the editors of MMIG's pipeline have in common.

    Args:
        pipeline: MMIG's pipeline.
        sampling: how to sample, and where the response comes from.
    """

    def __init__(self, pipeline: "MMIGPipeline", sampling: SamplingConfig) -> None:
        self.pipeline = pipeline
        self.sampling = sampling

    @property
    def autoencoder(self) -> nn.Module:
        """The pipeline's."""
        return self.pipeline.vae

    @property
    def required_fields(self) -> tuple[str, ...]:
        """Source and instruction, and the response where the data give it."""
        given = ("response",) if self.sampling.response == "given" else ()
        return ("source", "instruction", *given)

    @property
    def response_source(self) -> ResponseSource:
        """As `sampling` says."""
        return self.sampling.response

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """Settings that do nothing with the pipeline's parts and its way of conditioning on the source."""
        model = self.pipeline.model
        idle = ("image_guidance_scale",) if model.source_conditioning == "img2img" else ("strength",)
        idle += ("sees",) if model.mllm is None or model.mllm.vision is None else ()
        return idle if model.kind.guidance(model.unet, 1.0, 1) else (*idle, "embedded_guidance")

    @property
    def resolution(self) -> int:
        """Longer side in pixels of the images that it was trained on."""
        return self.pipeline.editing_resolution


class MMIGEditor(PipelineEditor):
    """MMIG's pipeline as an `Editor`: a batch in, edited images out.

    Args:
        pipeline, sampling: see `PipelineEditor`.
        show_attention: also give the attention maps of the responses' nouns, in `extras["attention"]`.
    """

    def __init__(self, pipeline: "MMIGPipeline", sampling: SamplingConfig, show_attention: bool = False) -> None:
        super().__init__(pipeline, sampling)
        self.show_attention = show_attention

    @property
    def attends_to_words(self) -> bool:
        """Whether the denoiser reads a text, and not a connector's tokens or nothing in its place."""
        return not self.pipeline.model.unread_text(self.sampling.use_mmsm)

    def showing_attention(self) -> "MMIGEditor":
        """The same, with attention maps."""
        return MMIGEditor(self.pipeline, self.sampling, show_attention=True)

    def layered(self) -> Editor:
        """The editor of the same pipeline that works under the phrases of object and background (eq 15, 16)."""
        from mmig.methods.mmig.layered_editor import LayeredEditor  # they need what is above
        from mmig.methods.mmig.layered_sampling import LayeredSampling

        return LayeredEditor(self.pipeline, LayeredSampling(**asdict(self.sampling)))

    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        """Edit the sources of a batch; `extras` as of `MMIGPipeline.edit`."""
        return self.pipeline.edit(
            batch["source"],
            batch["instruction"],
            batch["response"] if self.response_source == "given" else None,
            self.sampling,
            generator,
            return_attention=self.show_attention,
        )


def open_editor(path: str, sampling: SamplingConfig | None = None) -> MMIGEditor:
    """The editor of a folder that `mmig.run.export` wrote from a run of MMIG.

    Args:
        path: the folder, or the hub id of one.
        sampling: how to sample; None: as the folder says.
    """
    from mmig.methods.mmig.pipeline import MMIGPipeline  # diffusers and transformers, which a configuration needs not

    pipeline = MMIGPipeline.from_pretrained(path)
    return MMIGEditor(pipeline, sampling or SamplingConfig(**pipeline.config.sampling))

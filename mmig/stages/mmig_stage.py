"""What the stages of MMIG share: the parts, what of them trains, and the losses that count."""

from typing import ClassVar

from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.editing import Editor
from mmig.injection import Injection
from mmig.model import MMIG, BackboneConfig, MMSMConfig, SourceConditioning, load_parts
from mmig.optim import OptimizerConfig
from mmig.pipeline import MMIGEditor, MMIGPipeline, SamplingConfig
from mmig.rng import Draws
from mmig.stages.base import TrainingModule


class MMIGStage(TrainingModule):
    """A stage of MMIG (section 3.5 of the paper). Subclasses are declarations.

    Args:
        backbones: hub ids or folders of the pretrained parts.
        optimizer: AdamW and its schedule.
        mmsm: sizes and places of the mutual support modules.
        source_conditioning: how the denoiser sees the source image.
        sampling: how the stage's pipeline samples.
        loss_weights: weights in place of the stage's own (the paper's: all 1), by name.
        seed: seed of every draw.
        micro_batch_size: samples a forward and backward; None takes the rank's whole part of the global batch.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
    """

    trained_parts: ClassVar[tuple[str, ...]]
    counted_losses: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        backbones: BackboneConfig,
        optimizer: OptimizerConfig,
        mmsm: MMSMConfig | None = None,
        source_conditioning: SourceConditioning = "img2img",
        sampling: SamplingConfig | None = None,
        loss_weights: dict[str, float] | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights or dict.fromkeys(self.counted_losses, 1.0), seed, micro_batch_size)
        self.backbones = backbones
        self.sampling = sampling or SamplingConfig()
        self.mmig = MMIG(load_parts(backbones, mmsm or MMSMConfig()), source_conditioning)
        self.mmig.requires_grad_(False)
        for part in self.trained_parts:
            self.mmig.get_submodule(part).requires_grad_(True).train()
        self._injection: Injection | None = None

    def losses(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The stage's loss terms [B] by name."""
        values, self._injection = self.mmig.losses(batch, draws)
        return {name: values[name] for name in self.counted_losses}

    def loss_counts(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Samples without a target count in no loss; those without a response have no text to align with."""
        has_target, has_response = batch["has_target"].float(), batch["has_response"].float()
        return {"sdm": has_target, "mmsm": has_target * has_response}

    def timesteps(self, draws: Draws) -> Tensor:
        """Timestep of each sample's noise loss."""
        return self.mmig.timesteps(draws)

    def logged(self) -> dict[str, Tensor]:
        """Spread of the pooled e3 and e2 over the batch: near 0 when L_MMSM has collapsed to a constant."""
        if self._injection is None:
            return {}
        text, features = self._injection.pooled_std()
        return {"std_text": text, "std_features": features}

    def named_backbones(self) -> dict[str, nn.Module]:
        """The pretrained parts."""
        model = self.mmig
        return {"unet": model.unet, "vae": model.vae, "text_encoder": model.text_encoder, "llm": model.llm}

    def backbone_paths(self) -> dict[str, str]:
        """Where the pretrained parts come from."""
        root = self.backbones.diffusion
        unet = self.backbones.unet or root
        return {"vae": root, "text_encoder": root, "unet": unet, "llm": self.backbones.llm}

    def make_pipeline(self) -> Editor:
        """MMIG's pipeline with this stage's weights."""
        return MMIGEditor(MMIGPipeline.from_model(self.mmig), self.sampling)

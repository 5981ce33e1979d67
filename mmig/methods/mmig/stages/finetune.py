"""Fine-tuning on data of one's own: stage 4's losses, with low-rank updates in place of whole weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mmig.methods.mmig.parts import BackboneConfig
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage3, Stage4
from mmig.training.lora import LLM_TARGETS, UNET_TARGETS, LoRAConfig, add_lora, as_named_in
from mmig.training.optim import OptimizerConfig


@dataclass
class Updates:
    """Low-rank updates of the pretrained parts, which stay frozen; rank 0 puts none in.

    Attributes:
        unet: of the denoiser.
        llm: of the language model.
    """

    unet: LoRAConfig = field(default_factory=LoRAConfig)
    llm: LoRAConfig = field(default_factory=lambda: LoRAConfig(rank=0))


class FineTune(MMIGStage):
    """Trains updates of denoiser and language model, MMSM and adapters with L_MMT, L_DEM and L_MMSM.

    Args:
        backbones, optimizer: as of every stage.
        lora: low-rank updates of denoiser and language model.
        settings: the others of every stage, see `MMIGStage`.

    Raises:
        LoRAError: updates that do not fit the models.
        BackboneError, ValueError: as of every stage.
    """

    new_parts = ("mmig.mmsm", "mmig.connector", "mmig.mllm.adapters")  # a run of any stage may be the start
    trained_parts = ("mmsm", "mllm.adapters")
    counted_losses = Stage4.counted_losses
    strict_losses = counted_losses

    def __init__(
        self, backbones: BackboneConfig, optimizer: OptimizerConfig, lora: Updates | None = None, **settings: Any
    ) -> None:
        self._updates = lora or Updates()
        super().__init__(backbones, optimizer, **settings)

    def _choose_trained(self, trained: Sequence[str]) -> None:
        super()._choose_trained(trained)
        models = {"unet": (self.mmig.unet, UNET_TARGETS), "llm": (self.mmig.mllm.llm, LLM_TARGETS)}
        for name, (model, targets) in models.items():
            config = getattr(self._updates, name)
            if config.rank:
                add_lora(model, config, targets, f"lora.{name}")

    def own_names(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a run without updates, or with others, under the names that they have here."""
        return as_named_in(self.state_dict(), weights)


class FineTuneDenoiser(FineTune):
    """The same with the whole multimodal LLM frozen, so that its states can be cached: stage 3's L_DEM and L_MMSM."""

    trained_parts = ("mmsm",)
    needed_fields = ("target",)
    counted_losses = Stage3.counted_losses
    strict_losses = counted_losses

    def _choose_trained(self, trained: Sequence[str]) -> None:
        if self._updates.llm.rank:
            raise ValueError("lora.llm.rank: FineTuneDenoiser freezes the language model; give 0, or take FineTune")
        super()._choose_trained(trained)

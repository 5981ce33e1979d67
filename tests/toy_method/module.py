"""Training: the painter against the pictures and the critic, the critic against the painter."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.named import Backbone, BackboneSettings
from mmig.cache.frozen import CachedFeature, FrozenFeatures
from mmig.editor import Editor
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm
from mmig.training.turns import ComputedWeight, Turn
from tests.toy_method.ear import EAR, load_ear
from tests.toy_method.editor import ToneEditor, ToneSampling, first_sounds
from tests.toy_method.painter import NOISE, Critic, Painter

EDITOR = "class_path: tests.toy_method.editor.open_editor\n"


class ToneModule(TrainingModule):
    """Learns to paint the colour that goes with a tone.

    Args:
        optimizer: of both turns.
        ear: folder of the backbone.
        loss_weights: of `reconstruction`, `adversarial` and `critic`.
        width: of the painter.
        critic_start: first step of the critic.
        sampling: of the editor.
        seed, micro_batch_size: see `TrainingModule`.
    """

    known_losses = ("reconstruction", "adversarial", "critic")
    backbone_settings: ClassVar[BackboneSettings] = {"ear": {"ear": EAR}}
    metrics = ("tests.toy_method.metric.ColourDistance",)
    not_averaged = ("critic",)

    def __init__(
        self,
        optimizer: OptimizerConfig,
        ear: str | Backbone,
        loss_weights: dict[str, float] | None = None,
        width: int = 16,
        critic_start: int = 1,
        sampling: ToneSampling | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights or dict.fromkeys(self.known_losses, 1.0), seed, micro_batch_size)
        self.name_backbones(ear=ear)
        self.critic_start, self.sampling = critic_start, sampling
        self.ear = load_ear(self.origins["ear"])
        self.painter, self.critic = Painter(self.ear.num_bands, width), Critic()
        self.features = FrozenFeatures(self.fingerprints)
        self.features.declare(CachedFeature("ear.tones", self._tones, ("ear",)))

    def turns(self) -> tuple[Turn, ...]:
        """Painter and critic."""
        adversarial = {"adversarial": ComputedWeight("painter.colour.weight")}
        return (
            Turn("painter", ("painter",), ("reconstruction", "adversarial"), computed_weights=adversarial),
            Turn("critic", ("critic",), ("critic",), start=self.critic_start),
        )

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Samples that have a sound and a picture count."""
        heard = batch["has_attachment_audio"].any(dim=1) & batch["has_target"]
        painted = cache(lambda: self._painted(batch, draws))
        values = {
            "reconstruction": lambda: (painted() - batch["target"]).abs().mean(dim=(1, 2, 3)),
            "adversarial": lambda: -self.critic(painted()),
            "critic": lambda: F.relu(1 - self.critic(batch["target"])) + F.relu(1 + self.critic(painted().detach())),
        }
        return {name: LossTerm(heard.to(self.device), values[name]) for name in self.loss_weights}

    def _painted(self, batch: Batch, draws: Draws) -> Tensor:
        tones, _ = self.features.get("ear.tones", batch)
        noise = draws.normal("noise", (NOISE,)).to(self.device)
        return self.painter(tones[:, 0].to(self.device, torch.float32), noise)

    def _tones(self, batch: Batch) -> list[Tensor]:
        return list(self.ear(first_sounds(batch).to(self.device))[:, None])

    def named_backbones(self) -> dict[str, nn.Module]:
        """The ear."""
        return {"ear": self.ear}

    def make_pipeline(self) -> Editor:
        """Paints."""
        return ToneEditor(self.ear, self.painter, self.sampling)

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """Ear and painter in folders of their own."""
        self.ear.save(folder / "ear")
        (folder / "painter").mkdir()
        sizes = {"num_bands": self.ear.num_bands, "width": self.painter.hidden.out_features}
        (folder / "painter" / "config.json").write_text(json.dumps(sizes))
        save_file(dict(self.painter.state_dict()), folder / "painter" / "model.safetensors")
        (folder / "editor.yaml").write_text(EDITOR)
        return "Paints tones."

"""Training of the refinement prior (Li et al. 2023, section 3.3, eq 2), on vectors that may all be cached."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.named import Backbone, BackboneSettings
from mmig.backbones.parts import CLIP_VISION, IMAGEBIND_PARTS
from mmig.cache.frozen import CachedFeature, FrozenFeatures, image
from mmig.diffusion.saving import save_parts
from mmig.methods.instruct_any2pix.aesthetic import AESTHETIC, load_aesthetic
from mmig.methods.instruct_any2pix.corruption import Task, choose_task, drops, noised
from mmig.methods.instruct_any2pix.prior import RefinementPrior
from mmig.methods.instruct_any2pix.vectors import AUDIO, IMAGE, attached_vectors, load_encoder, one_vector
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

ABOUT = """The refinement prior of InstructAny2Pix (Li et al. 2023): it restores corrupted ImageBind vectors and \
translates those of texts and sounds into those of pictures.

## Use

As the backbone `prior` of a language phase or of `any_to_image` (docs/instruct_any2pix.md)."""
SCORES = "aesthetic.target"
"""The cached aesthetic scores."""


@dataclass
class PriorSize:
    """Sizes of a prior; the defaults are the published ones. See `RefinementPrior`.

    Attributes:
        hidden_dim, layers, heads, score_dim, vector_norm, dropout: of the transformer and its inputs.
    """

    hidden_dim: int = 1024
    layers: int = 24
    heads: int = 16
    score_dim: int = 512
    vector_norm: float = 20.0
    dropout: float = 0.0


class PriorModule(TrainingModule):
    """Trains the prior; loss term `prior` (eq 2), the squared distance of unit vectors.

    A sample is a picture (`target`) with a caption (`target_caption`), with a sound (the first attached one), or both.
    What is restored is its picture; with `both_ways` also its sound, which the data step needs.

    Args:
        optimizer, seed, micro_batch_size: see `TrainingModule`.
        imagebind: folder or hub id of the encoder.
        aesthetic: folder of the score's predictor, None: no scores; `aesthetic_clip` is the CLIP below it.
        aesthetic_clip: see `aesthetic`.
        size: of the prior.
        both_ways: restore sounds too (section 3.4.2).
        noise_share: of noise among the corruptions of a sample that has another modality.
        noise_sigma: see `corruption.noised`.
        drop: share of samples without their score, half of them without their vector too: what guidance needs.
        distance: "squared" as in the paper, "l1" as released, the mean over dimensions.
        loss_weights: of `prior`.

    Raises:
        BackboneError: a part is missing or broken.
        ValueError: settings out of range.
    """

    known_losses = ("prior",)
    new_parts: ClassVar[tuple[str, ...]] = ("prior",)
    exported_parts: ClassVar[Mapping[str, str]] = {"prior": "prior"}
    hub_task: ClassVar[str] = ""
    backbone_settings: ClassVar[BackboneSettings] = {
        "imagebind": IMAGEBIND_PARTS,
        "aesthetic": {"aesthetic": AESTHETIC},
        "aesthetic_clip": {"aesthetic_clip": CLIP_VISION},
    }

    def __init__(
        self,
        optimizer: OptimizerConfig,
        imagebind: str | Backbone,
        aesthetic: str | Backbone | None = None,
        aesthetic_clip: str | Backbone | None = None,
        size: PriorSize | None = None,
        both_ways: bool = False,
        noise_share: float = 0.5,
        noise_sigma: float = 0.05,
        drop: float = 0.1,
        distance: Literal["squared", "l1"] = "squared",
        loss_weights: dict[str, float] | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights or {"prior": 1.0}, seed, micro_batch_size)
        for name, value in (("noise_share", noise_share), ("drop", drop)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a share in [0, 1], found {value}")
        if (aesthetic is None) != (aesthetic_clip is None):
            raise ValueError("aesthetic, aesthetic_clip: expected both or none; one reads what the other gives")
        self.name_backbones(imagebind=imagebind, aesthetic=aesthetic, aesthetic_clip=aesthetic_clip)
        self.encoder = load_encoder(self.origins["imagebind"], self.origins["imagebind_tokenizer"])
        self.scorer = None
        if aesthetic is not None:
            self.scorer = load_aesthetic(self.origins["aesthetic"], self.origins["aesthetic_clip"])
        self.prior = RefinementPrior(self.encoder.width, **asdict(size or PriorSize()))
        self.targets = (IMAGE, AUDIO) if both_ways else (IMAGE,)
        self.noise_share, self.noise_sigma, self.drop, self.distance = noise_share, noise_sigma, drop, distance
        self.features = FrozenFeatures(self.fingerprints)
        own = [self.encoder.of_image("target"), self.encoder.of_text("target_caption"), self.encoder.of_attachments()]
        if self.scorer is not None:
            own.append(CachedFeature(SCORES, self._scores_to_cache, ("aesthetic", "aesthetic_clip"), True))
        self.features.declare(*own)

    # Losses ------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Distance of what the prior restores from what it was, ||F_enc(X) - F_prior(C(F_enc(X)), f)||^2."""
        uniforms = [draws.uniform(name) for name in ("target", "corruption", "source")]
        task = choose_task(self._present(batch), self.targets, self.noise_share, uniforms)
        return {"prior": LossTerm(task.valid.to(self.device), lambda: self._distance(batch, draws, task))}

    def _present(self, batch: Batch) -> Tensor:
        """Which modalities each sample has, bool [B,3] in the order of their numbers."""
        return torch.stack(
            [batch["has_target"], batch["has_attachment_audio"].any(dim=1), batch["has_target_caption"]], dim=1
        )

    def _distance(self, batch: Batch, draws: Draws, task: Task) -> Tensor:
        """Of each sample, [B]."""
        source, target, noisy = (part.to(self.device) for part in (task.source, task.target, task.noisy))
        table = self._vectors(batch)
        rows = torch.arange(len(table), device=self.device)
        wanted, given = table[rows, target], table[rows, source]
        noise = draws.normal("noise", given.shape[1:]).to(self.device)
        given = torch.where(noisy[:, None], noised(given, noise, self.noise_sigma), given)
        no_score, no_vector = (part.to(self.device) for part in drops(draws.uniform("drop"), self.drop))
        scores, has_score = self._scores(batch)
        given = given.masked_fill(no_vector[:, None], 0)
        found = self.prior(given, source, target, scores, has_score & ~no_score)
        if self.distance == "l1":
            return (found - wanted).abs().mean(dim=1)
        return (found - wanted).square().sum(dim=1)  # (2)

    # Features ----------------------------------------------------------------------------------------------------

    def _vectors(self, batch: Batch) -> Tensor:
        """Vectors of each modality of a sample, [B,3,D]; those that it has not mean nothing."""
        pictures = one_vector(self.features, "vectors.target", batch, self.device)
        texts = one_vector(self.features, "vectors.target_caption", batch, self.device)
        attached = attached_vectors(self.features, batch, self.device)
        heard = batch["has_attachment_audio"].to(self.device)
        if heard.shape[1]:
            first = heard.int().argmax(dim=1)
            sounds = attached[torch.arange(len(first), device=self.device), first]
        else:
            sounds = torch.zeros_like(pictures)
        return torch.stack([pictures, sounds, texts], dim=1)

    def _scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Aesthetic score of each picture and whether there is one, [B] each; of no use where sounds are restored."""
        has_picture = batch["has_target"].to(self.device)
        if self.scorer is None:
            return torch.zeros(len(has_picture), device=self.device), torch.zeros_like(has_picture)
        return self.features.get(SCORES, batch)[0][:, 0, 0].to(self.device, torch.float32), has_picture

    def _scores_to_cache(self, batch: Batch) -> list[Tensor]:
        return list(self.scorer(image(batch, "target"))[:, None, None])

    @property
    def images_with_features(self) -> frozenset[str]:
        """Both; the source is not looked at."""
        return frozenset({"source", "target"})

    # What others see ---------------------------------------------------------------------------------------------

    def named_backbones(self) -> dict[str, nn.Module]:
        """Encoder and scorer, frozen."""
        found: dict[str, nn.Module] = {"imagebind": self.encoder}
        if self.scorer is not None:
            found |= {"aesthetic": self.scorer.predictor, "aesthetic_clip": self.scorer.clip}
        return found

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """The prior."""
        save_parts(folder, {"prior": self.prior})
        return ABOUT

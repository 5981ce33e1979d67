"""The first way: the code of one picture moves towards one prompt (StyleCLIP eq 6); nothing is trained."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.backbones.named import Backbone
from mmig.base.values import check_values
from mmig.base.watching import steps
from mmig.methods.styleclip.clip_loss import ClipLoss
from mmig.methods.styleclip.editing import FROM_ZERO, CodeEditor, InversionSampling, Texts
from mmig.methods.styleclip.identity import IdentityLoss, load_identity
from mmig.methods.styleclip.inversion import Inverter, load_inverter
from mmig.methods.styleclip.loading import EDITING_PARTS, editing_origins, load_generator, load_loss_clip
from mmig.methods.styleclip.projector import Inverted
from mmig.methods.styleclip.schedule import ramp

Norm = Literal["squared", "norm"]


@dataclass(frozen=True)
class LatentSampling(InversionSampling):
    """How codes are optimised; the defaults are those of the authors' notebook.

    Attributes:
        num_steps: of Adam; 300 in the authors' script.
        lr: its peak.
        l2: lambda_L2, 0.002 to 0.008 in the paper's figures: less for a stronger edit.
        identity: lambda_ID; idle without a face network.
        norm: of w - w_s: "squared" as in the authors' code, "norm" as it is printed.
        text: field of the batch that says t.
    """

    num_steps: int = 40
    lr: float = 0.1
    l2: float = 0.008
    identity: float = 0.005
    norm: Norm = "squared"
    text: Texts = "target_caption"

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        super().__post_init__()
        check_values(self, "sampling", lr=FROM_ZERO, l2=FROM_ZERO, identity=FROM_ZERO)


def code_distance(codes: Tensor, start: Tensor, norm: Norm) -> Tensor:
    """Sum of squares of w - w_s, [B], of codes [B,n,D] each; or its root, which has no gradient at 0."""
    squared = (codes - start).square().sum((1, 2))
    return squared if norm == "squared" else (squared + 1e-12).sqrt()


class LatentOptimisationEditor(CodeEditor):
    """Edits each picture by an optimisation of its own.

    Args:
        inverter: with the generator.
        clip: D_CLIP.
        identity: L_ID; None outside of faces.
        sampling: how.
    """

    sampling: LatentSampling

    def __init__(
        self,
        inverter: Inverter,
        clip: ClipLoss,
        identity: IdentityLoss | None = None,
        sampling: LatentSampling | None = None,
    ) -> None:
        super().__init__(inverter, sampling or LatentSampling())
        self.clip, self.identity = clip, identity

    @property
    def required_fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """A picture and its prompt."""
        return ("source", self.sampling.text)

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """As of `CodeEditor`; and without a face network lambda_ID."""
        return (*super().idle_settings, *(() if self.identity else ("identity",)))

    def prompts(self, batch: Batch) -> list[str]:
        """The texts t."""
        return list(batch[self.sampling.text])  # type: ignore[literal-required]

    def aims(self, batch: Batch) -> Tensor:
        """t, unit vectors [B,D]."""
        return self.clip.encode_texts(self.prompts(batch))

    def edit(self, inverted: Inverted, aims: Tensor) -> Tensor:
        """Pictures of the optimised codes."""
        codes = self.optimised(inverted, aims)
        with torch.no_grad():
            return self.generator(codes, inverted.noise)

    def optimised(self, inverted: Inverted, texts: Tensor) -> Tensor:
        """The minimum of eq 6 over w in W+, [B,n,D].

        Args:
            inverted: w_s.
            texts: t, unit vectors [B,D].
        """
        sampling, start = self.sampling, inverted.codes.detach()
        codes = start.clone().requires_grad_()
        with torch.no_grad():
            source = self.generator(start, inverted.noise)
        optimizer = torch.optim.Adam([codes])
        for step in steps("optimisation", range(sampling.num_steps)):
            optimizer.param_groups[0]["lr"] = sampling.lr * ramp(step, sampling.num_steps)
            images = self.generator(codes, inverted.noise)
            loss = self.clip.distance(images, texts) + sampling.l2 * code_distance(codes, start, sampling.norm)  # (6)
            if self.identity is not None and sampling.identity:
                loss = loss + sampling.identity * self.identity(images, source)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
        return codes.detach()


def open_editor(
    generator: str | Backbone,
    clip: str | Backbone,
    encoder: str | None = None,
    lpips: str | None = None,
    identity: str | None = None,
    clip_normalise: bool = False,
    sampling: LatentSampling | None = None,
) -> LatentOptimisationEditor:
    """Latent optimisation from pretrained parts.

    Args:
        generator: folder, or a run of `StyleGANModule`.
        clip: open_clip folder or hub id; never the one that judges.
        encoder, lpips: see `load_inverter`.
        identity: file of the face network, see `load_identity`.
        clip_normalise: see `ClipLoss`.
        sampling: how.

    Raises:
        BackboneError: a part that is missing, broken or does not fit.
    """
    named = editing_origins(generator, clip)
    inverter = load_inverter(load_generator(named["generator"]), encoder, lpips)
    loss = ClipLoss(load_loss_clip(named["clip"]), clip_normalise)
    return LatentOptimisationEditor(inverter, loss, load_identity(identity), sampling)


open_editor.backbone_settings = EDITING_PARTS  # type: ignore[attr-defined]  # for `python -m mmig.backbones fetch`

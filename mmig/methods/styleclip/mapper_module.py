"""Training of a mapper for one prompt (StyleCLIP eq 8)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.named import Backbone, BackboneSettings
from mmig.backbones.parts import BackboneError
from mmig.checkpoints.folders import write_editor
from mmig.diffusion.saving import save_parts
from mmig.methods.styleclip.clip_loss import ClipLoss
from mmig.methods.styleclip.editing import METRIC
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.identity import load_identity
from mmig.methods.styleclip.inversion import load_inverter
from mmig.methods.styleclip.loading import EDITING_PARTS, load_generator, load_loss_clip
from mmig.methods.styleclip.mapper import GROUPS, LatentMapper
from mmig.methods.styleclip.mapper_editor import MapperEditor, MapperSampling, save_encoder
from mmig.methods.styleclip.published import read_saved
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

OPENED_BY = "mmig.methods.styleclip.mapper_editor.open_editor"
ABOUT = """StyleCLIP's mapper (Patashnik et al. 2021) for the prompt "{prompt}", with its generator.

## Use

```
python edit.py --checkpoint {name} --image FILE --instruction "{prompt}" --out FILE
```"""
"""What a folder's card says; `name` is the folder's."""


class Mapped(NamedTuple):
    """Codes before and after, [B,n,D] each, and the pictures of the latter."""

    codes: Tensor
    moved: Tensor
    images: Tensor


class MapperModule(TrainingModule):
    """Trains a mapper on codes; of the samples of the stream only their number counts.

    Loss terms of eq 8: `clip`, D_CLIP of the edited picture; `l2`, mean square of the step that the codes take, after
    `step_size`; `identity`, L_ID.

    Args:
        optimizer: AdamW; the weights are stored a hundred times as large as they act, and so is its rate.
        prompt: t.
        generator: folder, or a run of `StyleGANModule`.
        clip: open_clip folder or hub id; never the one that judges.
        loss_weights: of the terms; None: 1, 0.8 and 0.1 (without a face network 1 and 0.8).
        groups, bounds, norm_dim: see `LatentMapper`.
        step_size: of w + step_size M(w), 0.1 in the authors' code.
        latents: file of codes w+ [N,n,D] that are trained on, such as pictures that e4e has inverted; None draws them.
        truncation: of drawn codes.
        clip_normalise: see `ClipLoss`.
        identity: file of the face network; None outside of faces.
        encoder, lpips: of the editor, see `load_inverter`.
        sampling: of the editor.
        seed, micro_batch_size: see `TrainingModule`.

    Raises:
        BackboneError: a part that is missing, broken or does not fit.
        StyleClipError: a prompt that CLIP cuts.
        ValueError: groups that cannot be, or a weight of `identity` without a face network.
    """

    known_losses = ("clip", "l2", "identity")
    metrics = (METRIC,)
    backbone_settings: ClassVar[BackboneSettings] = EDITING_PARTS

    def __init__(
        self,
        optimizer: OptimizerConfig,
        prompt: str,
        generator: str | Backbone,
        clip: str | Backbone,
        loss_weights: dict[str, float] | None = None,
        groups: Sequence[str] = GROUPS,
        bounds: tuple[int, int] = (4, 8),
        norm_dim: int = 1,
        step_size: float = 0.1,
        latents: str | None = None,
        truncation: float = 0.7,
        clip_normalise: bool = False,
        identity: str | None = None,
        encoder: str | None = None,
        lpips: str | None = None,
        sampling: MapperSampling | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        usual = {"clip": 1.0, "l2": 0.8} | ({"identity": 0.1} if identity else {})
        super().__init__(optimizer, loss_weights or usual, seed, micro_batch_size)
        if "identity" in self.loss_weights and identity is None:
            raise ValueError("loss_weights.identity: expected the file of a face network in identity, found none")
        self.name_backbones(generator=generator, clip=clip)
        self.generator = load_generator(self.origins["generator"])
        self.clip = ClipLoss(load_loss_clip(self.origins["clip"]), clip_normalise)
        self.identity = load_identity(identity)
        width = self.generator.config.w_dim
        self.mapper = LatentMapper(self.generator.num_codes, width, list(groups), list(bounds), norm_dim=norm_dim)
        self.prompt, self.step_size, self.truncation = prompt, step_size, truncation
        self.inversion, self.sampling = {"encoder": encoder, "lpips": lpips}, sampling or MapperSampling()
        self.latents = None if latents is None else read_latents(latents, self.generator)
        self._text = self.clip.encode_texts([prompt])  # also what refuses a prompt, before anything is trained

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Every sample counts."""
        mapped = cache(lambda: self._mapped(draws))
        values = {
            "clip": lambda: self.clip.distance(mapped().images, self._text.to(self.device)),
            "l2": lambda: (mapped().moved - mapped().codes).square().mean((1, 2)),
            "identity": lambda: self._identity(mapped()),
        }
        counts = torch.ones(len(draws.positions), device=self.device)
        return {name: LossTerm(counts, values[name]) for name in self.loss_weights}  # (8)

    def _mapped(self, draws: Draws) -> Mapped:
        with torch.no_grad():
            codes = self.codes(draws)
        moved = codes + self.step_size * self.mapper(codes)
        return Mapped(codes, moved, self.generator(moved))

    def codes(self, draws: Draws) -> Tensor:
        """Codes w+ [B,n,D] to learn from."""
        if self.latents is not None:
            return self.latents[draws.integers("latents", len(self.latents))].to(self.device)
        return self.generator.codes(draws.normal("z", (self.generator.config.z_dim,)).to(self.device), self.truncation)

    def _identity(self, mapped: Mapped) -> Tensor:
        with torch.no_grad():
            before = self.generator(mapped.codes)
        return self.identity(mapped.images, before)

    def named_backbones(self) -> dict[str, nn.Module]:
        """Generator, CLIP and face network, frozen."""
        faces = {} if self.identity is None else {"identity": self.identity}
        return {"generator": self.generator, "clip": self.clip, **faces}

    def make_pipeline(self) -> MapperEditor:
        """Edits as the prompt says."""
        return MapperEditor(load_inverter(self.generator, **self.inversion), self.mapper, self.prompt, self.sampling)

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """Mapper, generator and encoder: a mapper is nothing without the generator whose codes it moves."""
        editor = self.make_pipeline()
        save_parts(folder, {"generator": self.generator, "mapper": self.mapper})
        if editor.inverter.encoder is not None:
            save_encoder(editor.inverter.encoder, folder)
        write_editor(folder, OPENED_BY, prompt=self.prompt, sampling=asdict(self.sampling))
        return ABOUT.replace("{prompt}", self.prompt)


def read_latents(file: str | Path, generator: StyleGenerator) -> Tensor:
    """Codes w+ [N,n,D] of a file: one tensor that torch saved, or `latents` of a .safetensors.

    Raises:
        BackboneError: no such file, or codes of another generator.
    """
    content = read_saved(file)
    codes = content["latents"] if isinstance(content, Mapping) and "latents" in content else content
    shape = (generator.num_codes, generator.config.w_dim)
    if not isinstance(codes, Tensor) or codes.ndim != 3 or not len(codes) or tuple(codes.shape[1:]) != shape:
        found = f"shape {list(codes.shape)}" if isinstance(codes, Tensor) else "something else"
        raise BackboneError(
            f"latents: {file}: expected codes [N,{shape[0]},{shape[1]}] of the generator, found {found}; invert "
            "pictures with its own encoder"
        )
    return codes.float()

"""Trained mappers from outside: one forward an edit, each for the prompt that it was trained for."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from datamodules.schema import Batch
from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import BackboneSettings, Origin, Source
from mmig.backbones.parts import BackboneError, Part
from mmig.base.values import check_values
from mmig.methods.styleclip.e4e import EditingEncoder
from mmig.methods.styleclip.editing import FROM_ZERO, CodeEditor, InversionSampling
from mmig.methods.styleclip.errors import StyleClipError
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.inversion import Inverter, load_inverter
from mmig.methods.styleclip.loading import GENERATOR, load_generator
from mmig.methods.styleclip.mapper import LatentMapper
from mmig.methods.styleclip.projector import Inverted

MAPPER = Part("mapper", "mapper", kind_key="_class_name", kinds=("LatentMapper",))
ENCODER_FILE = "encoder.safetensors"


@dataclass(frozen=True)
class MapperSampling(InversionSampling):
    """How a mapper edits.

    Attributes:
        step_size: of w + step_size M(w): 0.1 in training and in the authors' code; more is a stronger edit.
    """

    step_size: float = 0.1

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        super().__post_init__()
        check_values(self, "sampling", step_size=FROM_ZERO)


class _MappedEditor(CodeEditor):
    """Moves each code by a mapper."""

    sampling: MapperSampling

    def __init__(self, inverter: Inverter, sampling: MapperSampling | None) -> None:
        super().__init__(inverter, sampling or MapperSampling())

    @abstractmethod
    def aims(self, batch: Batch) -> Sequence[LatentMapper]:
        """M_t of each sample."""

    @torch.no_grad()
    def edit(self, inverted: Inverted, aims: Sequence[LatentMapper]) -> Tensor:
        """Pictures of w + step_size M(w)."""
        steps = torch.empty_like(inverted.codes)
        for mapper in dict.fromkeys(aims):
            rows = [row for row, own in enumerate(aims) if own is mapper]
            steps[rows] = mapper(inverted.codes[rows]).to(steps.dtype)  # of lower precision under autocast
        return self.generator(inverted.codes + self.sampling.step_size * steps, inverted.noise)


class MapperEditor(_MappedEditor):
    """Edits every picture as one prompt says.

    Args:
        inverter: with the generator.
        mapper: M_t.
        prompt: t.
        sampling: how.
    """

    def __init__(
        self, inverter: Inverter, mapper: LatentMapper, prompt: str, sampling: MapperSampling | None = None
    ) -> None:
        super().__init__(inverter, sampling)
        self.mapper, self.prompt = mapper, prompt

    def prompts(self, batch: Batch) -> list[str]:
        """The prompt of each."""
        return [self.prompt] * len(batch["key"])

    def aims(self, batch: Batch) -> list[LatentMapper]:
        """The one mapper."""
        return [self.mapper] * len(batch["key"])


class MappersEditor(_MappedEditor):
    """Edits every picture by the mapper of its instruction, one of a few prompts.

    Args:
        inverter: with the generator.
        mappers: M_t by their prompts t.
        sampling: how.
    """

    required_fields = ("source", "instruction")

    def __init__(
        self, inverter: Inverter, mappers: Mapping[str, LatentMapper], sampling: MapperSampling | None = None
    ) -> None:
        super().__init__(inverter, sampling)
        self.mappers = dict(mappers)

    def prompts(self, batch: Batch) -> list[str]:
        """The instructions."""
        return list(batch["instruction"])

    def aims(self, batch: Batch) -> list[LatentMapper]:
        """The mapper of each.

        Raises:
            StyleClipError: there is no mapper for one.
        """
        for key, prompt in zip(batch["key"], batch["instruction"], strict=True):
            if prompt not in self.mappers:
                known = ", ".join(map(repr, self.mappers))
                raise StyleClipError(f"sample {key!r}: no mapper was trained for {prompt!r}; expected one of {known}")
        return [self.mappers[prompt] for prompt in batch["instruction"]]


def check_fits(mapper: LatentMapper, generator: StyleGenerator, where: str | Path) -> None:
    """Raise BackboneError where a mapper is of another generator's codes."""
    found = mapper.config.num_codes, mapper.config.width
    if found != (expected := (generator.num_codes, generator.config.w_dim)):
        raise BackboneError(
            f"{where}: expected a mapper of {expected[0]} codes of {expected[1]}, those of a generator of "
            f"{generator.resolution} pixels, found one of {found[0]} of {found[1]}; take its own generator"
        )


def save_encoder(encoder: EditingEncoder, folder: Path) -> None:
    """Write an encoder into an exported folder, for `load_e4e`."""
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items() if name != "latent_avg"}
    save_file({**state, "latent_avg": encoder.latent_avg.contiguous()}, folder / ENCODER_FILE)
    (folder / ENCODER_FILE).chmod(0o644)  # safetensors would hide it from others


def open_editor(
    path: Source, prompt: str, lpips: str | None = None, sampling: MapperSampling | None = None
) -> MapperEditor:
    """The editor of a folder that `MapperModule.export` wrote, frozen.

    Args:
        path: the folder.
        prompt: that it was trained for.
        lpips: see `load_inverter`.
        sampling: how.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
    """
    inverter = _open_inverter(path, lpips)
    return MapperEditor(inverter, _open_mapper(path, inverter.generator), prompt, sampling)


def open_editors(
    mappers: dict[str, str], lpips: str | None = None, sampling: MapperSampling | None = None
) -> MappersEditor:
    """The editor of several mappers of one generator, frozen.

    Args:
        mappers: by their prompts: runs of `MapperModule`, or folders that it exported.
        lpips: see `load_inverter`.
        sampling: how.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others; mappers of different generators.
        ValueError: no mapper.
    """
    if not mappers:
        raise ValueError("mappers: expected at least one prompt with its run or folder")
    first, *others = mappers.values()
    own = _identity(first)
    for path in others:
        if _identity(path) != own:
            raise BackboneError(f"{path}: expected a mapper of the same generator as {first}")
    inverter = _open_inverter(first, lpips)
    found = {prompt: _open_mapper(path, inverter.generator) for prompt, path in mappers.items()}
    return MappersEditor(inverter, found, sampling)


def _identity(path: str) -> str:
    """Of the generator that a mapper was exported with."""
    return fingerprint(Origin(path, GENERATOR, "mappers"))


def _open_inverter(path: Source, lpips: str | None) -> Inverter:
    encoder = locate(path, MAPPER).parent / ENCODER_FILE
    return load_inverter(load_generator(path), encoder if encoder.is_file() else None, lpips)


def _open_mapper(path: Source, generator: StyleGenerator) -> LatentMapper:
    mapper = load_strictly(LatentMapper, folder := locate(path, MAPPER), "float32")
    check_fits(mapper, generator, folder)
    return prepare(mapper, frozen=True, gradient_checkpointing=False)


BACKBONES: BackboneSettings = {"path": {"generator": GENERATOR, "mapper": MAPPER}}
open_editor.backbone_settings = BACKBONES  # type: ignore[attr-defined]  # for `python -m mmig.backbones fetch`

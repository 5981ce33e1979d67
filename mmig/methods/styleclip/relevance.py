"""What each channel of style space S does to CLIP's view of a picture (StyleCLIP, section 6).

It is measured once for a generator and a CLIP, and kept in a folder, in chunks of channels: ranks that share a folder
measure different chunks, and a killed one goes on where it was.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmig.backbones.files import read_json
from mmig.backbones.parts import BackboneError
from mmig.base.files import replacing, write_json
from mmig.base.values import check_values
from mmig.methods.styleclip.clip_loss import ClipLoss
from mmig.methods.styleclip.directions import StyleDirections
from mmig.methods.styleclip.generator import StyleGenerator

FACTS_FILE = "config.json"
STATISTICS_FILE = "statistics.safetensors"


@dataclass(frozen=True)
class DirectionSettings:
    """How relevance is measured; the defaults are the authors'.

    Attributes:
        num_codes: random codes whose styles give mean and deviation of each channel.
        num_images: pictures in which each channel is moved.
        distance: to both sides of its mean, in deviations.
        max_side: resolution up to which channels are moved; 128: 5376 of 9088.
        truncation, cutoff: psi of the codes, and how many of the n codes it moves.
        chunk: channels of a file.
        seed: of the codes.
    """

    num_codes: int = 100_000
    num_images: int = 100
    distance: float = 5.0
    max_side: int = 128
    truncation: float = 0.7
    cutoff: int = 8
    chunk: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        one = dict.fromkeys(("num_images", "chunk", "cutoff"), (1, float("inf")))
        check_values(self, "directions", num_codes=(2, float("inf")), max_side=(4, float("inf")), **one)


def movable(generator: StyleGenerator, max_side: int) -> tuple[tuple[int, int], ...]:
    """(index in S, channels) of the styles of convolutions up to a resolution; those of ToRGBs stay."""
    sides = iter(generator.noise_sides)
    layers = enumerate(generator.style_layers())
    found = [(place, affine.weight.shape[0], next(sides)) for place, (_, rgb, affine) in layers if not rgb]
    return tuple((place, width) for place, width, side in found if side <= max_side)  # the side of its output


@torch.no_grad()
def statistics(generator: StyleGenerator, settings: DirectionSettings) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel that may move, [C] each, added up in float64."""
    layers = [generator.style_layers()[place] for place, _ in movable(generator, settings.max_side)]
    sums = []
    for codes in _codes(generator, settings, settings.num_codes, 1000):
        styles = torch.cat([affine(codes[:, index]) for index, _, affine in layers], dim=1).double()
        sums.append(torch.stack([styles.sum(0), styles.square().sum(0)]))
    mean, square = torch.stack(sums).sum(0) / settings.num_codes
    return mean.float(), (square - mean.square()).clamp(min=0).sqrt().float()


def _codes(generator: StyleGenerator, settings: DirectionSettings, count: int, batch: int) -> Iterator[Tensor]:
    """Random codes w+, the same in every process."""
    draw = torch.Generator().manual_seed(settings.seed)
    for first in range(0, count, batch):
        z = torch.randn(min(batch, count - first), generator.config.z_dim, generator=draw)
        yield generator.codes(z.to(generator.device), settings.truncation, settings.cutoff)


@torch.no_grad()
def relevance_of(
    generator: StyleGenerator,
    clip: ClipLoss,
    channel: int,
    mean: Tensor,
    std: Tensor,
    settings: DirectionSettings,
    batch: int = 16,
) -> Tensor:
    """What one channel does to pictures in CLIP's view: a unit vector [D].

    Args:
        generator, clip: frozen.
        channel: among those that may move.
        mean, std: of all of these.
        settings: how.
        batch: pictures at once.
    """
    own = [(place, row) for place, width in movable(generator, settings.max_side) for row in range(width)]
    (place, row), total = own[channel], 0
    for codes in _codes(generator, settings, settings.num_images, batch):
        styles, views = generator.styles(codes), []
        for side in (1, -1):
            one = styles[place].clone()
            one[:, row] = mean[channel] + side * settings.distance * std[channel]
            views.append(clip.encode_images(generator.synthesise([*styles[:place], one, *styles[place + 1 :]])))
        total = total + F.normalize(views[0] - views[1], dim=1).sum(0)
    return F.normalize(total, dim=0)


def measure(
    generator: StyleGenerator,
    clip: ClipLoss,
    folder: Path,
    facts: dict[str, Any],
    settings: DirectionSettings,
    rank: int = 0,
    num_ranks: int = 1,
) -> int:
    """Measure this rank's chunks that are not in `folder` yet; how many are still missing, of all ranks.

    Args:
        generator, clip: frozen, on their device.
        folder: shared by the ranks; made.
        facts: that name generator and CLIP, see `check_facts`.
        settings: how.
        rank, num_ranks: chunk i belongs to rank i % num_ranks.

    Raises:
        BackboneError: the folder holds measurements of others.
    """
    whole = {**facts, "settings": asdict(settings)}
    if (folder / FACTS_FILE).is_file():
        check_facts(folder, whole)
    else:
        write_json(folder / FACTS_FILE, whole)
    mean, std = statistics(generator, settings)
    if not (folder / STATISTICS_FILE).is_file():
        with replacing(folder / STATISTICS_FILE) as file:
            save_file({"mean": mean.cpu(), "std": std.cpu()}, file)
    chunks = list(_chunks(len(mean), settings.chunk))
    for number, channels in enumerate(chunks):
        if number % num_ranks == rank and not chunk_file(folder, number).is_file():
            rows = [relevance_of(generator, clip, channel, mean, std, settings) for channel in channels]
            with replacing(chunk_file(folder, number)) as file:
                save_file({"relevance": torch.stack(rows).cpu()}, file)
    return sum(not chunk_file(folder, number).is_file() for number in range(len(chunks)))


def chunk_file(folder: Path, number: int) -> Path:
    """Where a chunk lies."""
    return folder / f"relevance-{number:04d}.safetensors"


def _chunks(count: int, size: int) -> Iterator[range]:
    return (range(first, min(first + size, count)) for first in range(0, count, size))


def check_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Raise BackboneError where a folder's measurements are of something else."""
    stored, asked = _flat(read_json(folder / FACTS_FILE)), _flat(facts)
    if wrong := sorted(name for name, value in asked.items() if stored.get(name) != value):
        raise BackboneError(
            f"{folder / FACTS_FILE}: expected directions of this {wrong[0]}, found those of another; measure them into "
            "a new folder (python -m mmig.methods.styleclip directions)"
        )


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """With each of the settings for itself."""
    return {name: value for name, value in facts.items() if name != "settings"} | facts.get("settings", {})


def read_directions(folder: Path, generator: StyleGenerator, facts: dict[str, Any]) -> StyleDirections:
    """What `measure` left in a folder, complete.

    Raises:
        BackboneError: nothing there, something missing, or measurements of another generator or CLIP.
    """
    how = "measure them: python -m mmig.methods.styleclip directions"
    if not (folder / FACTS_FILE).is_file():
        raise BackboneError(f"directions: {folder}: expected {FACTS_FILE} of measured directions, found none; {how}")
    check_facts(folder, facts)
    settings = DirectionSettings(**read_json(folder / FACTS_FILE)["settings"])
    places = movable(generator, settings.max_side)
    number = len(list(_chunks(sum(width for _, width in places), settings.chunk)))
    files = [folder / STATISTICS_FILE, *(chunk_file(folder, index) for index in range(number))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise BackboneError(
            f"directions: {folder}: {len(missing)} of {len(files)} files are missing, such as {missing[0]}; {how}"
        )
    known = load_file(files[0])
    relevance = torch.cat([load_file(file)["relevance"] for file in files[1:]])
    return StyleDirections(known["mean"], known["std"], relevance, places)

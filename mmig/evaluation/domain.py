"""Whether a picture is of the kind that an editor knows: how well its autoencoder draws it, against training data.

    python -m mmig.evaluation.domain --vae FOLDER --data FILE

measures an autoencoder on the training images of a configuration of data, and writes what it found beside its weights
(`domain.json`). Editors through whose autoencoder a picture comes back worse than nearly all training images have seen
nothing like it: their edits are guesses. An autoencoder of which nothing was measured has no verdict.
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmig.backbones.diffusion import load_vae
from mmig.backbones.files import read_json
from mmig.backbones.hub import locate
from mmig.backbones.parts import VAE
from mmig.base.batches import chosen_device, move_batch, readable
from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.base.files import write_json
from mmig.diffusion.latents import encode_unscaled, reduction
from mmig.diffusion.saving import DOMAIN_FILE, origin_of
from mmig.editor import Editor, autoencoder_of
from mmig.evaluation.data import build_datamodule, data_section, prepare
from mmig.metrics.images import resized_signed

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

logger = logging.getLogger(__name__)
PERCENTILE = 99.0
MIN_IMAGES = 500
"""The 99th percentile of fewer says little: that of 500 lies between their 98.0th and their 99.8th."""
MEASURE = "mean squared error of the decoded mode of the posterior, of pixels in [-1,1]"
PROBE_SIZE, PROBE_TOLERANCE = 64, 0.1
"""Side in pixels of the picture by which an autoencoder is known again, and how far its error may be another (bfloat16
moves it by some percent)."""


@dataclass(frozen=True)
class DomainVerdict:
    """What became of a picture in an editor's autoencoder.

    Attributes:
        error: mean squared error over its pixels in [-1,1].
        limit: the 99th percentile of this error over the autoencoder's training images.
    """

    error: float
    limit: float

    @property
    def is_outside(self) -> bool:
        """Whether the picture is outside of the domain; of training images one of a hundred is."""
        return not self.error <= self.limit  # NaN is outside too


@dataclass(frozen=True)
class DomainLimit:
    """What `domain.json` says: the limit, and how it was measured.

    Attributes:
        limit, median: of the error over the images.
        percentile: which one the limit is.
        measure: what the error is, in words; one that was measured otherwise is not read.
        num_images: how many, source and target images of samples that a shuffled epoch of training begins with.
        resolution: shorter side of the images in pixels.
        data: the configuration that names them. seed: of its order.
        probe: the error of `probe_picture`, by which the autoencoder is known again.
    """

    limit: float
    median: float
    percentile: float
    measure: str
    num_images: int
    resolution: int
    data: str
    seed: int
    probe: float


def outside(editor: Editor, image: Tensor) -> DomainVerdict | None:
    """Whether a picture is outside of an editor's domain.

    Args:
        editor: any; see `autoencoder` among the optional attributes of `mmig.editor.Editor`.
        image: float [3,H,W] in [-1,1]; it is brought to the resolution at which the limit was measured.

    Returns:
        The verdict; None where the editor has no autoencoder, or nothing was measured of it.

    Raises:
        ValueError: an image of another shape or range, or a `domain.json` that cannot be read.
    """
    vae = autoencoder_of(editor)
    known = None if vae is None else limit_of(vae)
    if vae is None or known is None:
        return None
    return DomainVerdict(
        float(reconstruction_errors(vae, _fitted(image, known.resolution, reduction(vae)))), known.limit
    )


def limit_of(vae: "AutoencoderKL") -> DomainLimit | None:
    """What was measured of an autoencoder, beside the weights that it was loaded from; None where nothing was, or of
    other weights than it has (a line says so).

    Raises:
        ValueError: a file that `python -m mmig.evaluation.domain` did not write.
    """
    origin = origin_of(vae)
    file = None if origin is None else origin / DOMAIN_FILE
    if file is None or not file.is_file():
        return None
    known = _read(file)
    found = float(reconstruction_errors(vae, probe_picture()))
    if abs(found - known.probe) > PROBE_TOLERANCE * known.probe:
        logger.warning("%s: was measured of other weights; measure these: python -m mmig.evaluation.domain", file)
        return None
    return known


@torch.no_grad()
def reconstruction_errors(vae: "AutoencoderKL", images: Tensor) -> Tensor:
    """Mean squared error of each image, encoded and decoded, to itself.

    Args:
        vae: the autoencoder; the mode of its posterior is taken, nothing is drawn.
        images: float [B,3,H,W] in [-1,1], sides that the autoencoder can halve.

    Returns:
        float32 [B], on the CPU.
    """
    given = images.to(vae.device, vae.dtype)
    again = vae.decode(encode_unscaled(vae, given)).sample.float().clamp(-1, 1)
    return (again - images.to(again)).square().mean(dim=(1, 2, 3)).cpu()


def probe_picture() -> Tensor:
    """A picture that is the same everywhere, float32 [1,3,64,64] in [-1,1]: two ramps and their stripes."""
    ramp = torch.linspace(-1, 1, PROBE_SIZE)
    across, down = ramp.expand(PROBE_SIZE, -1), ramp[:, None].expand(-1, PROBE_SIZE)
    return torch.stack([across, down, torch.sin(8 * (across + down))])[None]


def measure(vae: "AutoencoderKL", batches: Iterable[Mapping[str, Any]], num_samples: int) -> tuple[Tensor, int]:
    """Errors of the source and target images of the first `num_samples` samples, float32 [N], and their resolution.

    Raises:
        ValueError: fewer than `MIN_IMAGES` images, or images of several sizes.
    """
    errors, sizes, seen = [], set[int](), 0
    for whole in batches:
        batch = move_batch(readable(whole), vae.device)
        for name in ("source", "target"):
            if f"has_{name}" in batch and len(images := batch[name][batch[f"has_{name}"]]):
                errors.append(reconstruction_errors(vae, images))
                sizes.add(min(images.shape[2:]))
        seen += len(batch["key"])
        if seen >= num_samples:
            break
    count = sum(map(len, errors))
    if count < MIN_IMAGES:
        raise ValueError(
            f"--limit: expected samples with at least {MIN_IMAGES} images, found {count}; give more, or other --data"
        )
    if len(sizes) > 1:
        raise ValueError(f"--data: expected images of one size, found {sorted(sizes)}; leave buckets and sizes out")
    return torch.cat(errors), sizes.pop()


def measure_domain(vae: Path, data: Path, num_samples: int, device: torch.device | str = "cpu") -> DomainLimit:
    """Measure the autoencoder of a folder on training images; see `main`.

    Args:
        vae: folder of an autoencoder or of a pipeline. data: YAML with a section `data`. num_samples: how many.
        device: where.

    Raises:
        BackboneError: no autoencoder there. SettingsError: no such data.
        ValueError: as of `measure`, or data without training samples.
    """
    model = load_vae(vae).to(device)
    datamodule = build_datamodule(data_section(data), data)
    prepare(datamodule, "train")
    errors, resolution = measure(model, datamodule.train_dataloader(), num_samples)
    limit, median = (float(torch.quantile(errors, share)) for share in (PERCENTILE / 100, 0.5))
    probe = float(reconstruction_errors(model, probe_picture()))
    seed = int(getattr(datamodule, "seed", 0))
    numbers = {"limit": _rounded(limit), "median": _rounded(median), "probe": _rounded(probe)}
    return DomainLimit(
        **numbers,
        percentile=PERCENTILE,
        measure=MEASURE,
        num_images=len(errors),
        resolution=resolution,
        data=data.name if data.is_absolute() else data.as_posix(),
        seed=seed,
    )


def _read(file: Path) -> DomainLimit:
    content = read_json(file)
    numbers = [content.get(name) for name in ("limit", "probe", "resolution")]
    is_whole = content.keys() == {field.name for field in fields(DomainLimit)}
    if not is_whole or content["measure"] != MEASURE or not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(
            f"{file}: expected what `python -m mmig.evaluation.domain` writes, found other entries; measure again, or "
            "delete it"
        )
    return DomainLimit(**content)


def _fitted(image: Tensor, resolution: int, factor: int) -> Tensor:
    """An image as [1,3,h,w] with the shorter side near `resolution`, both sides multiples of `factor`."""
    scale = resolution / min(image.shape[1:])
    height, width = (max(1, round(side * scale / factor)) * factor for side in image.shape[1:])
    if (height, width) == tuple(image.shape[1:]):
        return image[None].float()
    return resized_signed(image[None], (height, width))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, say it."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, required=True, help="folder of an autoencoder or a pipeline")
    parser.add_argument("--data", type=Path, required=True, help="YAML with a `data` section: what it was trained on")
    parser.add_argument("--limit", type=positive, default=2000, help="training samples (default %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default auto)")
    options = parser.parse_args(arguments)
    with one_line_errors():
        found = measure_domain(options.vae, options.data, options.limit, chosen_device(options.device))
        file = locate(options.vae, VAE) / DOMAIN_FILE
        write_json(file, asdict(found))
        sys.stdout.write(
            f"written: {file}: limit {found.limit:g}, the {found.percentile:g}th percentile of {found.num_images:,} "
            f"images (median {found.median:g})\n"
        )


if __name__ == "__main__":
    main()

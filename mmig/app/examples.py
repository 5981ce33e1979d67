"""Pictures to begin with, and what an oracle says of an edit of one of them."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.schema import image_to_tensor
from mmig.app.systems import System
from mmig.base.settings import RefusedSettingsError, call
from mmig.evaluation.settings import SettingsError, read_yaml
from mmig.metrics.judge import Judge, load_judge

SHIPPED = Path(__file__).with_name("examples.yaml")


@dataclass(frozen=True)
class Example:
    """A sample of a data set as the page offers it.

    Attributes:
        picture: the source, RGB; None where it has none.
        instruction: what to do.
        description: of the goal; "" where it has none.
        caption: what is to be drawn, for systems that edit no picture; "" where it has none.
        attachments: (kind, suffix, bytes of the file) each.
        metadata: by which a judge decides.
    """

    picture: Image.Image | None
    instruction: str
    description: str = ""
    caption: str = ""
    attachments: tuple[tuple[str, str, bytes], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def serves(self, system: System) -> bool:
        """Whether it has all that a system needs, and nothing that it does not take."""
        kinds, needs = {kind for kind, _, _ in self.attachments}, system.needs
        fits = {*needs.needed_kinds} <= kinds <= {*needs.kinds}
        if needs.reads_picture:
            return fits and self.picture is not None and bool(self.instruction)
        return fits and bool(self.caption)


@dataclass(frozen=True)
class Examples:
    """What a file of examples says.

    Attributes:
        shown: in the order of the file.
        judge: decides by the metadata; None where there is none.
    """

    shown: Sequence[Example]
    judge: Judge | None

    def verdict(self, picture: Image.Image, instruction: str, edited: Image.Image) -> Mapping[str, float] | None:
        """What the judge says of an edit of an example's picture.

        None where the picture is no example's, or where nobody knows what the instruction asks for.

        Args:
            picture: that was edited, RGB.
            instruction: by which; another than the example's own counts too, where the judge understands it.
            edited: what came of it, in the picture's size.
        """
        by_pixels = {digest(example.picture): example for example in self.shown if example.picture is not None}
        example = by_pixels.get(digest(picture))
        if self.judge is None or example is None:
            return None
        metadata: Mapping[str, Any] | None = example.metadata
        if instruction != example.instruction:
            asked = getattr(self.judge, "asked", None)
            metadata = None if asked is None else asked(instruction, dict(example.metadata))
        if not metadata:
            return None
        side = getattr(self.judge, "image_size", None)
        if side is not None and edited.size != (side, side):
            edited = edited.resize((side, side), Image.Resampling.BICUBIC)
        return self.judge(image_to_tensor(edited), dict(metadata))


def digest(picture: Image.Image) -> str:
    """A name of a picture by its pixels, whatever file holds it."""
    return hashlib.sha256(repr(picture.size).encode() + picture.convert("RGB").tobytes()).hexdigest()


def read_examples(path: Path = SHIPPED) -> Examples:
    """Examples of a YAML file, see the one that is shipped.

    Raises:
        ValueError: the file, a sample or the judge cannot be used.
    """
    found = read_yaml(path)
    if unknown := found.keys() - {"judge", "samples"}:
        raise SettingsError(f"{path}: unknown key {min(unknown)!r}; expected judge, samples")
    try:
        samples = [call(section) for section in found.get("samples") or ()]
    except (RefusedSettingsError, TypeError, KeyError) as error:
        raise SettingsError(f"{path}: samples: {error}; expected class_path and init_args of a sample each") from error
    judge = found.get("judge")
    return Examples([as_example(sample) for sample in samples], None if judge is None else load_judge(judge))


def as_example(sample: Mapping[str, Any]) -> Example:
    """A sample of the schema, its images as PIL or as uint8 [H,W,3], as an example."""
    attachments = []
    for entry in sample.get("attachments", ()):
        if entry["kind"] == "image":
            attachments.append(("image", "png", png(as_image(entry["data"]))))
        else:
            attachments.append((entry["kind"], entry.get("format", "wav"), entry["data"]))
    return Example(
        None if sample.get("source") is None else as_image(sample["source"]),
        sample.get("instruction", ""),
        sample.get("response", ""),
        sample.get("target_caption", ""),
        tuple(attachments),
        sample.get("metadata", {}),
    )


def as_image(pixels: Any) -> Image.Image:
    """An image of a sample as PIL RGB."""
    return (pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))).convert("RGB")


def png(image: Image.Image) -> bytes:
    """An image as the bytes of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()

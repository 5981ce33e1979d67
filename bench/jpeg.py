"""Which JPEG decoder is the fastest? Images/s of those that install from the registry, each to RGB uint8 [H,W,3].

Photographs of 256 and 512 px are decoded from memory, whole, and those of 512 px also to 256 px by the decoder's own
scaling (a half in each direction, before the inverse cosine transform). All in this one process on one thread,
alternating; medians over rounds of the processor time. What is not installed is left out: `pip install -e '.[bench]'`.

    python bench/jpeg.py [--rounds 7]
"""

import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image

from bench.tools.clock import alternate, seconds
from bench.tools.photographs import photographs
from mmig.base.commands import OptionParser

NUM_IMAGES = 48

Decoder = Callable[[bytes, bool], np.ndarray]
"""Encoded bytes, whether to half the size -> uint8 [H,W,3]."""


def pillow(data: bytes, half: bool) -> np.ndarray:
    """As `Image.open` decodes, with `draft` for the scaling."""
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    if half:
        image.draft("RGB", (image.width // 2, image.height // 2))
    return np.asarray(image)


def torchvision_decoder() -> Decoder:
    """Planes, permuted to pixels; it has no scaling."""
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(data: bytes, half: bool) -> np.ndarray:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return decode_jpeg(encoded, ImageReadMode.RGB).permute(1, 2, 0).numpy()

    return decode


def opencv_decoder() -> Decoder:
    """BGR, with the channels turned round."""
    import cv2

    cv2.setNumThreads(1)

    def decode(data: bytes, half: bool) -> np.ndarray:
        flags = cv2.IMREAD_REDUCED_COLOR_2 if half else cv2.IMREAD_COLOR
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), flags), cv2.COLOR_BGR2RGB)

    return decode


def simplejpeg_decoder() -> Decoder:
    """libjpeg-turbo as the wheel brings it."""
    import simplejpeg

    def decode(data: bytes, half: bool) -> np.ndarray:
        if not half:
            return simplejpeg.decode_jpeg(data)
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        return simplejpeg.decode_jpeg(data, min_height=height // 2, min_width=width // 2, min_factor=1)

    return decode


DECODERS: dict[str, Callable[[], Decoder]] = {
    "pillow": lambda: pillow,
    "torchvision": torchvision_decoder,
    "opencv": opencv_decoder,
    "simplejpeg": simplejpeg_decoder,
}
SCALING = ("pillow", "opencv", "simplejpeg")
"""Those that can leave out what a smaller picture does not need."""


def installed() -> Iterator[tuple[str, Decoder]]:
    """The decoders that can be had here."""
    for name, load in DECODERS.items():
        try:
            yield name, load()
        except ImportError as error:
            print(f"{name}: left out ({error})")


def decode_all(decode: Decoder, encoded: list[bytes], half: bool) -> None:
    """What is measured."""
    for data in encoded:
        decode(data, half)


def main() -> None:
    """Measure and print each decoder's speed, and its ratio to Pillow's."""
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    decoders = dict(installed())
    for side, half in ((256, False), (512, False), (512, True)):
        encoded = list(photographs(NUM_IMAGES, side))
        chosen = {name: decode for name, decode in decoders.items() if name in SCALING or not half}
        works = {name: partial(decode_all, decode, encoded, half) for name, decode in chosen.items()}
        times = {name: seconds(found, clock=1) for name, found in alternate(works, options.rounds).items()}
        for name, found in times.items():
            speed, ratio = NUM_IMAGES / found, times["pillow"] / found
            case = f"jpeg_{side}{'_to_256' if half else ''}_{name}"
            print(f"{case}_vs_pillow ratio {ratio:.2f} (no goal; {speed:.0f} images/s)")


if __name__ == "__main__":
    main()

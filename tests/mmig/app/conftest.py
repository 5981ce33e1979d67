"""The page of the tiny editor, served on loopback, and pictures to send it."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.tinyworld.sample import make_sample
from mmig.app.examples import Example, Examples, as_example, read_examples
from mmig.app.handlers import Handlers
from mmig.app.page import Page
from mmig.app.serve import served
from mmig.app.systems import System, open_systems

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def system() -> System:
    """What is opened where nothing is named."""
    return open_systems([], CPU)[0]


@pytest.fixture(scope="session")
def examples() -> Examples:
    """Those that are shipped."""
    return read_examples()


@pytest.fixture(scope="session")
def example() -> Example:
    """A recolouring that the tiny editor gets right."""
    return as_example(make_sample(0, "test", 8, level="plain"))


@pytest.fixture(scope="module")
def handlers(system: System, examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Handlers:
    return Handlers([system], examples, tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where pages keep what browsers send them: a process has one folder for that, however many pages it serves."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("uploads")
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def address(handlers: Handlers, uploaded: Path) -> Iterator[str]:
    """Where the page of the tiny editor is."""
    with served(Page(handlers)) as url:
        yield url


def picture(index: int, side: int = 64) -> Image.Image:
    """A picture that no other index has."""
    image = Image.new("RGB", (side, side), (5 * index % 256, 90, 255 - 5 * index % 256))
    image.paste((240, 240, 10), (index % 40, index % 30, index % 40 + 16, index % 30 + 16))
    return image


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def saved(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path

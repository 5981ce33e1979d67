"""Subjects' pictures of one pixel, in grey or with transparency: by edit.py, in shards and by the pipeline alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import edit
from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from mmig.methods.umm_diffusion.pipeline import UMMDiffusionPipeline
from tests.mmig.methods.umm_diffusion.support import captioned, picture, save_umm_run
from tests.tiny_fixtures import IMAGE_SIZE

CAPTION = "a <image:0> circle in the snow"


def translucent(mode: str) -> Image.Image:
    """A subject whose left half cannot be seen, and its colours there are none of the subject's."""
    found = picture("black").convert(mode)
    left = Image.new(mode, (10, 20), 0)
    found.paste(left, (0, 0))
    return found


def palette() -> Image.Image:
    """A picture of two colours of which the first is transparent."""
    found = Image.fromarray(np.tile(np.uint8([[0, 1]]), (8, 4)), "P")
    found.putpalette([255, 0, 0, 0, 0, 255])
    found.info["transparency"] = 0
    return found


def on_white(image: Image.Image) -> Image.Image:
    """What is seen of it on white paper."""
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), seen).convert("RGB")


PICTURES = {
    "pixel": Image.new("RGB", (1, 1), "teal"),
    "row": Image.new("RGB", (30, 1), "teal"),
    "grey pixel": Image.new("L", (1, 1), 90),
    "clear pixel": Image.new("RGBA", (1, 1), (0, 0, 0, 0)),
    "grey": picture().convert("L"),
    "one bit": picture().convert("1"),
    "sixteen bits": Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257),
    "transparent": translucent("RGBA"),
    "transparent grey": translucent("LA"),
    "palette": palette(),
    "nothing": Image.new("RGBA", (9, 9), (255, 0, 0, 0)),
}
SEEN = {
    **{name: on_white(image) for name, image in PICTURES.items()},
    "sixteen bits": picture().convert("L").convert("RGB"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_umm_run(tmp_path_factory.mktemp("runs") / "umm", fuse_ratio=1.0)


def drawn(run: Path, file: Path) -> bytes:
    out = file.with_name("out.png")
    options = ["--checkpoint", str(run), "--out", str(out), "--resolution", "64", "--seed", "3"]
    edit.main([*options, "--attach", f"image={file}", "--instruction", CAPTION])
    return out.read_bytes()


@pytest.mark.parametrize("name", ["pixel", "clear pixel", "grey", "transparent", "palette"])
def test_edit_py_draws_what_is_seen_of_it_on_white(name: str, run: Path, tmp_path: Path) -> None:
    PICTURES[name].save(tmp_path / "odd.png")
    SEEN[name].save(tmp_path / "plain.png")
    found = drawn(run, tmp_path / "odd.png")
    assert found == drawn(run, tmp_path / "plain.png")
    picture("lime").save(tmp_path / "other.png")
    assert found != drawn(run, tmp_path / "other.png")


def test_edit_py_refuses_what_is_no_picture_in_one_line(run: Path, tmp_path: Path) -> None:
    for name, content, said in (("empty.png", b"", "no bytes"), ("text.png", b"dog", "expected PNG, JPEG")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SystemExit, match=f"^error: --attach image .*{said}") as stop:
            drawn(run, tmp_path / name)
        assert "\n" not in str(stop.value.code)


def test_shards_give_training_what_is_seen_of_it_on_white(tmp_path: Path) -> None:
    for folder, pictures in (("odd", PICTURES), ("plain", SEEN)):
        samples = [
            {**captioned(CAPTION, image), "key": f"{number:03d}"} for number, image in enumerate(pictures.values())
        ]
        write_shards(samples, tmp_path / folder)
    batches: list[Any] = []
    for folder in ("odd", "plain"):
        data = ShardData(
            val=str(tmp_path / folder), eval_batch_size=len(PICTURES), resolution=IMAGE_SIZE, attachment_size=32
        )
        data.setup("validate")
        batches.append(next(iter(data.val_dataloader())))
    odd, plain = (batch["attachment_images"] for batch in batches)
    assert not batches[0]["faults"] and odd.shape == (len(PICTURES), 1, 3, 32, 32)
    assert torch.equal(odd, plain)
    grey = [name for name, image in PICTURES.items() if image.mode in ("L", "1", "I;16", "LA")]
    for number in (list(PICTURES).index(name) for name in grey):
        assert torch.equal(odd[number, :, 0], odd[number, :, 1]) and torch.equal(odd[number, :, 0], odd[number, :, 2])


def test_the_pipeline_sees_it_so_too_and_refuses_one_pixel(run: Path) -> None:
    pipe = UMMDiffusionPipeline.from_pretrained(run)
    for name, image in PICTURES.items():
        if min(image.size) > 1:
            found, expected = (pipe("a circle", {"circle": each})[0].tobytes() for each in (image, SEEN[name]))
            assert found == expected, name
        else:
            with pytest.raises(ValueError, match=r"a picture of \d+x1 pixels shows no subject; give a larger one$"):
                pipe("a circle", {"circle": image})

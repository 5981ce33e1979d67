"""One picture file is one picture through every door: stream, converter, attachment, edit.py, pipeline, folder."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.convert.engine import Options, convert
from datamodules.convert.folder import Folder
from datamodules.schema import image_to_tensor
from datamodules.shard_data import ShardData
from mmig.evaluation.editors import FolderOfPictures
from mmig.evaluation.pictures import as_batch, read_image
from mmig.run.edit_options import EditError, attached, layer_fields, with_tensors
from tests.datamodules.damage import encoded
from tests.datamodules.kinds_of_images import exif, swapped_profile

SIDE = 32
PICTURE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
GREY = PICTURE[..., 0]
KINDS = {
    "16-bit grey": encoded(GREY.astype("u2") * 257),
    "grey": encoded(GREY),
    "1-bit": encoded(Image.fromarray(GREY).convert("1")),
    "palette": encoded(Image.fromarray(PICTURE).quantize(16)),
    "palette with a transparent colour": encoded(Image.fromarray(PICTURE).quantize(16), transparency=3),
    "transparent colour": encoded(PICTURE, transparency=tuple(PICTURE[3, 4].tolist())),
    "alpha": encoded(np.dstack([PICTURE, GREY])),
    "grey with alpha": encoded(np.dstack([GREY, PICTURE[..., 1]])),
    "alpha in WebP": encoded(np.dstack([PICTURE, GREY]), "WEBP", lossless=True, exact=True),
    "CMYK": encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=95),
    "grey JPEG": encoded(GREY, "JPEG", quality=95),
    "colour profile": encoded(PICTURE, icc_profile=swapped_profile()),
    "colour profile in a JPEG": encoded(PICTURE, "JPEG", quality=95, icc_profile=swapped_profile()),
    "turned PNG": encoded(PICTURE, exif=exif(6)),
    "turned JPEG": encoded(PICTURE, "JPEG", quality=95, exif=exif(8)),
    "turned, with a profile and alpha": encoded(
        np.dstack([PICTURE, GREY]), exif=exif(5), icc_profile=swapped_profile()
    ),
}


def shown(folder: Path, data: bytes) -> dict[str, torch.Tensor]:
    """A picture as each door shows it to a model, [3,H,W]."""
    path = folder / "a.png"
    path.write_bytes(data)
    (folder / "t.csv").write_text("source,target,instruction\na.png,a.png,x\n")
    convert(Folder(str(folder), "resize", str(folder / "t.csv"), 0.0), folder / "out", Options())
    shards = ShardData(val=str(folder / "out" / "train"), resolution=SIDE, eval_batch_size=1)
    batch = next(iter(shards.val_dataloader()))
    attachments = with_tensors(attached([f"image={path}"], "x"), "x", {"attachment_size": SIDE})["attachments"]
    (folder / "made").mkdir()
    (folder / "made" / "k.png").write_bytes(data)
    like = {"key": ["k"], "target": torch.zeros(1, 3, SIDE, SIDE)}
    return {
        "stream": batch["source"][0],
        "edit.py": image_to_tensor(read_image(path)),
        "pipeline": as_batch(Image.open(path), None).images[0],
        "--attach": attachments[0]["data"],
        "folder of pictures": FolderOfPictures(folder / "made")(like, torch.Generator()).images[0],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_looks_the_same_through_every_door(kind: str, tmp_path: Path) -> None:
    found = shown(tmp_path, KINDS[kind])
    assert found["stream"].std() > 0.1
    for door, picture in found.items():
        if kind in ("grey JPEG", "colour profile in a JPEG", "turned JPEG") and door == "pipeline":
            assert (picture - found["stream"]).abs().max() <= 1 / 127  # Pillow decoded it, the same up to rounding
        else:
            assert torch.equal(picture, found["stream"]), door


def layered(mask: Path, size: tuple[int, int]) -> np.ndarray:
    options = {"object_phrase": None, "background_phrase": None, "mask": str(mask), "layered": True}
    fields = layer_fields(SimpleNamespace(**options), Image.new("RGB", size))
    return np.asarray(fields["reference_mask"])


def test_a_mask_of_edit_py_is_read_as_one_of_the_data(tmp_path: Path) -> None:
    inside = np.zeros((8, 12), "u1")
    inside[2:6, 3:9] = 1
    for number, values in enumerate((inside, inside * 255, np.dstack([np.zeros((8, 12, 3), "u1"), inside * 255]))):
        Image.fromarray(values).save(tmp_path / f"{number}.png")
        assert np.array_equal(layered(tmp_path / f"{number}.png", (24, 16)) >= 128, inside == 1)
    with pytest.raises(EditError, match="expected the image's shape of 12x12 pixels, found 12x8"):
        layered(tmp_path / "0.png", (12, 12))
    Image.fromarray(np.arange(96, dtype="u1").reshape(8, 12)).save(tmp_path / "dark.png")
    with pytest.raises(ValueError, match=r"--mask .*dark.png: cannot be read as a mask \(.*no pixel is bright"):
        layered(tmp_path / "dark.png", (12, 8))


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF"])
def test_edit_py_reads_what_shards_need_not(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(PICTURE).quantize(16) if kind == "GIF" else Image.fromarray(PICTURE)
    image.save(tmp_path / "picture", kind)
    assert np.array_equal(np.asarray(read_image(tmp_path / "picture")), np.asarray(image.convert("RGB")))


def test_a_deep_tiff_is_no_white_picture(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype("u2") * 257).save(tmp_path / "deep.tif")
    Image.fromarray(GREY / np.float32(255)).save(tmp_path / "float.tif")
    for name in ("deep.tif", "float.tif"):
        assert np.array_equal(np.asarray(read_image(tmp_path / name))[..., 0], GREY)
    with pytest.raises(ValueError, match=r"image: pixels of 32-bit integers.*convert it"):
        as_batch(Image.fromarray(GREY.astype("i4")), None)

"""What a visitor may send: everything else is refused in one sentence, before it costs anything."""

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from mmig.app.asking import RequestError
from mmig.app.uploads import LARGEST_FILE, keep_attachments, keep_picture
from tests.mmig.app.conftest import encoded, picture
from tests.toy_method.samples import write_tone


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says that it has many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


BAD = {
    "text": (b"not a picture at all", "no picture that can be read"),
    "empty": (b"", "no picture that can be read"),
    "page": (b"<html><script>alert(1)</script></html>", "no picture that can be read"),
    "drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that can be read"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no picture that can be read"),
    "large": (bomb(5_000), "5,000 × 5,000 pixels and at most 16 million"),
    "bomb": (bomb(60_000), "pixels"),
    "cut": (encoded(picture(1, 300))[:400], "damaged"),
    "heavy": (b"\x89PNG\r\n\x1a\n" + b"\0" * LARGEST_FILE, "20.0 MB and at most 20 MB"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_for_the_page_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    data, said = BAD[name]
    path = tmp_path / "sent.png"
    path.write_bytes(data)
    (tmp_path / "kept").mkdir()
    with pytest.raises(RequestError, match=said) as refused:
        keep_picture(str(path), tmp_path / "kept", "source", "Picture")
    text = str(refused.value)
    assert text.startswith("Picture: ")
    assert text.endswith(".")
    assert "\n" not in text
    assert str(tmp_path) not in text
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_picture_keeps_its_bytes_and_gets_the_suffix_of_what_it_is(kind: str, tmp_path: Path) -> None:
    sent = tmp_path / "..%2f..%2fevil.html"
    sent.write_bytes(encoded(picture(3), kind))
    name = keep_picture(str(sent), tmp_path, "source", "Picture")
    assert (tmp_path / name).read_bytes() == sent.read_bytes()
    with Image.open(tmp_path / name) as kept:
        assert (Path(name).stem, kept.format) == ("source", kind)


def test_a_file_that_is_not_there_is_asked_for_again(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="choose it again"):
        keep_picture(str(tmp_path / "absent.png"), tmp_path, "source", "Picture")
    with pytest.raises(RequestError, match="choose it again"):
        keep_picture(str(tmp_path), tmp_path, "source", "Picture")


def test_attachments_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav")
    (tmp_path / "sound.png").write_bytes((tmp_path / "tone.wav").read_bytes())
    (tmp_path / "picture.wav").write_bytes(encoded(picture(4), "WEBP"))
    (tmp_path / "kept").mkdir()
    sent = [str(tmp_path / name) for name in ("sound.png", "picture.wav")]
    kept = keep_attachments(sent, tmp_path / "kept")
    assert kept == (("audio", "attached0.wav"), ("image", "attached1.webp"))


def test_too_many_attachments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="5 files are attached and at most 4"):
        keep_attachments(["x"] * 5, tmp_path)

"""Fault kinds: JSON and captions."""

from __future__ import annotations

import json
from typing import Any

from tests.datamodules.damage import Content, Kind, encoded, gradient, jpeg, of_files

PICTURE = gradient(50)
SOURCE = {"source.png": encoded(PICTURE)}
PHOTOGRAPH = {"jpg": jpeg(PICTURE)}
HALF = b'{"instruction": "make it \\ud83d red"}'
NO_NUMBERS = b'{"metadata": {"a": NaN, "b": -Infinity}}'
CONTROL = b'{"instruction": "a\\u0000\\u001b[2J"}'
URL = {"json": b'{"url": "u"}'}


def bad(name: str, reason: str, record: Content) -> Kind:
    return Kind(name, of_files({"json": record, **SOURCE}), reason)


def read(name: str, reading: str, record: bytes, **expected: Any) -> Kind:
    return Kind(name, of_files({"json": record, **SOURCE}), "", None, reading, {"source": PICTURE, **expected})


def caption(name: str, reading: str, files: dict[str, bytes], **expected: Any) -> Kind:
    return Kind(name, of_files({**PHOTOGRAPH, **files}), "", None, reading, {"target": PICTURE, **expected}, 2)


def dumped(**record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


KINDS = [
    bad("empty JSON file", "empty", b""),
    bad("JSON cut off", "json", dumped(instruction="make it red")[:-5]),
    bad("JSON nested 100,000 deep", "json", b'{"metadata": ' + b"[" * 100_000),
    bad("number of 10,000 digits in JSON", "json", b'{"metadata": {"n": ' + b"9" * 10_000 + b"}}"),
    bad("JSON of 17 MB", "json", lambda: dumped(instruction="x") + b" " * 17 * 2**20),
    bad("JSON in Latin-1", "json", '{"instruction": "café"}'.encode("latin-1")),
    bad("metadata that are no JSON", "json", dumped(instruction="x", metadata="{")),
    bad("JSON that is a list", "field", b'["make it red"]'),
    bad("JSON that is a number", "field", b"7"),
    bad("field of the wrong type", "field", dumped(instruction=3)),
    bad("field that the schema does not have", "field", dumped(instruction="x", colour="red")),
    bad("concepts that are no list", "field", dumped(instruction="x", concepts="red")),
    bad("10,000 concepts", "field", dumped(instruction="x", concepts=["red"] * 10_000)),
    Kind("neither text nor image", of_files({"json": b"{}"}), "field"),
    bad("instruction of 1 MB", "text", dumped(instruction="red " * 2**18)),
    bad("half a character (a lone surrogate)", "text", HALF),
    read("NaN and Infinity in JSON", "null", NO_NUMBERS, metadata={"a": None, "b": None}),
    read("JSON with a byte order mark", "without it", b"\xef\xbb\xbf" + dumped(instruction="é"), instruction="é"),
    read("JSON in UTF-16", "as UTF-16", '{"instruction": "é"}'.encode("utf-16"), instruction="é"),
    read("a name twice in JSON", "the last one", b'{"instruction": "a", "instruction": "b"}', instruction="b"),
    read("null in JSON", "as if it were not there", b'{"instruction": null}', instruction=None),
    read("empty instruction", "as if it were not there", dumped(instruction=""), instruction=None),
    read("another key in JSON", "the tar's counts", dumped(key="../000", instruction="x"), instruction="x"),
    read("control characters in a text", "unchanged", CONTROL, instruction="a\0\x1b[2J"),
    Kind("caption that is not UTF-8", of_files({**PHOTOGRAPH, "txt": b"caf\xe9"}), "text"),
    Kind("caption of 1 MB", of_files({**PHOTOGRAPH, "txt": b"red " * 2**18}), "text"),
    caption("empty caption", "as if it were not there", {"txt": b""}, target_caption=None),
    caption("caption without JSON", "without metadata", {"txt": b"a cat"}, target_caption="a cat", metadata={}),
    caption(
        "photograph without caption",
        "without it",
        URL,
        target_caption=None,
        metadata={"url": "u"},
    ),
]

"""Fault kinds: attached pictures and sounds, and the placeholders that name them."""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np

from tests.datamodules.damage import Content, Kind, encoded, gradient, of_files, raw_png
from tests.datamodules.kinds_of_texts import SOURCE, dumped
from tests.datamodules.make_samples import sine, sound

PICTURE = encoded(gradient(7))
WAV, FLAC, OGG = sound(), sound(kind="FLAC"), sound(kind="OGG")


def silence(seconds: float, rate: int = 16_000, channels: int = 1) -> bytes:
    """A WAV of zeros, of any rate and number of channels."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(round(seconds * rate) * channels * 2))
    return buffer.getvalue()


def files(entries: list[Any], text: str = "make it red", **data: Content) -> dict[str, Content]:
    """Files of a sample with these attachments; `wav0=...` is `attachment0.wav`."""
    named = {f"attachment{name[-1]}.{name[:-1]}": content for name, content in data.items()}
    return {"json": dumped(instruction=text, attachments=entries), **SOURCE, **named}


def picture(name: str, reason: str, content: Content) -> Kind:
    return Kind(name, of_files(files([{"kind": "image"}], png0=content)), reason)


def heard(name: str, reason: str, content: Content, suffix: str = "wav") -> Kind:
    return Kind(name, of_files(files([{"kind": "audio"}], **{f"{suffix}0": content})), reason)


def bad(name: str, entry: Any, text: str = "make it red", reason: str = "attachment", **data: Content) -> Kind:
    return Kind(name, of_files(files([entry], text, **data)), reason)


def read(name: str, reading: str, entries: list[Any], text: str = "x", **data: Content) -> Kind:
    return Kind(name, of_files(files(entries, text, **data)), "", None, reading, {"instruction": text})


IMAGE = {"kind": "image", "role": "subject"}
ANSWER = {"kind": "image", "role": "answer"}
KINDS = [
    bad("attachment without its file", IMAGE, "<image:0>"),
    bad("placeholder without its attachment", IMAGE, "like <image:1>", png0=PICTURE),
    bad("placeholder of another kind than its attachment", IMAGE, "like <audio:0>", png0=PICTURE),
    bad("placeholder of an answer", ANSWER, "like <image:0>", png0=PICTURE),
    bad("file of an attachment that the JSON does not have", IMAGE, png0=PICTURE, png1=PICTURE),
    bad("attachment of an unknown kind", {"kind": "video"}, png0=PICTURE),
    bad("attachment of an unknown role", {"kind": "image", "role": "mood"}, png0=PICTURE),
    bad("attachment that is no object", "image", png0=PICTURE),
    bad("sound in the place of an attached picture", IMAGE, reason="format", wav0=WAV),
    bad("picture in the place of an attached sound", {"kind": "audio"}, png0=PICTURE),
    bad("word that ends behind its text", {**IMAGE, "word": [8, 12]}, png0=PICTURE),
    bad("word that begins before its text", {**IMAGE, "word": [-3, 2]}, png0=PICTURE),
    bad("word that is a placeholder", {**IMAGE, "word": [0, 9]}, "<image:0> dog", png0=PICTURE),
    bad("word that is no pair of numbers", {**IMAGE, "word": "dog"}, png0=PICTURE),
    bad("attachment given as two files", {"kind": "audio"}, reason="repeated", wav0=WAV, flac0=FLAC),
    Kind(
        "five attachments where four are allowed",
        of_files(files([IMAGE] * 5, **{f"png{number}": PICTURE for number in range(5)})),
        "attachment",
    ),
    Kind("10,000 attachments", of_files({"json": dumped(instruction="x", attachments=[IMAGE] * 10_000)}), "attachment"),
    picture("attached picture of no bytes", "empty", b""),
    picture("attached picture cut off", "image", PICTURE[: len(PICTURE) // 2]),
    picture("attached picture of 60,000 x 60,000 pixels", "bomb", raw_png(60_000, 60_000, 8, 2, [b"abc"])),
    picture("attached GIF called .png", "format", encoded(gradient(7), "GIF")),
    heard("sound of no bytes", "empty", b""),
    heard("sound of no samples", "empty", silence(0)),
    heard("text called .wav", "format", b"make some noise"),
    heard("WebP called .wav", "format", encoded(gradient(7), "WEBP")),
    heard("AIFF called .wav", "format", sound(kind="AIFF")),
    heard("sound of another suffix (`.mp3`)", "format", WAV, "mp3"),
    heard("WAV cut off", "audio", WAV[: len(WAV) // 2]),
    heard("FLAC cut off", "audio", FLAC[: len(FLAC) // 2], "flac"),
    heard("Ogg cut off", "audio", OGG[: len(OGG) // 2], "ogg"),
    heard("WAV whose header is rubbish", "audio", WAV[:12] + bytes(range(64)) + WAV[76:]),
    heard("FLAC whose samples are rubbish", "audio", FLAC[:100] + bytes(len(FLAC) - 100), "flac"),
    heard("sound of 7 samples a second", "audio", silence(1, 7)),
    heard("sound of 400,000 samples a second", "audio", silence(0.01, 400_000)),
    heard("sound of 64 channels", "audio", silence(0.01, channels=64)),
    heard("sound with values that are no numbers", "audio", sound(np.full((99, 1), np.nan, np.float32))),
    heard("sound of 11 seconds where 10 are allowed", "long", silence(11)),
    heard(
        "FLAC of 10 hours in 1 MB", "long", lambda: sound(np.zeros((36_000 * 1_000, 1), "i2"), "FLAC", 1_000), "flac"
    ),
    read("answer that cannot be decoded", "never decoded", [ANSWER], png0=PICTURE[:60]),
    read("FLAC called .ogg", "by its content", [{"kind": "audio"}], "hear <audio:0>", ogg0=FLAC),
    read("attached PNG called .jpg", "by its content", [IMAGE], "like <image:0>", jpg0=PICTURE),
    read(
        "attachments without role and word",
        "a reference; the word behind its placeholder",
        [{"kind": "image"}],
        png0=PICTURE,
    ),
    read("stereo sound", "mixed down to one channel", [{"kind": "audio"}], wav0=sound(sine(channels=2))),
    read(
        "sound of 44,100 samples a second", "resampled", [{"kind": "audio"}], wav0=sound(sine(rate=44_100), rate=44_100)
    ),
    read("sound louder than loudest", "clipped", [{"kind": "audio"}], wav0=sound(3 * sine())),
]

"""Encoded sounds -> one channel at one rate. Whatever is wrong with the bytes becomes a `BadSample`.

Only the decoders of WAV, FLAC and Ogg are ever started, chosen by the first bytes, whatever a file is called. They are
libsndfile's, as the package soundfile (extra `audio`) brings it; rates are changed by scipy's polyphase filters.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from datamodules.faults import BadSample

if TYPE_CHECKING:
    import soundfile

LOWEST_RATE, HIGHEST_RATE = 1_000, 384_000
MAX_CHANNELS = 8
_LAST_PAGE = 4  # a flag in the header of an Ogg page
_FINEST = 10_000
"""Largest factor of a change of rate: odd rates would need filters of millions of taps; off by 1e-5 at most."""
_NO_LENGTH = 2**48
"""More samples than any sound has; libsndfile then cannot read it."""
_UNKNOWN_SIZE = (0, 0xFFFFFFFF)
"""What a WAV that was written to a pipe says about its size."""


class AudioSupportError(ValueError):
    """There are sounds in the data and no soundfile to read them; one line says how to get it."""


@dataclass(frozen=True)
class SoundFacts:
    """What a file says about its sound."""

    seconds: float
    rate: int
    channels: int


def decode_audio(field: str, data: bytes, rate: int, max_seconds: float) -> Tensor:
    """Encoded sound -> float32 [n] in [-1,1] at `rate`: the mean of its channels, resampled, what is louder clipped.

    Args:
        field: what the sound is, for messages. data: WAV, FLAC or Ogg (Vorbis, Opus).
        rate: samples a second of the result. max_seconds: of the longest sound that is read.

    Raises:
        BadSample: "empty", "format", "long" or "audio".
        AudioSupportError: soundfile is not there.
    """
    with _open(field, data) as file:
        most = math.floor(max_seconds * file.samplerate)
        if file.frames > most:
            found = f"{file.frames / file.samplerate:.6g} seconds"
            raise BadSample("long", f"{field}: expected at most audio_seconds={max_seconds:g}, found {found}")
        try:
            values = file.read(file.frames, dtype="float32", always_2d=True)
        except _errors() as error:
            raise BadSample("audio", f"{field}: {error}") from error
        if len(values) != file.frames:
            raise BadSample("audio", f"{field}: cut off after {len(values)} of {file.frames} samples")
        own_rate = file.samplerate
    if not np.isfinite(values).all():
        raise BadSample("audio", f"{field}: not all of its values are numbers")
    mono = np.clip(values, -1, 1).mean(axis=1)
    resampled = _resampled(mono, own_rate, rate)[: math.ceil(max_seconds * rate)]
    return torch.from_numpy(np.ascontiguousarray(np.clip(resampled, -1, 1)))


def sound_facts(data: bytes) -> SoundFacts:
    """Length, rate and channels of a sound, without decoding it; errors as `decode_audio`."""
    with _open("sound", data) as file:
        return SoundFacts(file.frames / file.samplerate, file.samplerate, file.channels)


def audio_format(data: bytes) -> str | None:
    """The suffix of a sound, by its first bytes; None for what is neither WAV, FLAC nor Ogg."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    return {b"fLaC": "flac", b"OggS": "ogg"}.get(data[:4])


def _open(field: str, data: bytes) -> soundfile.SoundFile:
    library = _library()
    if not data:
        raise BadSample("empty", f"{field}: no bytes")
    kind = audio_format(data)
    if kind is None:
        raise BadSample("format", f"{field}: expected WAV, FLAC or Ogg, found {data[:12]!r}")
    if _is_cut_off(data, kind):
        raise BadSample("audio", f"{field}: cut off; fetch the file again")
    try:
        file = library.SoundFile(_Bytes(data))
    except _errors() as error:
        raise BadSample("audio", f"{field}: {getattr(error, 'error_string', error)}") from error
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE or not 1 <= file.channels <= MAX_CHANNELS:
        wanted = f"{LOWEST_RATE} to {HIGHEST_RATE} samples a second on at most {MAX_CHANNELS} channels"
        raise BadSample("audio", f"{field}: expected {wanted}, found {file.samplerate} on {file.channels}")
    if file.frames > _NO_LENGTH:
        raise BadSample("audio", f"{field}: does not say how long it is, as FLAC from a pipe; write it to a file")
    if file.frames < 1:
        raise BadSample("empty", f"{field}: a sound without samples")
    return file


def _is_cut_off(data: bytes, kind: str) -> bool:
    """Whether the file's end is missing, which libsndfile tells of FLAC alone."""
    if kind == "wav":
        size = int.from_bytes(data[4:8], "little")
        return size not in _UNKNOWN_SIZE and size + 8 > len(data) + 1  # a byte of padding is often left out
    if kind == "ogg":
        page = data[data.rfind(b"OggS") :]
        length = 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) > 26 else 0
        return not 0 < length <= len(page) or not page[5] & _LAST_PAGE
    return False


def _resampled(mono: np.ndarray, own_rate: int, rate: int) -> np.ndarray:
    if own_rate == rate:
        return mono
    from scipy.signal import resample_poly

    low, high = sorted((rate, own_rate))
    change = Fraction(low, high).limit_denominator(_FINEST)
    up, down = (change.numerator, change.denominator)[:: 1 if rate < own_rate else -1]
    return resample_poly(mono, up, down).astype(np.float32, copy=False)


def _library() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the latter where the C library is missing
        raise AudioSupportError(
            f"sounds in the data: the package soundfile cannot be used ({error}); install the extra: "
            "pip install 'mmig[audio]'"
        ) from error
    return soundfile


def _errors() -> tuple[type[Exception], ...]:
    return (_library().SoundFileError, ValueError, RuntimeError, TypeError, MemoryError, OverflowError)


class _Bytes(io.BytesIO):
    """A file in memory for libsndfile, which seeks anywhere in damaged files and must hear no exception."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return -1

"""Sounds: decoded, mixed down, resampled; whatever is damaged is a fault and nothing worse."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from datamodules.audio import decode_audio, sound_facts
from datamodules.faults import BadSample
from tests.datamodules.make_samples import sine, sound


@pytest.mark.parametrize(
    ("kind", "settings", "tolerance"),
    [
        ("WAV", {"subtype": "FLOAT"}, 0),
        ("WAV", {"subtype": "PCM_16"}, 2**-15),
        ("WAV", {"subtype": "PCM_24"}, 2**-23),
        ("WAV", {"subtype": "PCM_U8"}, 2**-7),
        ("FLAC", {"subtype": "PCM_16"}, 2**-15),
        ("OGG", {"subtype": "VORBIS"}, 0.03),
    ],
)
def test_every_format_gives_the_values_that_were_written(kind: str, settings: dict, tolerance: float) -> None:
    found = decode_audio("a", sound(kind=kind, **settings), 16_000, 1.0)
    assert found.dtype == torch.float32 and found.shape == (4000,)
    assert (found - torch.from_numpy(sine()[:, 0])).abs().max() <= tolerance


@pytest.mark.parametrize("own_rate", [8_000, 11_025, 22_050, 24_000, 44_100, 44_101, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_tone_of_any_rate_becomes_the_same_tone_at_ours(own_rate: int, rate: int) -> None:
    values = sine(0.5, own_rate)
    found = decode_audio("a", sound(values, rate=own_rate), rate, 1.0).numpy()
    assert len(found) == pytest.approx(len(values) * rate / own_rate, abs=1)
    expected = sine(0.5, rate)[: len(found), 0]
    inner = slice(rate // 20, -rate // 20)  # the filter knows nothing beyond the ends
    assert np.abs(found[inner] - expected[inner]).max() < 0.003


def test_what_our_rate_cannot_hold_is_filtered_out() -> None:
    high = decode_audio("a", sound(sine(0.5, 44_100, hertz=12_000), rate=44_100), 16_000, 1.0)
    assert high[400:-400].abs().max() < 0.01


def test_channels_are_averaged() -> None:
    values = np.concatenate([sine(), -sine(), 0.5 * sine()], axis=1)
    found = decode_audio("a", sound(values), 16_000, 1.0)
    torch.testing.assert_close(found, torch.from_numpy(values.mean(axis=1)))


def test_what_is_louder_than_loudest_is_clipped() -> None:
    assert decode_audio("a", sound(4 * sine()), 16_000, 1.0).abs().max() == 1
    square = np.sign(sine(0.25, 44_100))
    assert decode_audio("a", sound(square, rate=44_100), 16_000, 1.0).abs().max() <= 1  # filters overshoot


def test_a_sound_of_just_the_longest_length_is_read_and_one_sample_more_is_not() -> None:
    for own_rate in (16_000, 44_100):
        data = sound(np.zeros((own_rate // 2, 1), np.float32), rate=own_rate)
        assert decode_audio("a", data, 16_000, 0.5).shape == (8_000,)
        with pytest.raises(BadSample, match=r"a: expected at most audio_seconds=0\.5, found 0\.50") as bad:
            decode_audio("a", sound(np.zeros((own_rate // 2 + 1, 1), np.float32), rate=own_rate), 16_000, 0.5)
        assert bad.value.reason == "long"


def test_what_a_file_says_is_known_without_decoding_it() -> None:
    facts = sound_facts(sound(sine(0.5, 22_050, channels=2), "OGG", 22_050))
    assert (facts.seconds, facts.rate, facts.channels) == (0.5, 22_050, 2)


def test_a_wav_from_a_pipe_says_nothing_about_its_size_and_is_read() -> None:
    data = bytearray(sound(subtype="PCM_16"))
    data[4:8] = b"\xff" * 4
    assert decode_audio("a", bytes(data), 16_000, 1.0).shape == (4000,)


def test_a_flac_from_a_pipe_that_has_no_length_is_one_line() -> None:
    data = bytearray(sound(kind="FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)  # the 36 bits of its number of samples
    with pytest.raises(BadSample, match="does not say how long it is") as bad:
        decode_audio("a", bytes(data), 16_000, 1.0)
    assert bad.value.reason == "audio"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_any_damage_gives_a_sound_or_a_fault(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    draw, whole, read = random.Random(0), sound(sine(0.1), kind), 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 3, 20))):
            data[draw.randrange(min(len(data), draw.choice((60, 400, len(data)))))] = draw.randrange(256)
        if draw.random() < 0.3:
            del data[draw.randrange(len(data)) :]
        try:
            found = decode_audio("a", bytes(data), 16_000, 10.0)
        except BadSample as bad:
            assert bad.reason in ("audio", "long", "empty", "format") and "\n" not in bad.detail
            continue
        assert found.ndim == 1 and 0 < len(found) <= 160_000 and found.abs().max() <= 1
        read += 1
    assert read < 300 and capfd.readouterr().err == ""

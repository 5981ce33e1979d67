"""The log-mel filter bank against Kaldi's definition, written down a second time, and against torchaudio's numbers."""

import math

import numpy as np
import pytest
import torch

from mmig.backbones.fbank import FLOOR, log_mel, mel_filters, num_frames

RATE, BINS = 16_000, 128


def chirp() -> np.ndarray:
    """Two seconds of a tone of 440 Hz below a glide from 0 to 6,000 Hz, float32 without a mean."""
    time = np.arange(2 * RATE) / RATE
    values = (0.5 * np.sin(2 * np.pi * 440 * time) + 0.25 * np.sin(2 * np.pi * 1500 * time**2)).astype(np.float32)
    return values - values.mean(dtype=np.float64).astype(np.float32)


def mel(hertz: float) -> float:
    return 1127 * math.log(1 + hertz / 700)


def kaldi_fbank(sound: np.ndarray) -> np.ndarray:
    """Kaldi's ComputeFbank in float64, frame by frame and filter by filter: [F,BINS]."""
    rows = []
    window = [0.5 - 0.5 * math.cos(2 * math.pi * i / 399) for i in range(400)]
    step = (mel(8000) - mel(20)) / (BINS + 1)
    for start in range(0, len(sound) - 399, 160):
        frame = sound[start : start + 400].astype(np.float64)
        frame = frame - frame.mean()
        before = np.roll(frame, 1)
        before[0] = frame[0]
        power = np.abs(np.fft.fft((frame - 0.97 * before) * window, 512)) ** 2
        row = []
        for number in range(BINS):
            left, centre, right = (mel(20) + step * (number + i) for i in range(3))
            energy = 0.0
            for bin_ in range(256):
                place = mel(bin_ * RATE / 512)
                if left < place < right:
                    energy += power[bin_] * ((place - left if place <= centre else right - place) / step)
            row.append(math.log(max(energy, 2**-23)))
        rows.append(row)
    return np.array(rows)


def test_it_is_kaldis_definition() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3200).astype(np.float32)
    for sound in (noise, chirp()[:3200]):
        found = log_mel(torch.from_numpy(sound), RATE, BINS)
        assert found.dtype == torch.float32 and found.shape == (18, BINS)
        expected = kaldi_fbank(sound)
        audible = expected > -12  # below it float32 rounds what a loud tone leaves in the bins beside it
        np.testing.assert_allclose(found.numpy()[audible], expected[audible], atol=3e-4, rtol=0)
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-3, rtol=0)


def test_it_gives_the_numbers_of_torchaudio() -> None:
    """torchaudio 2.11.0, compliance.kaldi.fbank with ImageBind's settings: htk_compat, hanning, 128 bins, no dither."""
    found = log_mel(torch.from_numpy(chirp())[None], RATE, BINS)[0]
    expected = [
        [-8.793112, -14.207963, -15.942385, -15.942385, -15.942385],
        [-9.705092, -14.355340, -5.282405, -15.942385, -15.942385],
        [-9.708999, -14.216013, -15.942385, -8.948246, -15.942385],
        [-9.709614, -14.213254, -15.942385, -15.307661, -15.942385],
    ]
    assert found.shape == (198, BINS)
    torch.testing.assert_close(found[::60, 10:128:29], torch.tensor(expected), atol=2e-4, rtol=1e-4)
    assert found.mean().item() == pytest.approx(-11.798076, abs=1e-4)
    assert found.std(correction=0).item() == pytest.approx(5.779490, abs=1e-4)


def test_a_filter_between_two_frequencies_stays_at_the_floor() -> None:
    """The fourth one, as in Kaldi's own features at 128 bins and a transform of 512."""
    empty = (mel_filters(RATE, 512, BINS).sum(0) == 0).nonzero().flatten()
    assert empty.tolist() == [3]
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    assert (log_mel(noise, RATE, BINS)[:, 3] == math.log(FLOOR)).all()


def test_only_whole_frames_count() -> None:
    samples = torch.tensor([0, 399, 400, 559, 560, 32_000])
    assert num_frames(samples, RATE).tolist() == [0, 0, 1, 1, 2, 198]
    assert log_mel(torch.zeros(559), RATE, BINS).shape == (1, BINS)


def test_autocast_does_not_round_it() -> None:
    sound = torch.from_numpy(chirp())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = log_mel(sound, RATE, BINS)
    assert torch.equal(rounded, log_mel(sound, RATE, BINS))

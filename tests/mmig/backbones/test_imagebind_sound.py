"""Sounds as clips of log-mel features: where clips begin, what pads them, and the reading of sounds that are none."""

import math

import numpy as np
import pytest
import torch

from datamodules.schema import AttachmentSettings, Sample, SchemaError, collate, with_attachment_tensors
from mmig.backbones.fbank import log_mel
from mmig.backbones.imagebind_sound import SoundSettings, clip_starts, sound_features
from tests.datamodules.make_samples import sine, sound

SETTINGS = SoundSettings()
PADDING = 0.4671
RATE = SETTINGS.rate


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(round(seconds * RATE), generator=torch.Generator().manual_seed(seed)) - 0.5


def features_of(*sounds: torch.Tensor, settings: SoundSettings = SETTINGS) -> torch.Tensor:
    lengths = torch.tensor([len(one) for one in sounds])
    return sound_features(torch.nn.utils.rnn.pad_sequence(list(sounds), batch_first=True), lengths, settings)


def read(data: bytes, seconds: float = 10.0) -> torch.Tensor:
    """Features of a file as a batch brings it."""
    sample: Sample = {"key": "a", "instruction": "x", "attachments": [{"kind": "audio", "data": data, "format": "wav"}]}
    batch = collate([with_attachment_tensors(sample, AttachmentSettings(audio_seconds=seconds))], size=(8, 8))
    return sound_features(batch["attachment_audio"][:, 0], batch["attachment_audio_samples"][:, 0], SETTINGS)


def test_ten_seconds_are_heard_from_three_places() -> None:
    starts = clip_starts(torch.tensor([10 * RATE, 2 * RATE, 1 * RATE, 600 * RATE]), SETTINGS)
    assert (starts[0] / RATE).tolist() == pytest.approx([0, 2.667, 5.333], abs=1e-3)
    assert starts[1:3].tolist() == [[0, 0, 0]] * 2
    assert (starts[3] / RATE).tolist() == pytest.approx([0, 199.333, 398.667], abs=1e-3)


def test_each_clip_is_the_normalised_filter_bank_of_its_two_seconds() -> None:
    whole = noise(10)
    found = features_of(whole)
    assert found.shape == (1, 3, 128, 204) and found.dtype == torch.float32
    for clip, start in zip(found[0], (0, 42_666, 85_333), strict=True):
        own = whole[start : start + 2 * RATE]
        expected = (log_mel(own - own.mean(), RATE, 128).T + 4.268) / 9.138
        torch.testing.assert_close(clip[:, :198], expected, atol=1e-4, rtol=0)


def test_the_last_six_frames_of_a_clip_are_padding() -> None:
    clips = features_of(torch.from_numpy(sine(2.0)[:, 0]))[0]
    assert (clips[..., 198:] - PADDING).abs().max() < 5e-5
    assert (clips[..., 197] - PADDING).abs().max() > 0.1


def test_a_shorter_sound_counts_by_its_true_length() -> None:
    short, long = noise(0.5), noise(3, seed=1)
    alone, beside = features_of(short), features_of(short, long)[:1]
    assert torch.equal(alone, beside)
    assert (alone[..., 48:] - PADDING).abs().max() < 5e-5  # 1 + (8000 - 400) // 160 frames
    own = (log_mel(short - short.mean(), RATE, 128).T + 4.268) / 9.138
    torch.testing.assert_close(alone[0, 0, :, :48], own, atol=1e-4, rtol=0)
    garbage = torch.cat([short, torch.ones(RATE)])[None]
    assert torch.equal(sound_features(garbage, torch.tensor([len(short)]), SETTINGS), alone)


def test_silence_and_a_constant_are_the_floor() -> None:
    floor = (math.log(2**-23) + 4.268) / 9.138
    for value in (0.0, 0.25):
        found = features_of(torch.full((2 * RATE,), value))
        torch.testing.assert_close(found[..., :198], torch.full((1, 3, 128, 198), floor))


def test_less_than_a_frame_is_repeated_and_nothing_is_a_frame_of_silence() -> None:
    few = noise(0.005)
    assert torch.equal(features_of(few), features_of(few.repeat(5)))
    assert torch.equal(features_of(few[:0], few)[:1], features_of(torch.zeros(400)))
    assert features_of(few[:0]).isfinite().all()


def test_a_stereo_file_of_96_khz_is_the_tone_that_it_holds() -> None:
    left = np.concatenate([sine(2.0, 96_000), np.zeros((192_000, 1), np.float32)], axis=1)
    found, expected = read(sound(left, rate=96_000)), read(sound(0.5 * sine(2.0)))
    loud = expected > -0.5  # far below the tone only the filter's rounding is heard
    assert loud.float().mean() > 0.05
    torch.testing.assert_close(found[loud], expected[loud], atol=0.05, rtol=0)


def test_ten_minutes_are_three_clips_where_the_data_allow_them_and_one_line_where_not() -> None:
    data = sound(np.tile(sine(1.0), (600, 1)), subtype="PCM_16")
    assert read(data, seconds=600.0).shape == (1, 3, 128, 204)
    with pytest.raises(SchemaError, match=r"attachments\[0\]: expected at most audio_seconds=10, found 600") as error:
        read(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sound()[:200], r"attachments\[0\]: cut off; fetch the file again"),
        (b"RIFF\x24\x00\x00\x00WAVE" + bytes(32), r"attachments\[0\]: "),
        (b"no sound at all", r"attachments\[0\]: expected WAV, FLAC or Ogg, found"),
        (b"", r"attachments\[0\]"),
        (sound(np.zeros((0, 1), np.float32)), r"attachments\[0\]: a sound without samples"),
    ],
    ids=["cut", "header", "text", "empty", "no samples"],  # a float WAV tells when it was made
)
def test_a_broken_or_empty_file_is_one_line(data: bytes, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as error:
        read(data)
    assert "\n" not in str(error.value)


def test_lengths_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="expected lengths of 0 to 100 samples, found 101 to 101"):
        sound_features(torch.zeros(1, 100), torch.tensor([101]), SETTINGS)
    with pytest.raises(ValueError, match=r"found shapes \(100,\) and \(1,\)"):
        sound_features(torch.zeros(100), torch.tensor([100]), SETTINGS)


def test_other_settings_give_other_shapes() -> None:
    settings = SoundSettings(num_clips=1, clip_seconds=1.28, num_mel_bins=64, num_frames=112)
    assert features_of(noise(1), noise(2), settings=settings).shape == (2, 1, 64, 112)

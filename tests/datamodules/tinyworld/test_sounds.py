"""Sounds: one voice for every word, never the same twice, and told apart by a simple classifier."""

import numpy as np
import pytest

from datamodules.audio import decode_audio, sound_facts
from datamodules.placeholders import placeholders
from datamodules.schema import validate
from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.oracle import judge
from datamodules.tinyworld.oracle_errors import as_image
from datamodules.tinyworld.png import png
from datamodules.tinyworld.sample import with_images
from datamodules.tinyworld.scene import ATMOSPHERES, OBJECT_COLOURS, PHOTOGRAPHIC, SHAPES, STYLES
from datamodules.tinyworld.sound_samples import SPLITS, draw_sound_sample
from datamodules.tinyworld.sounds import RATE, VOICES, sound

FRAME, FRAMES, BANDS = 512, 24, 32


def spectrogram(data: bytes) -> np.ndarray:
    """Log energies [frames * bands] in bands of equal ratio, over the sound's own length, about their mean."""
    values = decode_audio("sound", data, RATE, 2.0).numpy()
    starts = np.linspace(0, len(values) - FRAME, FRAMES).astype(int)
    frames = np.stack([values[start : start + FRAME] for start in starts]) * np.hanning(FRAME)
    energies = np.abs(np.fft.rfft(frames, 2048)) ** 2
    edges = np.geomspace(10, energies.shape[1] - 1, BANDS + 1).astype(int)
    bands = np.log(np.add.reduceat(energies, edges[:-1], axis=1) + 1e-2)
    return (bands - bands.mean()).ravel()


def sounds(split: str, count: int) -> dict[str, list[bytes]]:
    return {name: [sound(Draws(0, f"{split}/{name}", i), name) for i in range(count)] for name in VOICES}


def test_every_shape_colour_and_effect_has_a_voice():
    assert set(VOICES) == {*SHAPES, *OBJECT_COLOURS, *STYLES, *ATMOSPHERES, *PHOTOGRAPHIC}


def test_a_nearest_centroid_tells_voices_apart():
    centroids = {
        name: np.mean([spectrogram(each) for each in heard], axis=0) for name, heard in sounds("a", 20).items()
    }
    names = list(centroids)
    middles = np.stack(list(centroids.values()))
    found = [
        (name, names[int(np.square(middles - spectrogram(each)).sum(axis=1).argmin())])
        for name, heard in sounds("b", 10).items()
        for each in heard
    ]
    wrong = [pair for pair in found if pair[0] != pair[1]]
    assert len(wrong) <= 0.05 * len(found), wrong


@pytest.mark.parametrize("name", VOICES)
def test_a_sound_is_about_a_second_and_the_same_each_time_for_one_draw(name: str):
    first, again, other = (sound(Draws(0, "sounds", index), name) for index in (0, 0, 1))
    assert first == again != other
    facts = sound_facts(first)
    assert (facts.rate, facts.channels) == (RATE, 1)
    assert 0.8 <= facts.seconds <= 1.25


@pytest.mark.parametrize("split", SPLITS)
def test_samples_fit_the_schema_and_the_oracle(split: str):
    for index in range(20):
        sample = draw_sound_sample(0, split, index)
        validate(with_images(sample, png))
        assert judge(as_image(sample["target"]), sample["metadata"]).success
        assert not judge(as_image(sample["source"]), sample["metadata"]).success


def test_the_sound_and_not_the_instruction_says_what_is_meant():
    for index in range(60):
        sample = draw_sound_sample(0, "train", index)
        meant, edit = sample["metadata"]["sound"], sample["metadata"]["edit"]
        assert meant in (edit["operation"], *(edit["after"] or {}).values())
        (mark,) = placeholders(sample["instruction"])
        said = sample["instruction"][: mark.start] + sample["instruction"][mark.end :]
        if edit["before"] is None or meant not in edit["before"].values():  # which the instruction may name
            assert meant not in said
        word = sample["attachments"][0]["word"]
        assert word == mark.word
        alone = sample["instruction"].endswith(">")
        assert (word is None) == alone
        assert alone or sample["instruction"][slice(*word)] in ("shape", "colour", "look")


def test_the_same_word_sounds_otherwise_in_every_sample():
    heard = [draw_sound_sample(0, split, index)["attachments"][0]["data"] for split in SPLITS for index in range(40)]
    assert len(set(heard)) == len(heard)

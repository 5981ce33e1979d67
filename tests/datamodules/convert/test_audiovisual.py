"""Sounds with middle frames: each published table, names of files, and what is missing or broken."""

from pathlib import Path

import pytest
from PIL import Image

from datamodules.convert.__main__ import main
from datamodules.convert.audiovisual import AudioVisual
from datamodules.convert.source import ConversionError
from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.sounds import sound
from tests.datamodules.convert.results import converted, samples

SOUND = sound(Draws(0, "audiovisual", 0), "circle")


def write(root: Path, *names: str) -> Path:
    for folder in ("audio", "frames"):
        (root / folder).mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (root / "audio" / f"{name}.wav").write_bytes(SOUND)
        Image.new("RGB", (32, 24), (number, 9, 9)).save(root / "frames" / f"{name}.png")
    return root


def table(root: Path, text: str, name: str = "table.csv") -> str:
    (root / name).write_text(text)
    return str(root / name)


def test_vggsound_names_clips_by_id_and_second_and_has_its_own_splits(tmp_path: Path):
    root = write(tmp_path, "---abc_000030", "xyz_000007")
    rows = '---abc,30,"playing violin, fiddle",train\nxyz,7,dog barking,test\ngone,1,thunder,train\n'
    source = AudioVisual(str(root), "vggsound", table(root, rows))
    report = converted(source, tmp_path / "out")
    (found,) = samples(tmp_path / "out" / "train").values()
    assert found["target_caption"] == "playing violin, fiddle" and found["target"].size == (32, 24)
    (attached,) = found["attachments"]
    assert attached["kind"] == "audio" and attached["data"] == SOUND and attached["format"] == "wav"
    (other,) = samples(tmp_path / "out" / "test").values()
    assert other["target_caption"] == "dog barking"
    assert report["splits"]["train"]["dropped"] == {"missing": 1}


def test_audioset_says_its_labels_in_words(tmp_path: Path):
    root = write(tmp_path, "Yab")
    labels = table(root, 'index,mid,display_name\n0,/m/1,Speech\n1,/m/2,"Music, live"\n', "labels.csv")
    rows = '# Segments csv\n# YTID, start_seconds, end_seconds, positive_labels\nab, 0.000, 10.000, "/m/1,/m/2"\n'
    converted(AudioVisual(str(root), "audioset", table(root, rows), labels), tmp_path / "out")
    (found,) = samples(tmp_path / "out" / "train").values()
    assert found["target_caption"] == "Speech, Music, live"


def test_several_captions_of_one_clip_are_several_samples(tmp_path: Path):
    root = write(tmp_path, "ab_5")
    rows = 'audiocap_id,youtube_id,start_time,caption\n1,ab,5,a dog barks\n2,ab,5,"a dog, far away"\n'
    converted(AudioVisual(str(root), "audiocaps", table(root, rows), split="val"), tmp_path / "out")
    found = samples(tmp_path / "out" / "val")
    assert {key: one["target_caption"] for key, one in found.items()} == {
        "ab_5": "a dog barks",
        "ab_5-2": "a dog, far away",
    }


def test_soundnet_has_no_captions(tmp_path: Path):
    root = write(tmp_path, "one", "two")
    (root / "audio" / "alone.wav").write_bytes(SOUND)
    assert main(["audiovisual", "--source", str(root), "--layout", "soundnet", "--out", str(tmp_path / "out")]) == 0
    found = samples(tmp_path / "out" / "train")
    assert sorted(found) == ["one", "two"] and all("target_caption" not in one for one in found.values())


def test_a_file_that_is_no_sound_is_dropped_and_counted(tmp_path: Path):
    root = write(tmp_path, "one", "two")
    (root / "audio" / "two.wav").write_bytes(b"ID3 nothing")
    report = converted(AudioVisual(str(root), "soundnet"), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {"format": 1}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("id,5,x\n", "row 1: expected at least 4 fields, found 3"),
        ("", "expected rows, found none"),
        ("gone,5,x,train\n", "found 1 sounds and 1 frames, none of them"),
    ],
)
def test_tables_that_cannot_be_used_are_one_line(tmp_path: Path, rows: str, words: str):
    root = write(tmp_path, "one")
    with pytest.raises(ConversionError, match=words):
        AudioVisual(str(root), "vggsound", table(root, rows)).splits()


def test_audiocaps_without_its_head_is_one_line(tmp_path: Path):
    root = write(tmp_path, "one")
    with pytest.raises(ConversionError, match="expected a head with youtube_id, found 1, one, 5, a dog"):
        AudioVisual(str(root), "audiocaps", table(root, "1,one,5,a dog\n")).splits()

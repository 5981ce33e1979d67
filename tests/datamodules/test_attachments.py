"""Attachments of samples: what is one, and the tensors that a batch holds of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.decode import decode
from datamodules.encode import encode
from datamodules.features import FeatureError, Features
from datamodules.schema import (
    AttachmentSettings,
    Sample,
    SchemaError,
    answers,
    collate,
    take,
    validate,
    with_attachment_tensors,
    words_in,
)
from tests.datamodules.damage import encoded, gradient
from tests.datamodules.make_samples import make_image, sine, sound

SETTINGS = AttachmentSettings(attachment_size=8, audio_rate=8_000, audio_seconds=1.0)
SUBJECT = {"kind": "image", "role": "subject", "data": make_image(1)}
NOISE = {"kind": "audio", "role": "style", "data": sound(), "format": "wav"}
ANSWER = {"kind": "image", "role": "answer", "data": make_image(2)}


def sample(*attachments: dict[str, Any], key: str = "a", **fields: Any) -> Sample:
    return {"key": key, "instruction": "x", "attachments": list(attachments), **fields}  # type: ignore[return-value]


def batch_of(*samples: Sample, **settings: Any) -> dict[str, Any]:
    return dict(collate([with_attachment_tensors(each, SETTINGS) for each in samples], size=(4, 4), **settings))


def test_pictures_and_sounds_of_a_batch_lie_in_the_slots_of_their_numbers() -> None:
    batch = batch_of(sample(SUBJECT, NOISE), sample(key="b"), sample({**NOISE, "data": sound(sine(0.1))}, key="c"))
    assert batch["attachment_images"].shape == (3, 2, 3, 8, 8) and batch["attachment_audio"].shape == (3, 2, 2000)
    assert batch["has_attachment_images"].tolist() == [[True, False], [False, False], [False, False]]
    assert batch["has_attachment_audio"].tolist() == [[False, True], [False, False], [True, False]]
    assert batch["has_attachments"].tolist() == [True, False, True]
    assert batch["attachment_audio_samples"].tolist() == [[0, 2000], [0, 0], [800, 0]]
    assert batch["attachment_kinds"] == [["image", "audio"], [], ["audio"]]
    assert batch["attachment_roles"] == [["subject", "style"], [], ["style"]]
    assert batch["attachment_words"] == [[None, None], [], [None]]
    for field, rows in (("images", [(0, 1), (1, 0), (2, 1)]), ("audio", [(0, 0), (1, 1), (2, 1)])):
        assert all(batch[f"attachment_{field}"][row].abs().sum() == 0 for row in rows)
    assert (
        batch["attachment_audio"][2, 0, 800:].abs().sum() == 0
        and batch["attachment_audio"][2, 0, :800].abs().max() > 0.4
    )


def test_a_batch_without_attachments_has_no_slots() -> None:
    batch = batch_of(sample(), {"key": "b", "instruction": "y"}, attachment_size=32)
    assert batch["attachment_images"].shape == (2, 0, 3, 32, 32) and batch["attachment_audio"].shape == (2, 0, 0)
    assert batch["has_attachment_images"].shape == (2, 0) and not batch["has_attachments"].any()
    assert batch["attachment_kinds"] == batch["attachment_words"] == [[], []]


def test_pictures_are_squashed_not_cut() -> None:
    wide = Image.fromarray(np.concatenate([np.full((8, 8, 3), 255, "u1"), np.zeros((8, 24, 3), "u1")], axis=1))
    (found,) = batch_of(sample({**SUBJECT, "data": wide}))["attachment_images"][0]
    assert found.dtype == torch.float32 and found.shape == (3, 8, 8)
    assert found[:, :, :1].min() > 0.9 and found[:, :, 3:].max() < -0.9  # the white quarter is a quarter still
    assert found.min() >= -1 and found.max() <= 1


def test_a_picture_of_the_right_size_keeps_its_pixels_whether_encoded_or_not() -> None:
    pixels = gradient(3, 8)
    for data in (Image.fromarray(pixels), encoded(pixels), encoded(pixels, "WEBP", lossless=True)):
        (found,) = batch_of(sample({**SUBJECT, "data": data}))["attachment_images"][0]
        assert torch.equal(found, torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1)


def test_rows_are_taken_with_all_their_attachments_and_a_slice_is_a_view() -> None:
    batch = batch_of(sample(SUBJECT), sample(NOISE, {**SUBJECT, "word": (0, 1)}, key="b"), sample(key="c"))
    taken = take(batch, [1, 0])
    for name in ("attachment_images", "has_attachment_audio", "attachment_audio_samples", "has_attachments"):
        assert torch.equal(taken[name], batch[name][[1, 0]]), name
    assert taken["attachment_kinds"] == [["audio", "image"], ["image"]] and taken["attachment_words"][0] == [
        None,
        (0, 1),
    ]
    part = take(batch, slice(1, 3))
    assert part["attachment_images"].data_ptr() == batch["attachment_images"][1].data_ptr()
    assert part["attachment_roles"] == [["style", "subject"], []]
    assert take(batch, [])["attachment_images"].shape == (0, 2, 3, 8, 8)


def test_an_answer_enters_no_batch_and_numbers_stay_those_of_the_placeholders() -> None:
    made = sample(ANSWER, SUBJECT, {**NOISE, "role": "answer"}, instruction="like <image:1>")
    batch = batch_of(made)
    assert batch["attachment_kinds"] == [["", "image"]] and batch["attachment_roles"] == [["", "subject"]]
    assert batch["has_attachment_images"].tolist() == [[False, True]]
    assert batch["attachment_images"][0, 0].abs().sum() == 0
    assert not batch_of(sample(ANSWER))["has_attachments"].any() and batch_of(sample(ANSWER))["attachment_kinds"] == [
        []
    ]
    found = answers(made)
    assert list(found) == [0, 2] and found[0]["data"] is ANSWER["data"]
    assert not any(isinstance(value, Image.Image | bytes) for value in batch.values()) and "attachments" not in batch


def test_answers_do_not_count_as_attachments_too_many() -> None:
    one = AttachmentSettings(max_attachments=1)
    assert len(with_attachment_tensors(sample(SUBJECT, *[ANSWER] * 9), one)["attachments"]) == 1
    with pytest.raises(SchemaError, match=r"sample 'a': 2 attachments, at most max_attachments=1 are read") as error:
        with_attachment_tensors(sample(SUBJECT, NOISE), one)
    assert error.value.reason == "attachment"


CAPTION = "a <image:0> dog and <image:1> cat like <image:2>"


def test_a_word_is_the_one_behind_its_placeholder_unless_the_attachment_says_another_or_none() -> None:
    def words(*given: Any, **texts: str) -> list[Any]:
        attached = [SUBJECT | ({} if word == "default" else {"word": word}) for word in given]
        return batch_of(sample(*attached, **texts))["attachment_words"][0]

    found = words("default", "default", "default", target_caption=CAPTION)
    assert [span and CAPTION[slice(*span)] for span in found] == ["dog", "cat", None]
    assert words(None, [30, 33], [12, 15], target_caption=CAPTION) == [None, (30, 33), (12, 15)]
    # the caption before the instruction, but only where the placeholder is there, or nowhere
    assert words("default", instruction="a <image:0> red dog", target_caption="a red dog") == [(12, 15)]
    assert words([2, 5], instruction="make it", target_caption="a red dog") == [(2, 5)]
    with pytest.raises(SchemaError, match=r"'attachments\[0\].word': expected \[start, end\] of a word of 'a red dog'"):
        words([2, 10], instruction="make it all red now", target_caption="a red dog")


def test_words_of_a_text_without_placeholders() -> None:
    batch = batch_of(
        sample(SUBJECT, SUBJECT, SUBJECT, target_caption=CAPTION, instruction="the <image:1> pet"),
        sample({**SUBJECT, "word": [0, 3]}, key="b", target_caption="a red dog", instruction="add <image:0> pets"),
        sample({**SUBJECT, "word": [2, 9]}, SUBJECT, key="c", target_caption="a red dog"),
    )
    plain, words = words_in(batch, 0, "target_caption")
    assert plain == "a dog and cat like" and [w and plain[slice(*w)] for w in words] == ["dog", "cat", None]
    plain, words = words_in(batch, 0, "instruction")
    assert plain == "the pet" and [w and plain[slice(*w)] for w in words] == [None, "pet", None]
    plain, words = words_in(batch, 1, "target_caption")
    assert plain == "a red dog" and words == [None]  # its word is one of the instruction
    plain, words = words_in(batch, 2, "target_caption")
    assert [w and plain[slice(*w)] for w in words] == ["red dog", None]


@pytest.mark.parametrize(
    ("attachments", "fields", "message"),
    [
        ([{"kind": "video"}], {}, r"'attachments\[0\].kind': expected one of image, audio, found 'video'"),
        ([SUBJECT, 3], {}, r"'attachments\[1\]': expected dict, found int"),
        (
            [{**SUBJECT, "role": "mood"}],
            {},
            r"role': expected one of subject, style, base, reference, answer, found 'mood'",
        ),
        ([{**SUBJECT, "role": ""}], {}, "found ''"),
        ([{"kind": "image"}], {}, r"data': expected a picture or its bytes, found none"),
        ([{**NOISE, "data": make_image(1)}], {}, r"data': expected the bytes of a sound, found Image"),
        ([{**NOISE, "format": None}], {}, r"format': expected one of wav, flac, ogg, found None"),
        ([{**NOISE, "format": "mp3"}], {}, r"format': expected one of wav, flac, ogg, found 'mp3'"),
        ([], {"instruction": "like <image:0>"}, r"'instruction': expected <image:0> to be an attachment to show"),
        ([NOISE], {"target_caption": "<image:0>"}, r"'target_caption': expected <image:0> .* found audio, style"),
        ([ANSWER], {"instruction": "<image:0>"}, r"found image, answer"),
        *(
            (
                [{**SUBJECT, "word": word}],
                {"instruction": "a red dog"},
                r"word': expected \[start, end\] of a word of 'a red dog'",
            )
            for word in ([0, 10], [-1, 2], [3, 3], [1], [0, 1.0], [True, 2], "dog", 0)
        ),
        ([{**SUBJECT, "word": [0, 9]}], {"instruction": "<image:0> dog"}, "expected .* of a word of '<image:0> dog'"),
    ],
)
def test_what_is_no_attachment_is_refused_by_name(attachments: list[Any], fields: dict[str, str], message: str) -> None:
    with pytest.raises(SchemaError, match=message) as caught:
        validate(sample(*attachments, **fields))
    assert "\n" not in str(caught.value)
    with pytest.raises(SchemaError, match=message):
        with_attachment_tensors(sample(*attachments, **fields), SETTINGS)


def test_a_placeholder_elsewhere_is_text_like_any_other() -> None:
    validate({"key": "a", "response": "as <image:7> says", "expressive": "<audio:3>", "source_caption": "<image:0>"})


def test_a_wav_is_no_webp() -> None:
    wav = sound()
    assert wav[:4] == b"RIFF" == encoded(gradient(1), "WEBP")[:4]
    with pytest.raises(SchemaError, match=r"format': expected one of wav, flac, ogg, found None"):
        encode(sample({"kind": "audio", "data": wav}))
    with pytest.raises(
        SchemaError, match=r"field 'attachment0': expected PNG, JPEG or WebP bytes, found b'RIFF.*WAVE'"
    ):
        encode(sample({"kind": "image", "data": wav}))
    with pytest.raises(SchemaError, match="field 'source': expected PNG, JPEG or WebP bytes"):
        encode({"key": "a", "source": wav})
    files = encode(sample({"kind": "image", "data": encoded(gradient(1), "WEBP")}, NOISE))
    assert sorted(files) == ["attachment0.webp", "attachment1.wav", "json"]


@pytest.mark.parametrize(
    "entry", [SUBJECT, {**SUBJECT, "word": [0, 1]}, {**SUBJECT, "word": None}, {"kind": "image", "data": make_image(3)}]
)
def test_what_is_said_of_an_attachment_comes_back_and_what_is_not_said_does_not(entry: dict[str, Any]) -> None:
    (found,) = decode("a", encode(sample(entry)))["attachments"]
    assert {**found, "data": None} == {**entry, "data": None}
    assert np.array_equal(np.asarray(found["data"]), np.asarray(entry["data"]))


def test_answers_of_the_first_emu_edit_shards_are_answers() -> None:
    files = encode(sample(ANSWER))
    files["json"] = files["json"].replace(b'"answer"', b'"emu_edit"')
    assert decode("a", files)["attachments"][0]["role"] == "answer"


def test_an_attachment_that_is_no_tensor_yet_is_refused() -> None:
    with pytest.raises(
        SchemaError, match=r"field 'attachments\[0\]': expected a tensor, found Image: call with_attachm"
    ):
        collate([sample(SUBJECT)], size=(4, 4))


def test_features_of_attachments_that_were_made_otherwise_are_refused() -> None:
    cached: Any = {**sample(SUBJECT), "features": Features({}, {"attachments": "224 px, 16000 samples/s"})}
    with pytest.raises(
        FeatureError, match=r"of attachments of '224 px, 16000 samples/s', this configuration makes '8 px"
    ):
        with_attachment_tensors(cached, SETTINGS)
    assert with_attachment_tensors(cached, AttachmentSettings())["attachments"]
    assert with_attachment_tensors({**cached, "attachments": []}, SETTINGS) == {**cached, "attachments": []}


@pytest.mark.parametrize(
    "wrong",
    [
        {"attachment_size": 0},
        {"audio_rate": 10},
        {"audio_seconds": 0.0},
        {"audio_seconds": float("inf")},
        {"max_attachments": -1},
    ],
)
def test_settings_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"data\.init_args\.{name}: expected .*, found {value}"):
        AttachmentSettings(**wrong)

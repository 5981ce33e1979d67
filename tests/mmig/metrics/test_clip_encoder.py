from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from mmig.metrics.clip_encoder import ClipEncoder, LongTextError, load_encoder
from mmig.metrics.images import ImageRangeError
from mmig.metrics.preprocess import PRESETS, PreprocessingError, prepare_images, preset
from mmig.metrics.suite import MetricSuite
from tests.mmig.metrics.support import random_batch, random_images


def cat(height: int = 300, width: int = 451) -> torch.Tensor:
    pixels = torch.from_numpy(data.chelsea()[:height, :width].copy())
    return pixels.permute(2, 0, 1)[None]


def test_features_have_unit_length(encoder: ClipEncoder) -> None:
    lengths = torch.cat([encoder.encode_images(cat()), encoder.encode_texts(["a red ball"]).embeddings]).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(2))


def test_bytes_and_floats_give_the_same_embeddings(encoder: ClipEncoder) -> None:
    torch.testing.assert_close(encoder.encode_images(cat()), encoder.encode_images(cat().float() / 255))


def test_signed_images_are_refused(encoder: ClipEncoder) -> None:
    with pytest.raises(ImageRangeError, match="compat"):
        encoder.encode_images(cat().float() / 127.5 - 1)


def test_crop_is_open_clips_own_transform() -> None:
    image = Image.fromarray(data.chelsea())
    theirs = Compose([Resize(64, InterpolationMode.BICUBIC), CenterCrop(64)])(image)
    ours = prepare_images(torch.from_numpy(data.chelsea().copy()).permute(2, 0, 1)[None], 64, PRESETS["crop"])
    difference = ours[0].permute(1, 2, 0).numpy() - np.asarray(theirs) / 255
    assert np.abs(difference).mean() < 0.003  # PIL rounds to bytes


def test_default_resize_is_antialiased_and_the_compat_one_is_not() -> None:
    noise = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    smooth = prepare_images(noise, 64, PRESETS["default"])
    rough = prepare_images(noise * 2 - 1, 64, PRESETS["compat_ip2p"]) / 2
    assert float(smooth.std()) < 0.06 < 0.15 < float(rough.std())


def test_the_ip2p_preset_feeds_signed_images_to_the_normalisation(encoder: ClipEncoder) -> None:
    signed = cat(256, 256).float() / 127.5 - 1
    pixels = torch.nn.functional.interpolate(signed, (64, 64), mode="bicubic", align_corners=False)
    expected = encoder.model.encode_image((pixels - 0.5) / 0.25, normalize=True)
    compat = ClipEncoder(_parts(encoder), PRESETS["compat_ip2p"])
    torch.testing.assert_close(compat.encode_images(signed), expected)
    torch.testing.assert_close(compat.encode_images(cat(256, 256)), expected)


def test_a_preset_of_another_model_is_refused(clip_folder: Path) -> None:
    with pytest.raises(PreprocessingError, match="ViT-B-32"):
        load_encoder(str(clip_folder), None, "compat_magicbrush")


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(PreprocessingError, match=r"'squish' is unknown.*compat_ip2p"):
        preset("squish", "ViT-B-32")


def test_a_long_caption_keeps_its_end_of_text(encoder: ClipEncoder) -> None:
    tokens = encoder.tokenizer(["a red ball " * 200], context_length=encoder.context_length)
    end = encoder.tokenizer(["a"], context_length=encoder.context_length)[0].max()
    assert tokens.shape[1] == encoder.context_length
    assert tokens[0, -1] == end


def test_two_long_captions_have_different_embeddings(encoder: ClipEncoder) -> None:
    words = [f"a {colour} ball " * 200 for colour in ("red", "blue")]
    embeddings = encoder.encode_texts(words).embeddings
    assert float((embeddings[0] - embeddings[1]).abs().max()) > 1e-4


def test_truncation_is_told_for_each_text(encoder: ClipEncoder) -> None:
    texts = ["a red ball", "a red ball " * 100, "a red ball"]
    assert encoder.encode_texts(texts).truncated.tolist() == [False, True, False]


def test_a_caption_that_just_fits_is_not_truncated(encoder: ClipEncoder) -> None:
    room = encoder.context_length - 2  # start and end of text
    length = len(encoder.tokenizer.tokenizer("!", add_special_tokens=False).input_ids)
    texts = [" ".join(["!"] * (room // length + extra)) for extra in (0, 1)]
    assert encoder.encode_texts(texts).truncated.tolist() == [False, True]


def test_magicbrush_refuses_a_long_caption(encoder: ClipEncoder) -> None:
    strict = ClipEncoder(_parts(encoder), PRESETS["compat_magicbrush"])
    with pytest.raises(LongTextError, match="tokens"):
        strict.encode_texts(["a red ball " * 100])


def test_magicbrush_cuts_and_counts_a_long_text_that_is_no_caption(encoder: ClipEncoder) -> None:
    strict = ClipEncoder(_parts(encoder), PRESETS["compat_magicbrush"])
    names = ["clip_expressive_similarity", "clip_written_similarity", "clip_score"]
    suite, batch, written = MetricSuite(names, strict), random_batch(2), {"response": ["a red ball " * 100, "a ball"]}
    batch["expressive"][1] = "the ball becomes red " * 100
    bank = suite.bank(batch, random_images(2), written)
    assert all(values.reasons == [None, None] for values in suite.update(bank).values())
    cut = {name: flags.tolist() for name, flags in bank.truncated().items()}
    assert cut == {"expressive": [False, True], "written response": [True, False], "target_caption": [False, False]}
    batch["target_caption"][0] = "a red ball " * 100
    with pytest.raises(LongTextError):
        suite.update(suite.bank(batch, random_images(2), written))


def test_equal_texts_have_equal_features_to_the_bit(encoder: ClipEncoder) -> None:
    embeddings = encoder.encode_texts(["a red ball", "two blue dots", "a red ball"]).embeddings
    assert torch.equal(embeddings[0], embeddings[2])


def test_autocast_does_not_lower_the_precision(encoder: ClipEncoder) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        inside = encoder.encode_images(cat())
    assert torch.equal(inside, encoder.encode_images(cat()))


def test_the_description_names_model_and_preprocessing(encoder: ClipEncoder) -> None:
    described = encoder.describe()
    assert described["preset"] == "default"
    assert len(described["fingerprint"]) == 64
    assert described["preprocessing"]["antialias"] is True


def _parts(encoder: ClipEncoder):
    from mmig.backbones.clip import OpenClip

    return OpenClip(
        encoder.model,
        encoder.tokenizer,
        encoder.image_size,
        (0.5, 0.5, 0.5),
        (0.25, 0.25, 0.25),
        encoder.context_length,
    )

"""D_CLIP: how pictures are brought to CLIP's size, what it measures, which prompts it takes."""

import pytest
import torch
import torch.nn.functional as F

from mmig.methods.styleclip.clip_loss import ONE_TEMPLATE, PHOTO_TEMPLATES, ClipLoss, area_weights
from mmig.methods.styleclip.errors import StyleClipError
from mmig.methods.styleclip.loading import load_loss_clip
from tests.mmig.methods.styleclip.support import CLIP, tiny_clip


@pytest.mark.parametrize("side", [32, 256, 1024])
def test_rows_of_the_area_matrix_sum_to_one(side: int) -> None:
    torch.testing.assert_close(area_weights(side, 224).sum(1), torch.ones(224))


@pytest.mark.parametrize("side", [32, 64, 96])
def test_it_is_the_authors_enlarging_and_averaging(side: int) -> None:
    """Seven times by nearest neighbours, then means over side / 32 pixels."""
    images = torch.randn(1, 3, side, side)
    expected = F.avg_pool2d(images.repeat_interleave(7, 2).repeat_interleave(7, 3), side // 32)
    weights = area_weights(side, 224)
    torch.testing.assert_close(weights @ images @ weights.T, expected, atol=1e-5, rtol=1e-5)


def test_the_distance_is_one_minus_the_cosine_and_has_a_gradient() -> None:
    loss, images = tiny_clip(), torch.rand(2, 3, 32, 32).mul(2).sub(1).requires_grad_()
    texts = loss.encode_texts(["a red circle", "a blue square"])
    expected = 1 - F.cosine_similarity(loss.encode_images(images), texts)
    torch.testing.assert_close(loss.distance(images, texts), expected)
    loss.distance(images, texts).sum().backward()
    assert images.grad.abs().max() > 0


def test_pictures_are_normalised_only_where_they_are_told_to_be() -> None:
    clip, images = load_loss_clip(CLIP), torch.rand(1, 3, 64, 64) * 2 - 1
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (clip.mean, clip.std))
    with torch.no_grad():
        plain, normalised = (ClipLoss(clip, how).encode_images(images) for how in (False, True))
        torch.testing.assert_close(plain, clip.model.encode_image(images, normalize=True))
        expected = clip.model.encode_image(((images + 1) / 2 - mean) / std, normalize=True)
        torch.testing.assert_close(normalised, expected)


def test_a_text_of_several_sentences_is_their_mean() -> None:
    loss = tiny_clip()
    rows = torch.cat([loss.encode_texts([each]) for each in ("red circle", "a red circle")])
    found = loss.encode_texts(["red circle"], (str, lambda text: f"a {text}"))
    torch.testing.assert_close(found, F.normalize(rows.mean(0, keepdim=True)))
    assert len(PHOTO_TEMPLATES) == 79 and len(ONE_TEMPLATE) == 1


def test_a_prompt_that_clip_cuts_is_refused_in_one_line() -> None:
    with pytest.raises(StyleClipError, match=r"prompt: expected at most the 77 tokens.*fewer words") as found:
        tiny_clip().encode_texts(["a red circle " * 40])
    assert "\n" not in str(found.value)
    with pytest.raises(StyleClipError, match="empty text"):
        tiny_clip().encode_texts([" "])

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cosine as cosine_distance

from mmig.metrics import clip


def unit(num: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(num, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_cosine_is_scipys() -> None:
    first, second = unit(5, 0), unit(5, 1)
    expected = [1 - cosine_distance(a, b) for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    np.testing.assert_allclose(clip.cosine(first, second), expected, atol=1e-6)


def test_cosine_of_equal_features_does_not_exceed_one() -> None:
    embeddings = unit(1000, 0)
    assert float(clip.cosine(embeddings, embeddings).max()) <= 1


def test_clip_score_clamps_each_sample_before_any_mean() -> None:
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    text = torch.tensor([[-1.0, 0.0], [0.6, 0.8]])
    torch.testing.assert_close(clip.clip_score(image, text), torch.tensor([0.0, 1.5]))


def test_direction_is_the_cosine_of_differences() -> None:
    source, edited, before, after = (unit(6, seed) for seed in range(4))
    expected = [
        1 - cosine_distance(y - x, b - a)
        for x, y, a, b in zip(*(part.double().numpy() for part in (source, edited, before, after)), strict=True)
    ]
    np.testing.assert_allclose(clip.directional_similarity(source, edited, before, after), expected, atol=1e-5)


def test_swapping_both_pairs_leaves_the_direction_unchanged() -> None:
    source, edited, before, after = (unit(6, seed) for seed in range(4))
    forward = clip.directional_similarity(source, edited, before, after)
    torch.testing.assert_close(clip.directional_similarity(edited, source, after, before), forward)


def test_swapping_one_pair_turns_the_direction_around() -> None:
    source, edited, before, after = (unit(6, seed) for seed in range(4))
    forward = clip.directional_similarity(source, edited, before, after)
    torch.testing.assert_close(clip.directional_similarity(edited, source, before, after), -forward)


def test_a_zero_direction_has_no_value() -> None:
    source, edited, before, after = (unit(3, seed) for seed in range(4))
    after = torch.cat([before[:1], after[1:]])
    edited = torch.cat([edited[:1], source[1:2] + 1e-7, edited[2:]])
    values = clip.directional_similarity(source, edited, before, after)
    assert values.isnan().tolist() == [True, True, False]

"""MGIE's edit head."""

import pytest
import torch

from mmig.methods.mgie.head import EditHead


def small() -> EditHead:
    torch.manual_seed(0)
    return EditHead(12, 10, dim=16, num_queries=7, heads=2, layers=1, feed_forward=32)


def test_the_published_head_has_the_released_ones_parameters() -> None:
    with torch.device("meta"):
        head = EditHead()
        guidance = head(torch.empty(2, 8, 4096), torch.empty(8, 4096))
    assert sum(parameter.numel() for parameter in head.parameters()) == 31_958_784
    assert guidance.shape == (2, 77, 768)


def test_a_gradient_reaches_queries_states_and_embeddings() -> None:
    head, states, rows = small(), torch.randn(2, 8, 12, requires_grad=True), torch.randn(8, 12, requires_grad=True)
    head(states, rows).square().sum().backward()
    for value in (head.queries, states, rows, *head.parameters()):
        assert value.grad is not None and value.grad.any()


def test_it_reads_the_sum_of_states_and_embeddings() -> None:
    head, states, rows = small(), torch.randn(2, 8, 12), torch.randn(8, 12)
    torch.testing.assert_close(head(states, rows), head(states + rows, torch.zeros(8, 12)))


def test_the_null_guidance_follows_the_embeddings() -> None:
    head, rows = small(), torch.randn(8, 12)
    null = head(torch.zeros(1, 8, 12), rows)
    assert not torch.allclose(null, head(torch.zeros(1, 8, 12), rows + 0.1), atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_tokens_gives_as_many_queries(count: int) -> None:
    assert small()(torch.randn(2, count, 12), torch.randn(count, 12)).shape == (2, 7, 10)

import pytest
import torch
from torch import nn

from mmig.methods.mmig.llm.adapters import GroupedUp, MMAdapter
from tests.mmig.methods.mmig.llm.tiny import randomise


def _adapter(dim=12, **options):
    torch.manual_seed(0)
    adapter = MMAdapter(dim, **{"rank": 6, "groups": 3, "temperature": 2.0, "scale": 0.5, "dropout": 0.0} | options)
    randomise(adapter)
    return adapter


def _by_hand(adapter, hidden, weights):
    """Equation 6 one sample, branch and group at a time."""
    rank, groups = adapter.down.out_features, adapter.ups[0].groups
    result = hidden.clone()
    for b, sequence in enumerate(hidden):
        u = sequence @ adapter.down.weight.T + adapter.down.bias
        for weight, up in zip(weights[b], adapter.ups, strict=True):
            for g in range(groups):
                rows = slice(g * adapter.dim // groups, (g + 1) * adapter.dim // groups)
                columns = slice(g * rank // groups, (g + 1) * rank // groups)
                branch = u[:, columns] @ up.weight[rows].T + up.bias[rows]
                result[b, :, rows] += adapter.scale * weight * branch
    return result


def test_forward_is_equation_6_written_out_by_group_and_branch():
    adapter, hidden = _adapter(), torch.randn(3, 5, 12)
    weights = torch.tensor([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5]])
    torch.testing.assert_close(adapter(hidden, weights), _by_hand(adapter, hidden, weights))


def test_up_projection_equals_a_grouped_convolution():
    up = GroupedUp(rank=6, dim=12, groups=3)
    randomise(up)
    inner = torch.randn(2, 5, 6)
    expected = nn.functional.conv1d(inner.transpose(1, 2), up.weight[..., None], up.bias, groups=3).transpose(1, 2)
    torch.testing.assert_close(nn.functional.linear(inner, up.dense(), up.bias), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identity_at_the_start(dtype):
    hidden = torch.randn(2, 5, 16, dtype=dtype)
    adapter = MMAdapter(16)
    weights = adapter.weights(torch.randn(2, 16))
    assert torch.equal(adapter(hidden, weights), hidden)  # dropout on, as in training


def test_weights_are_a_softmax_with_temperature():
    adapter = MMAdapter(4, rank=2)
    with torch.no_grad():
        adapter.router.weight.zero_()
        adapter.router.bias.copy_(torch.tensor([1.0, -1.0]))
    weights = adapter.weights(torch.randn(3, 4))
    torch.testing.assert_close(weights, torch.tensor([[0.549834, 0.450166]]).expand(3, 2), atol=1e-6, rtol=0)
    assert adapter.weights(torch.randn(3, 4).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(("dim", "count"), [(4096, 81_930), (5120, 102_410), (1024, 20_490)])
def test_published_number_of_parameters_of_one_layer(dim, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in MMAdapter(dim).parameters()) == count


def test_both_branches_share_one_draw_of_dropout():
    adapter = _adapter(dropout=0.5)
    hidden = torch.randn(1, 200, 12)
    with torch.no_grad():  # branches that cancel each other as long as they see the same u
        adapter.ups[1].weight.copy_(-adapter.ups[0].weight)
        adapter.ups[1].bias.copy_(-adapter.ups[0].bias)
    half = torch.tensor([[0.5, 0.5]])
    torch.testing.assert_close(adapter(hidden, half), hidden)
    assert not torch.allclose(adapter(hidden, torch.tensor([[0.7, 0.3]])), adapter(hidden, torch.tensor([[0.7, 0.3]])))


def test_bfloat16_states_meet_float32_adapters():
    adapter, hidden, weights = _adapter(), torch.randn(2, 5, 12), torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    exact = adapter(hidden.bfloat16().float(), weights)
    found = adapter(hidden.bfloat16(), weights)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)
    found.float().square().sum().backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.any() for n, p in adapter.named_parameters() if "router" not in n
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10, "groups": 4}, "groups: expected a divisor of rank and width, found 4 for rank 8 and width 10"),
        ({"dim": 12, "rank": 8, "groups": 3}, "groups"),
        ({"dim": 8, "temperature": 0.0}, "temperature: expected a number above 0"),
        ({"dim": 8, "dropout": 1.0}, "dropout"),
    ],
)
def test_bad_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        MMAdapter(**options)


def test_bad_tensors():
    adapter = MMAdapter(8)
    with pytest.raises(ValueError, match=r"width 8, found a tensor \(2, 3, 9\)"):
        adapter(torch.zeros(2, 3, 9), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"weights \[B,2\]"):  # one pair for the whole batch would broadcast
        adapter(torch.zeros(2, 3, 8), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="width 8"):
        adapter.weights(torch.zeros(2, 9))

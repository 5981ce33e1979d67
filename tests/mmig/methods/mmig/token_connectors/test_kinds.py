"""Each kind of connector computes what its source says, written out again without its own code."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.mmig.methods.mmig.token_connectors.support import TEXT_DIM, TOKEN_DIM, inputs, make

NUM_HEADS = 4


def weights(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict())


def linear(values: Tensor, found: dict[str, Tensor], name: str) -> Tensor:
    result = values @ found[f"{name}.weight"].T
    return result + found[f"{name}.bias"] if f"{name}.bias" in found else result


def normed(values: Tensor, found: dict[str, Tensor], name: str) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return unit * found[f"{name}.weight"] + found[f"{name}.bias"]


def rms_normed(values: Tensor, gain: Tensor) -> Tensor:
    return gain * values / (values.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Of one sample, head by head, every key seen."""
    answers = []
    for q, k, v in zip(*(part.chunk(NUM_HEADS, dim=-1) for part in (query, key, value)), strict=True):
        answers.append((q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v)
    return torch.cat(answers, dim=-1)


def block(tokens: Tensor, found: dict[str, Tensor], name: str, activation: object, gates: tuple[Tensor, ...]) -> Tensor:
    query, key, value = linear(
        normed(tokens, found, f"{name}.attention_norm"), found, f"{name}.attention.projections"
    ).chunk(3, dim=-1)
    tokens = tokens + gates[0] * linear(attended(query, key, value), found, f"{name}.attention.out")
    hidden = linear(normed(tokens, found, f"{name}.feed_forward_norm"), found, f"{name}.feed_forward.0")
    return tokens + gates[1] * linear(activation(hidden), found, f"{name}.feed_forward.2")


@torch.no_grad()
def test_uniworlds_mlp_goes_by_three_times_the_width_and_silu() -> None:
    states, mask, timesteps = inputs()
    connector = make("uniworld")
    found = weights(connector)
    assert found["layers.0.weight"].shape == (3 * TOKEN_DIM, TEXT_DIM)
    tokens, counts = connector(states, mask, timesteps)
    hidden = linear(states, found, "layers.0")
    expected = linear(hidden / (1 + (-hidden).exp()), found, "layers.2")
    assert torch.equal(counts, mask)
    torch.testing.assert_close(tokens, expected * mask.unsqueeze(-1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_blip3os_mlp_has_gelu_and_an_rms_norm() -> None:
    states, mask, timesteps = inputs()
    connector = make("blip3o")
    found = weights(connector)
    hidden = linear(states, found, "layers.0")
    erf = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = rms_normed(linear(erf, found, "layers.2"), found["layers.3.weight"])
    tokens, _ = connector(states, mask, timesteps)
    torch.testing.assert_close(tokens, expected * mask.unsqueeze(-1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_refiner_is_gated_by_noise_level_and_mean_and_ends_in_the_whole() -> None:
    states, mask, timesteps = inputs()
    connector = make("refiner")
    found = weights(connector)
    tokens, counts = connector(states, mask, timesteps)
    assert counts[:, -1].all() and torch.equal(counts[:, :-1], mask)
    frequencies = (-math.log(10_000) * torch.arange(128) / 128).exp()
    for row in range(3):
        own = states[row, mask[row]]
        mean = own.mean(dim=0)
        angles = timesteps[row] * frequencies
        level = torch.cat([angles.cos(), angles.sin()])
        vector = linear(F.silu(linear(level, found, "time.linear_1")), found, "time.linear_2")
        vector = vector + linear(F.silu(linear(mean, found, "mean.0")), found, "mean.2")
        refined = linear(own, found, "into")
        for number in range(2):
            gates = linear(F.silu(vector), found, f"blocks.{number}.gates.1").chunk(2)
            refined = block(refined, found, f"blocks.{number}", F.silu, gates)
        torch.testing.assert_close(tokens[row, :-1][mask[row]], linear(refined, found, "out"), rtol=0, atol=1e-4)
        whole = linear(found["whole_gain"] * mean, found, "whole")
        torch.testing.assert_close(tokens[row, -1], whole, rtol=0, atol=1e-5)


def test_a_fresh_refiner_has_closed_gates_and_step1x_edits_gain() -> None:
    states, mask, timesteps = inputs()
    connector = make("refiner", trained=False)
    tokens, _ = connector(states, mask, timesteps)
    torch.testing.assert_close(tokens[:, :-1][mask], connector.out(connector.into(states[mask])))
    assert connector.whole_gain.item() == torch.tensor(0.09)
    assert len(connector.blocks) == 2


@torch.no_grad()
def test_queries_read_the_states_and_see_one_another() -> None:
    states, mask, timesteps = inputs()
    connector = make("queries")
    found = weights(connector)
    tokens, counts = connector(states, mask, timesteps)
    assert counts.all() and tokens.shape == (3, 5, TOKEN_DIM)
    for row in range(3):
        told = normed(linear(states[row, mask[row]], found, "into"), found, "reading.text_norm")
        asked = linear(normed(found["queries"], found, "reading.query_norm"), found, "reading.query")
        read = attended(asked, linear(told, found, "reading.key"), linear(told, found, "reading.value"))
        queries = found["queries"] + linear(read, found, "reading.out")
        for number in range(2):
            queries = block(queries, found, f"encoder.{number}", F.gelu, (torch.ones(()), torch.ones(())))
        out = linear(F.gelu(linear(queries, found, "out.0")), found, "out.2")
        torch.testing.assert_close(tokens[row], rms_normed(out, found["out.3.weight"]), rtol=0, atol=1e-4)

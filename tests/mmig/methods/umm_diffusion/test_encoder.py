"""TIUE (Ma et al. 2023, section 3.2): the MLP, the insertion, the unified sequence, against numbers made otherwise."""

import pytest
import torch
from torch import Tensor, nn

from mmig.backbones.diffusion import load_text_encoder, load_tokenizer
from mmig.diffusion.text import encode_text, split_texts
from mmig.methods.umm_diffusion.encoder import PseudoWord, unified_states
from mmig.methods.umm_diffusion.words import NO_SUBJECT
from tests.mmig.methods.umm_diffusion.support import folders

TEXTS = ["a large circle on the left and a small square", "a red ring", "a star"]


@pytest.fixture(scope="module")
def text_encoder() -> nn.Module:
    encoder = load_text_encoder(folders()[0])
    with torch.no_grad():  # random weights of 0.02 would let words matter little
        for parameter in encoder.parameters():
            parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)
    return encoder


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return split_texts(load_tokenizer(folders()[0]), TEXTS).ids[:, 0]


def owners(ids: Tensor, *places: tuple[int, int, int]) -> Tensor:
    """Nobody but (row, place, subject)."""
    found = torch.full_like(ids, NO_SUBJECT)
    for row, place, subject in places:
        found[row, place] = subject
    return found


def by_hand(encoder: nn.Module, words: Tensor) -> Tensor:
    """P of word embeddings, layer by layer, with attention written out."""
    length, heads = words.shape[1], encoder.config.num_attention_heads
    hidden = words + encoder.embeddings.position_embedding.weight[:length]
    ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
    for layer in encoder.encoder.layers:
        normed, attention = layer.layer_norm1(hidden), layer.self_attn
        query, key, value = (
            each(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
            for each in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        scores = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).masked_fill(ahead, float("-inf"))
        hidden = hidden + attention.out_proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        normed = layer.mlp.fc1(layer.layer_norm2(hidden))
        hidden = hidden + layer.mlp.fc2(normed * torch.sigmoid(1.702 * normed))
    return encoder.final_layer_norm(hidden)


def test_the_published_mlp_has_two_and_a_half_million_parameters() -> None:
    widths = [(768, 1024), (1024, 1024), (1024, 768)]
    linear, norms = sum(a * b + b for a, b in widths), 2 * (768 + 1024 + 1024)
    assert sum(p.numel() for p in PseudoWord().parameters()) == linear + norms == 2_629_888


def test_fresh_pseudo_words_are_as_long_as_words(text_encoder: nn.Module) -> None:
    words = text_encoder.get_input_embeddings().weight
    torch.manual_seed(3)
    mlp = PseudoWord(20, words.shape[1], 16)
    mlp.match_length(words)
    found = mlp(5 * torch.randn(400, 20) + 1).detach().norm(dim=-1)
    assert float(found.mean()) == pytest.approx(float(words.detach().norm(dim=-1).mean()), rel=0.15)
    assert all(parameter.requires_grad for parameter in mlp.parameters())


def test_the_text_alone_gives_the_text_encoders_states_to_the_bit(text_encoder: nn.Module, ids: Tensor) -> None:
    states = unified_states(text_encoder, ids, owners(ids, (0, 3, 0)), torch.randn(3, 1, 32))
    expected, _ = encode_text(text_encoder, load_tokenizer(folders()[0]), TEXTS)
    assert torch.equal(states.text, expected)
    assert torch.equal(states.unified[1:], expected[1:])  # rows without subject
    assert not text_encoder.get_input_embeddings()._forward_hooks


def test_a_pseudo_word_that_is_the_word_changes_nothing(text_encoder: nn.Module, ids: Tensor) -> None:
    word = text_encoder.get_input_embeddings().weight[ids[0, 3]].detach()
    states = unified_states(text_encoder, ids, owners(ids, (0, 3, 0)), word.expand(3, 1, -1))
    assert torch.equal(states.unified, states.text)


def test_states_at_the_subjects_are_those_of_the_rearranged_words(text_encoder: nn.Module, ids: Tensor) -> None:
    owner, v = owners(ids, (0, 3, 0), (0, 9, 1), (2, 2, 1)), torch.randn(3, 2, 32)
    states = unified_states(text_encoder, ids, owner, v)
    words = text_encoder.get_input_embeddings()(ids).detach().clone()
    words[0, 3], words[0, 9], words[2, 2] = v[0, 0], v[0, 1], v[2, 1]
    with torch.no_grad():
        mixed = by_hand(text_encoder, words)
    for row, place in ((0, 3), (0, 9), (2, 2)):
        torch.testing.assert_close(states.unified[row, place], mixed[row, place], rtol=1e-4, atol=1e-4)
    assert (states.unified != states.text).any(-1).nonzero().tolist() == [[0, 3], [0, 9], [2, 2]]
    changed = (mixed[0] - states.text[0]).abs().amax(-1) > 1e-3
    assert changed.tolist() == [False] * 3 + [True] * 74  # h_r alone differs from p on, so h_u is no plain h_r


def test_a_later_subject_has_seen_the_earlier_one_and_not_the_other_way_round(
    text_encoder: nn.Module, ids: Tensor
) -> None:
    v = torch.randn(3, 2, 32, requires_grad=True)
    states = unified_states(text_encoder, ids, owners(ids, (0, 3, 0), (0, 9, 1)), v)
    probe = torch.randn(32)
    (early,) = torch.autograd.grad(states.unified[0, 3] @ probe, v, retain_graph=True)
    (late,) = torch.autograd.grad(states.unified[0, 9] @ probe, v, retain_graph=True)
    assert early[0, 1].abs().sum() == 0 < early[0, 0].abs().sum()
    assert late[0, 0].abs().sum() > 0 < late[0, 1].abs().sum()
    rest = states.unified.masked_fill(owners(ids, (0, 3, 0), (0, 9, 1)).ne(NO_SUBJECT)[..., None], 0)
    (elsewhere,) = torch.autograd.grad((rest @ probe).sum(), v)
    assert elsewhere.abs().sum() == 0  # gradients go through h_r at p alone


def test_an_error_leaves_no_hook_behind(text_encoder: nn.Module, ids: Tensor) -> None:
    with pytest.raises(RuntimeError):
        unified_states(text_encoder, ids, owners(ids, (0, 3, 0)), torch.randn(3, 1, 7))
    assert not text_encoder.get_input_embeddings()._forward_hooks

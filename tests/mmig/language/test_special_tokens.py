"""New tokens of a frozen LLM, with tied and untied tables."""

import copy

import pytest
import torch

from mmig.language.special_tokens import SpecialTokens, TrainedTables, states_at
from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.llm.multimodal import MultimodalLLM
from tests.mmig.methods.mmig.llm.tiny import INSTRUCTIONS, WIDTH, llm, randomise, tokenizer

TOKENS = ["[IMG0]", "[IMG1]", "[IMG2]"]
KINDS = ["llama", "qwen3"]
"""Untied and tied tables."""


def _grown(kind, vocab_size=None):
    """LLM with just as many rows as the tokenizer has tokens (or as given), the tokenizer, and the special tokens."""
    words = tokenizer()
    model = llm(kind, vocab_size=vocab_size or len(words))
    special = SpecialTokens(model, words, TOKENS)
    randomise(special)
    return model, words, special


def _reference(kind, words, special):
    """The same LLM grown by transformers, the trained rows pasted into its tables."""
    model = llm(kind, vocab_size=len(words) - len(TOKENS))
    model.resize_token_embeddings(len(words), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[special.ids] = special.rows
        model.get_output_embeddings().weight[special.ids] = special.output_rows()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_an_llm_with_the_rows_in_its_tables(kind):
    model, words, special = _grown(kind)
    assert special.tied == (kind == "qwen3")
    ids = torch.tensor([words("a red star[IMG0][IMG1][IMG2] and [IMG1]").input_ids])
    assert torch.isin(special.ids, ids).all()
    logits = model(ids).logits
    assert logits.shape[-1] == len(words)
    torch.testing.assert_close(logits, _reference(kind, words, special)(ids).logits, atol=1e-5, rtol=1e-5)

    special.write_into(model)
    ordinary = llm(kind, vocab_size=len(words))
    ordinary.load_state_dict(model.state_dict())
    torch.testing.assert_close(ordinary(ids).logits, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_new_rows_train(kind):
    model, words, special = _grown(kind)
    before, rows = copy.deepcopy(model.state_dict()), copy.deepcopy(special.state_dict())
    trained = [p for p in [*model.parameters(), *special.parameters()] if p.requires_grad]
    assert sum(p.numel() for p in trained) == len(TOKENS) * WIDTH * (1 if kind == "qwen3" else 2)
    ids = torch.tensor([words("a star[IMG0][IMG1][IMG2] is red").input_ids])
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD(trained, lr=0.1).step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all((value != rows[name]).all() for name, value in special.state_dict().items())


def test_gradient_of_the_rows_equals_the_tables():
    model, words, special = _grown("llama")
    reference = _reference("llama", words, special).requires_grad_(True)
    ids = torch.tensor([words("a star[IMG0] is[IMG1][IMG0]").input_ids])
    model(input_ids=ids, labels=ids).loss.backward()
    reference(input_ids=ids, labels=ids).loss.backward()
    expected = reference.get_input_embeddings().weight.grad[special.ids]
    torch.testing.assert_close(special.rows.grad, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(special.head_rows.grad, reference.lm_head.weight.grad[special.ids], atol=1e-6, rtol=1e-4)


def test_rows_start_at_the_mean_and_leave_old_tokens_alone():
    words = tokenizer()
    model = llm(vocab_size=len(words))
    ids = torch.tensor([words("a red star").input_ids])
    table, logits = model.get_input_embeddings().weight.clone(), model(ids).logits
    special = SpecialTokens(model, words, TOKENS)
    torch.testing.assert_close(special.rows, table.mean(dim=0).expand(3, -1))
    torch.testing.assert_close(model(ids).logits[..., : len(table)], logits)


def test_spare_rows_of_the_llm_are_used_first():
    model, _words, special = _grown("llama", vocab_size=2000)
    assert special.ids.max() < 2000
    assert model.get_input_embeddings().weight.shape == (2000, WIDTH)
    assert model.state_dict().keys() == llm().state_dict().keys()


def test_saved_and_loaded_tokenizer_keeps_the_ids(tmp_path):
    from transformers import AutoTokenizer

    model, words, special = _grown("llama")
    words.save_pretrained(tmp_path)
    loaded_words = AutoTokenizer.from_pretrained(tmp_path)
    text = "a star[IMG2][IMG0]"
    assert loaded_words(text).input_ids == words(text).input_ids
    other = llm(vocab_size=len(words) - len(TOKENS))
    loaded = SpecialTokens(other, loaded_words, TOKENS)
    loaded.load_state_dict(special.state_dict())
    assert torch.equal(loaded.ids, special.ids)
    assert len(loaded_words) == len(words)
    ids = torch.tensor([words(text).input_ids])
    assert torch.equal(other(ids).logits, model(ids).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_the_multimodal_llm_learns_to_write_them(kind):
    """Trained on the rows alone: teacher forcing sees them, `generate` writes them, and its states can be read."""
    model, words, special = _grown(kind)
    multimodal = MultimodalLLM(model, words, config=MultimodalConfig(max_response_tokens=2))
    answer = "[IMG0][IMG1]"
    optimizer = torch.optim.Adam(special.parameters(), lr=0.1)
    first = multimodal(INSTRUCTIONS[:1], [answer]).loss_sums
    for _ in range(40):
        optimizer.zero_grad()
        loss = multimodal(INSTRUCTIONS[:1], [answer]).loss_sums
        loss.sum().backward()
        optimizer.step()
    assert loss < first
    ids = multimodal.generate(INSTRUCTIONS[:1])
    assert ids == [special.ids[:2].tolist()]
    e0 = multimodal.states_of_ids(INSTRUCTIONS[:1], ids)
    read = states_at(e0.states, torch.tensor(ids), special.ids)
    assert read.found.tolist() == [[True, True, False]]
    assert torch.equal(read.states[:, :2], e0.states)
    assert multimodal.decode(ids) == [""]


def test_states_at_first_occurrences():
    hidden = torch.arange(12.0).view(2, 6, 1)
    ids = torch.tensor([[5, 90, 91, 90, 7, -1], [91, 5, 6, 7, 90, -1]])
    tokens = torch.tensor([90, 91])
    at = states_at(hidden, ids, tokens)
    assert at.states[..., 0].tolist() == [[1, 2], [10, 6]]
    assert at.found.all()
    before = states_at(hidden, ids, tokens, predicting=True)
    assert before.states[..., 0].tolist() == [[0, 1], [9, 0]]
    assert before.found.tolist() == [[True, True], [True, False]]
    with pytest.raises(ValueError, match=r"expected ids \(2, 6\), found \(2, 5\)"):
        states_at(hidden, ids[:, 1:], tokens)


def test_a_deep_copy_has_rows_of_its_own():
    model, words, special = _grown("llama")
    other, other_special = copy.deepcopy((model, special))
    ids = torch.tensor([words("a star[IMG0]").input_ids])
    before = model(ids).logits
    randomise(other_special, seed=9)
    assert torch.equal(model(ids).logits, before)
    assert not torch.equal(other(ids).logits, before)


def test_bad_tokens():
    words = tokenizer()
    model = llm(vocab_size=len(words))
    for tokens in ([], ["[A]", "[A]"], ["</s>"]):
        with pytest.raises(ValueError, match="expected new, different texts"):
            SpecialTokens(model, words, tokens)
    SpecialTokens(model, words, ["[A]"])
    with pytest.raises(ValueError, match="has some already and cannot grow again"):
        SpecialTokens(model, words, ["[B]"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_tables_train_in_float32_and_nothing_else_does(kind, dtype):
    words = tokenizer()
    model = llm(kind, vocab_size=len(words)).to(dtype)
    tables = TrainedTables(model, words, TOKENS)
    trained = {id(parameter): parameter for parameter in model.parameters() if parameter.requires_grad}
    expected = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    assert trained.keys() == {id(table) for table in expected}
    assert tables.tied == (kind == "qwen3") == (len(trained) == 1)
    assert all(table.dtype == torch.float32 for table in expected)
    ids = torch.tensor([words("a star[IMG0][IMG1][IMG2] is red").input_ids])
    assert model.get_input_embeddings()(ids).dtype == dtype
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(table.grad[tables.ids].any() for table in expected)
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, ids.shape[1] + 2)


def test_whole_tables_compute_what_rows_of_their_own_do():
    model, words, special = _grown("llama")
    reference = _reference("llama", words, special)
    other = llm(vocab_size=len(words) - len(TOKENS))
    tables = TrainedTables(other, words, TOKENS)  # the tokenizer knows the tokens: their rows are as they come
    with torch.no_grad():
        for own, theirs in ((tables._tables[0], reference.model.embed_tokens), (tables._tables[1], reference.lm_head)):
            own.weight.copy_(theirs.weight)
    ids = torch.tensor([words("a red star[IMG0][IMG1][IMG2]").input_ids])
    torch.testing.assert_close(other(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tables.input_rows(), special.input_rows())

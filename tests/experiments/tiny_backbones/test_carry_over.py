"""A language model with another vocabulary: the same words mean the same, new ones begin as their parts."""

from pathlib import Path

import torch

from experiments.tiny_backbones import tokenizers as tok
from experiments.tiny_backbones.carry_over import carried_rows, carry_over
from experiments.tiny_backbones.export import export_run
from experiments.tiny_backbones.language import LanguageModule, LanguageSize
from experiments.tiny_backbones.word_list import WordList
from mmig.backbones.llm import load_llm
from mmig.training.optim import OptimizerConfig
from tests.experiments.tiny_backbones.toy import WORDS, caption


def test_rows_are_kept_or_are_means():
    rows = torch.arange(6.0).view(3, 2)
    carried = carried_rows(rows, {"a": 0, "b": 1, "c": 2}, {"c": 0, "ab": 1}, lambda entry: [0, 1])
    assert carried.tolist() == [[4, 5], [1, 2]]


def test_words_of_both_vocabularies_mean_the_same(tokenizer_root: Path, tmp_path: Path):
    size = LanguageSize(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    module = LanguageModule(OptimizerConfig(), {}, str(tokenizer_root / "llama"), size)
    export_run("lm", module, tmp_path / "old")
    tok.write_tokenizers(WordList(("zebra", *WORDS.words), WORDS.bare), tmp_path / "new")
    new = LanguageModule(OptimizerConfig(), {}, str(tmp_path / "new" / "llama"), size).tokenizer
    before, after = (
        load_llm(tmp_path / "old" / "llama"),
        carry_over(tmp_path / "old" / "llama", tmp_path / "new" / "llama"),
    )
    text = caption("red", "left")
    old_ids, new_ids = (tokenizer(text, return_tensors="pt").input_ids for tokenizer in (module.tokenizer, new))
    assert old_ids.tolist() != new_ids.tolist()
    assert after.config.vocab_size == len(new)
    logits, vocabulary = after(new_ids).logits[0], new.get_vocab()
    same = [(index, vocabulary[entry]) for entry, index in module.tokenizer.get_vocab().items() if entry in vocabulary]
    olds, news = zip(*same, strict=True)
    torch.testing.assert_close(logits[:, list(news)], before(old_ids).logits[0][:, list(olds)])

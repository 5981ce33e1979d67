"""Overlap of one text with another, by torchmetrics: pure functions of two texts, and the metrics made of them.

Words are runs of letters and digits, lower case, without punctuation, as the tools for captions have it; scripts that
put no spaces between words have one word a run, and their values say little.
"""

import re
from collections.abc import Callable

import torch
from torchmetrics.functional.text import bleu_score, rouge_score

from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import PerSampleMetric, SampleValues, sample_values

BLEU_ORDER = 4
"""Longest run of words that BLEU counts."""


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"\w+", text.casefold())


def bleu(text: str, reference: str) -> float:
    """BLEU-4 of one text (Papineni et al. 2002), in [0,1], without smoothing: 0 where no run of four words agrees.

    Published BLEU is mostly that of a whole corpus, whose n-grams are summed first: not the mean of this over texts.
    """
    given, wanted = (" ".join(words(side)) for side in (text, reference))
    return float(bleu_score([given], [[wanted]], n_gram=BLEU_ORDER))


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L of one text (Lin 2004), in [0,1]: F1 of the longest common subsequence of words, without stemming."""
    # str: torchmetrics' own normaliser drops every letter that is not ASCII
    scores = rouge_score(text, reference, rouge_keys="rougeL", normalizer=str, tokenizer=words)
    return float(scores["rougeL_fmeasure"])


class TextOverlap(PerSampleMetric):
    """A formula of what the editor wrote and the data's own text of that kind.

    Says nothing where the editor was given the data's response (`response_source` "given"): it compares equal texts.

    Args:
        formula: of the text and its reference.
        kind: "response" or "caption", what the editor wrote.
        field: of the batch.
        min_words: of the reference; the formula has no meaning for a shorter one, which is skipped.
    """

    def __init__(self, formula: Callable[[str, str], float], kind: str, field: str, min_words: int = 1) -> None:
        super().__init__()
        self.formula, self.kind, self.field, self.min_words = formula, kind, field, min_words

    def values(self, bank: FeatureBank) -> SampleValues:
        """Samples of which either text is absent are skipped."""
        pairs = list(zip(bank.written(self.kind), bank.text(self.field), strict=True))
        absent = torch.tensor([not text.strip() for text, _ in pairs], dtype=torch.bool)
        short = torch.tensor([len(words(reference)) < self.min_words for _, reference in pairs], dtype=torch.bool)
        skipped = {
            "no_text": absent,
            f"no_{self.field}": ~bank.has_text(self.field),
            f"{self.field}_below_{self.min_words}_words": short,
        }
        values = torch.tensor([self.formula(text, reference) for text, reference in pairs], dtype=torch.float64)
        return sample_values(values, skipped)

"""Several answers to one beginning in one row: the same as each prompt in a row of its own."""

from pathlib import Path

import pytest
import torch

from experiments.tiny_backbones.branches import branched_rows, row_length, shared_length
from experiments.tiny_backbones.language import LanguageModule, LanguageSize
from experiments.tiny_backbones.prompt import padded_rows
from mmig.language.token_loss import IGNORED, token_loss
from mmig.training.optim import OptimizerConfig

RESPONSE, EDIT = ([1, 50, 51, 60, 61], [70, 71, 72, 2]), ([1, 50, 51, 80], [90, 2])
FACT = ([1, 52, 60, 61], [93, 2])


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [([[1, 5, 6], [1, 5, 7]], 2), ([[1, 5], [1, 5, 7]], 1), ([[1, 5, 6]], 2), ([[1, 5], [1, 5]], 1), ([[3], [4]], 0)],
)
def test_each_prompt_keeps_a_cue_of_its_own(prompts: list[list[int]], shared: int):
    assert shared_length(prompts) == shared


def test_a_row_holds_the_shared_beginning_once():
    rows = branched_rows([[RESPONSE, EDIT], [FACT]], pad=0)
    assert rows.ids.tolist() == [[1, 50, 51, 60, 61, 70, 71, 72, 2, 80, 90, 2], [1, 52, 60, 61, 93, 2] + [0] * 6]
    assert rows.branches[0].tolist() == [0] * 3 + [1] * 6 + [2] * 3
    assert rows.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 5]
    assert row_length([RESPONSE, EDIT]) == 12


def test_targets_are_the_answers_one_place_earlier():
    targets = branched_rows([[RESPONSE, EDIT]], pad=0).targets[0].tolist()
    assert targets == [IGNORED] * 4 + [70, 71, 72, 2, IGNORED, 90, 2, IGNORED]


def test_a_branch_sees_no_other_and_nothing_behind_itself():
    mask = branched_rows([[RESPONSE, EDIT]], pad=0).mask[0, 0]
    assert mask[9].nonzero()[:, 0].tolist() == [0, 1, 2, 9]
    assert mask[5].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_losses_are_those_of_separate_rows(tokenizer_root: Path):
    size = LanguageSize(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    module = LanguageModule(OptimizerConfig(), {}, str(tokenizer_root / "llama"), size, rows_at_once=2).eval()
    ids, mask, labels = padded_rows([RESPONSE, EDIT, FACT], pad=2)
    logits = module.language_model(input_ids=ids, attention_mask=mask).logits
    alone = token_loss(logits[:, :-1], labels[:, 1:]).values
    unknown = torch.full((3, 2, 9, 3), IGNORED)  # no scene of any row
    together, read = module._row_losses([[FACT], [RESPONSE, EDIT], [FACT]], unknown).split(2, dim=1)
    torch.testing.assert_close(together[1], alone[:2])
    torch.testing.assert_close(together[[0, 2]], torch.stack([alone[2], torch.tensor(0.0)]).expand(2, 2))
    assert not read.any()

"""The ablation of the mutual support module: who is compared with whom."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments import ablation
from experiments.ablation import comparable, compare_variants, noise_losses
from mmig.language.sequences import ResponseStates
from tests.mmig.batches import edit_batch


class TextModel:
    """Stands for MMIG: a text's state is its number, and the noise loss of a sample is the square of its text's."""

    def answer(self, batch: Any) -> Any:
        states = torch.tensor([float(text or 0) for text in batch["response"]]).view(-1, 1, 1)
        return SimpleNamespace(states=ResponseStates(states, torch.tensor([[bool(t)] for t in batch["response"]])))

    def denoise(self, noisy: Any, timesteps: Any, condition: Any, states: ResponseStates, active: Any) -> Any:
        return (states.states[:, 0] * states.mask * active.view(-1, 1), None)


class TextLosses:
    """Stands for `Losses`: a problem without content, whose texts are all there."""

    def __init__(self, _model: Any, batch: Any, _draws: Any, _terms: Any) -> None:
        nothing = torch.zeros(len(batch["key"]), 1)
        self.problem = SimpleNamespace(noisy=nothing, timesteps=nothing, condition=None, target=nothing)
        self.has_text = torch.ones(len(batch["key"])) > 0


@pytest.fixture(autouse=True)
def text_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "Losses", TextLosses)


def numbered(texts: Sequence[str]) -> dict[str, Any]:
    """A batch whose responses are numbers."""
    batch: dict[str, Any] = dict(edit_batch(len(texts), resolution=8))
    return batch | {"response": list(texts), "has_response": torch.tensor([bool(text) for text in texts])}


def compared(monkeypatch: pytest.MonkeyPatch, *batches: dict[str, Any]) -> dict[str, Any]:
    monkeypatch.setattr(ablation, "split_batches", lambda data, split: batches)
    stage: Any = SimpleNamespace(mmig=TextModel(), seed=0)
    return compare_variants(stage, Path("data.yaml"), "val", draws_per_sample=1, limit=None)


def test_shuffled_is_the_text_of_another_sample() -> None:
    losses = noise_losses(TextModel(), numbered(["1", "2", "3"]), None)  # type: ignore[arg-type]
    assert {name: values.tolist() for name, values in losses.items()} == {
        "on": [1, 4, 9],
        "off": [0, 0, 0],
        "shuffled": [9, 1, 4],
    }


def test_who_cannot_be_compared_counts_in_no_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = numbered(["1", "", "2", "3", "4"])
    batch["key"][3] = ""
    batch["has_target"][4] = False
    alone = numbered(["9"]) | {"key": ["alone"]}
    result = compared(monkeypatch, batch, alone)
    assert [result[name].n for name in ("on", "off", "shuffled")] == [2, 2, 2]
    assert [result[name].value for name in ("on", "off", "shuffled")] == [2.5, 0, 2.5]  # 1 and 4, of each other
    assert result["on - shuffled"].value == 0
    assert result["on - shuffled"].low == -3


def test_a_whole_batch_stays_as_it_is() -> None:
    batch = numbered(["1", "2", "3", "4"])
    same = comparable(batch)
    assert same.keys() == batch.keys()
    for name, value in batch.items():
        assert torch.equal(same[name], value) if isinstance(value, torch.Tensor) else same[name] == value


def test_data_without_responses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"data\.yaml, split val: no batch holds two samples with target and response"):
        compared(monkeypatch, numbered(["", "", "1"]))

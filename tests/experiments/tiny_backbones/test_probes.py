"""Readers of frozen states: they find what the states tell, and the scores count places as they say."""

import torch
import torch.nn.functional as F

from datamodules.tinyworld.scene import OBJECT_COLOURS, PLACES, SHAPES, SIZES
from experiments.tiny_backbones.probes import Readable, reading_scores, trained_reader
from experiments.tiny_backbones.scene_reader import EMPTY
from mmig.language.token_loss import IGNORED

COUNTS = (1 + len(SHAPES), 1 + len(OBJECT_COLOURS), 1 + len(SIZES))


def scenes(count: int) -> torch.Tensor:
    """Labels of random scenes with one object."""
    source = torch.Generator().manual_seed(count)
    labels = torch.full((count, len(PLACES), 3), EMPTY)
    places = torch.randint(len(PLACES), (count,), generator=source)
    for number, values in enumerate(COUNTS):
        labels[torch.arange(count), places, number] = torch.randint(1, values, (count,), generator=source)
    return labels


def told(labels: torch.Tensor) -> torch.Tensor:
    """States that say it all: one a place, which it is and what stands there."""
    parts = [F.one_hot(labels[..., number], values) for number, values in enumerate(COUNTS)]
    which = torch.eye(len(PLACES)).expand(len(labels), -1, -1)
    return torch.cat([which, *parts], dim=-1).half()


def test_a_reader_finds_what_states_tell():
    labels, others = scenes(2000), scenes(200)
    scores = reading_scores(trained_reader(Readable(told(labels), labels)), Readable(told(others), others))
    assert min(scores.values()) > 0.95


def test_a_reader_finds_nothing_in_states_that_tell_nothing():
    labels, others = scenes(500), scenes(201)
    reader = trained_reader(Readable(torch.randn(500, 9, 16), labels), steps=50)
    scores = reading_scores(reader, Readable(torch.randn(201, 9, 16), others))
    assert max(scores[name] for name in ("shape", "colour", "size")) < 0.5


class FixedReader(torch.nn.Module):
    """Tells the same of every scene."""

    def __init__(self, labels: torch.Tensor) -> None:
        super().__init__()
        self.logits = [F.one_hot(labels[..., number], values).float() for number, values in enumerate(COUNTS)]

    def forward(self, states: torch.Tensor) -> list[torch.Tensor]:
        return [part.expand(len(states), -1, -1) for part in self.logits]


def test_scores_count_objects_and_empty_places_apart():
    truth = torch.full((2, len(PLACES), 3), EMPTY)
    truth[0, 0] = torch.tensor([1, 1, 1])
    truth[1, 0] = torch.tensor([2, IGNORED, 1])
    answer = torch.full((1, len(PLACES), 3), EMPTY)
    answer[0, 0] = torch.tensor([1, 1, 2])
    answer[0, 1, 0] = 1  # an object where none is, in both scenes
    scores = reading_scores(FixedReader(answer), Readable(torch.zeros(2, 1, 1), truth))
    assert {name: round(value, 4) for name, value in scores.items()} == {
        "shape": 0.5,
        "colour": 1.0,
        "size": 0.0,
        "empty": 0.875,
    }

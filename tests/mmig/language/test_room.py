"""A language model that would read more than it has places for is not asked: not in training either."""

from types import SimpleNamespace

import pytest
import torch

from mmig.language.sequences import check_room
from tests.mmig.methods.mmig.llm.tiny import mllm


def test_the_last_place_counts() -> None:
    config = SimpleNamespace(max_position_embeddings=10)
    check_room(config, ["a", "b"], [[1] * 6, [1] * 9], [[1] * 3, []])
    with pytest.raises(ValueError, match=r"^instruction 'b' \.\.\.: 6 tokens with its prompt and 4 of a given"):
        check_room(config, ["a", "b"], [[1], [1] * 6], [[1], [1] * 4])
    check_room(SimpleNamespace(), ["a"], [[1] * 99], [[]])


def test_training_on_a_text_without_room_is_refused() -> None:
    model = mllm(with_vision=False)
    room = model.llm.config.max_position_embeddings
    long = "red " * room
    with pytest.raises(ValueError, match=f"^instruction 'red red .* the language model reads fewer than {room} in all"):
        model(["x", long], ["a circle", "a circle"], None, torch.zeros(2, dtype=torch.bool))

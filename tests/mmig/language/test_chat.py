"""A multimodal LLM answers turns of texts and several pictures."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from mmig.backbones.parts import BackboneError
from mmig.language.chat import Chat, Sampling, load_chat
from tests.tiny_llava import build_llava
from tests.tiny_qwen_vl import IMAGE, build_qwen_vl

CPU = torch.device("cpu")
RED, BLUE = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    return Chat(*load_chat(build_qwen_vl(tmp_path_factory.mktemp("chat") / "qwen"), "float32", CPU), 12)


def test_texts_and_pictures_keep_their_order(qwen: Chat) -> None:
    said = qwen.said(["before", RED, f"between {IMAGE}", BLUE, "after"])  # a token of control in a text is none
    assert [said.index(word) for word in ("before", "between", "after")] == sorted(
        said.index(word) for word in ("before", "between", "after")
    )
    assert said.count(IMAGE) == 2


def test_the_order_of_pictures_decides_the_answer(qwen: Chat) -> None:
    first, second = ["x", RED, BLUE], ["x", BLUE, RED]
    scores = []
    for content in (first, second):
        text = qwen.said(content)
        inputs = qwen.processor(text=[text], images=[content[1:]], return_tensors="pt")
        scores.append(qwen.model(**inputs).logits[0, -1])
    assert not torch.equal(*scores)
    assert qwen.answer([first]) == qwen.answer([first])


def test_turns_of_different_lengths_are_answered_together_as_alone(qwen: Chat) -> None:
    turns = [["short", RED], ["a much longer question than that", BLUE, RED]]
    assert qwen.answer(turns) == [qwen.answer([turn])[0] for turn in turns]


def test_drawn_answers_are_those_of_torchs_seed(qwen: Chat) -> None:
    def drawn(seed: int) -> list[str | None]:
        torch.manual_seed(seed)
        return qwen.answer([["x", RED]], Sampling(2.0, 1.0, 1000))

    assert drawn(0) == drawn(0) != drawn(1)


def test_a_model_that_was_never_taught_to_chat_is_refused(tmp_path: Path) -> None:
    folder = build_llava(tmp_path / "llava", chat_template=None)
    with pytest.raises(BackboneError, match="expected a chat template"):
        load_chat(folder, "float32", CPU)

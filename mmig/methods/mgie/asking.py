"""Asks a multimodal LLM of transformers about pictures, one question a picture, as MGIE does."""

from collections.abc import Sequence

import torch
from PIL import Image

from mmig.backbones.named import Source
from mmig.language.chat import Chat, load_chat

_PICTURE = Image.new("RGB", (1, 1))


class Asker(Chat):
    """Asks about pictures and takes the most likely answer; the question stands before its picture."""

    def __call__(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[str | None]:
        """An answer to each question about its picture, see `Chat.answer`.

        Args:
            pictures: RGB, any sizes.
            questions: one a picture.
        """
        return self.answer([[question, picture] for picture, question in zip(pictures, questions, strict=True)])

    def prompt(self, question: str) -> str:
        """The conversation that begins with a question about a picture, up to where the assistant speaks."""
        return self.said([question, _PICTURE])


def load_asker(path: Source, max_tokens: int, dtype: str, device: torch.device) -> Asker:
    """A multimodal LLM from a folder or hub id.

    Args:
        path: with model and processor.
        max_tokens: of an answer.
        dtype: name of the precision.
        device: that computes.

    Raises:
        BackboneError: a missing or broken file, a model that does not read pictures, or none that talks.
    """
    return Asker(*load_chat(path, dtype, device), max_tokens)

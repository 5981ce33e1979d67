"""Who judges: a multimodal LLM of transformers, or a file of replies that were made elsewhere."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from mmig.backbones.fingerprint import identity
from mmig.base.batches import chosen_device
from mmig.evaluation.judged.items import JudgedError, Question, Shown, read_json, read_lines
from mmig.evaluation.judged.replies import NO_REPLY
from mmig.evaluation.pictures import read_image
from mmig.language.chat import CHAT_MODEL, CHAT_PROCESSOR, Chat, Sampling, load_chat

TOO_LONG = "question fills the judge's context"


class Judge(Protocol):
    """Answers questions about pictures.

    Attributes:
        name: who it is, with all settings that its replies depend on.
    """

    name: str

    def __call__(self, question: Question, number: int) -> tuple[str | None, str]:
        """The reply of a pass, and why there is none ("" where there is one)."""


@dataclass(frozen=True)
class ModelSettings:
    """How a model judges.

    Attributes:
        path: folder or hub id of a model that reads pictures and texts, with its processor and chat template.
        adapter: folder of a LoRA of peft that is merged into it, as EditScore's; None for none.
        dtype: name of the precision.
        device: auto, cpu, cuda ...
        max_tokens: of a reply.
        sampling: None for the most likely reply.
        seed: a pass draws with seed + its number, each question anew, as EditScore does.
    """

    path: str
    adapter: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    max_tokens: int = 512
    sampling: Sampling | None = None
    seed: int = 42


class ModelJudge:
    """A multimodal LLM; it is loaded with the first question.

    Raises:
        BackboneError: at the first question, or for a folder without one at once.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        weights = identity(settings.path, [CHAT_MODEL, CHAT_PROCESSOR], "--judge")
        digest = hashlib.sha256(weights.encode()).hexdigest()[:12]
        told = [Path(settings.path).name, digest, settings.dtype, f"max_tokens={settings.max_tokens}"]
        if settings.adapter is not None:
            told.append(f"adapter={Path(settings.adapter).name} {_digest(Path(settings.adapter))}")
        drawn, how = settings.sampling, "greedy"
        if drawn is not None:
            how = f"temperature={drawn.temperature:g} top_p={drawn.top_p:g} top_k={drawn.top_k} seed={settings.seed}"
        self.name = " ".join([*told, how])

    @cached_property
    def _chat(self) -> Chat:
        settings = self.settings
        model, processor = load_chat(settings.path, settings.dtype, self._device)
        if settings.adapter is not None:
            from peft import PeftModel

            try:
                model = PeftModel.from_pretrained(model, settings.adapter).merge_and_unload()
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                told = str(error).splitlines()[0]
                raise JudgedError(f"--adapter {settings.adapter}: cannot be merged into the judge ({told})") from error
        return Chat(model.eval(), processor, settings.max_tokens)

    @cached_property
    def _device(self) -> torch.device:
        return chosen_device(self.settings.device)

    def __call__(self, question: Question, number: int) -> tuple[str | None, str]:
        content = [part if isinstance(part, str) else opened(part) for part in question.parts]
        torch.manual_seed(self.settings.seed + number)
        reply = self._chat.answer([content], self.settings.sampling)[0]
        return (reply, "") if reply is not None else (None, TOO_LONG)


def opened(shown: Shown) -> Image.Image:
    """A picture as the judge sees it: RGB, resized as the official scripts do (bicubic).

    Raises:
        PictureError: it cannot be read.
    """
    image = read_image(shown.path)
    if shown.like is not None:
        size = read_image(shown.like).size
        image = image if image.size == size else image.resize(size)
    if shown.longest is not None:
        image.thumbnail((shown.longest, shown.longest))
    return image


class GivenReplies:
    """Replies of a judge that ran elsewhere: JSON lines of {"item", "question", "pass", "reply"}, as in judge.jsonl.

    `pass` may be left out; so may `question` where a benchmark asks one. A JSON object {item: reply}, as ImgEdit's
    script writes it, is taken too.

    Args:
        path: of the file; where its rows name a `judge`, that is the name.

    Raises:
        JudgedError: it is none of these, or has two replies for one question.
    """

    def __init__(self, path: Path) -> None:
        self._replies: dict[tuple[str, str | None, int], str] = {}
        rows = _rows_of_object(path) if path.suffix == ".json" else read_lines(path)
        for number, row in enumerate(rows, 1):
            if "item" not in row:
                raise JudgedError(f"--judge {path}, line {number}: expected a field 'item'")
            place = str(row["item"]), row.get("question"), int(row.get("pass", 0))
            if place in self._replies:
                raise JudgedError(f"--judge {path}, line {number}: a second reply for {place[0]!r}, {place[1]!r}")
            if isinstance(row.get("reply"), str):
                self._replies[place] = row["reply"]
        judges = sorted({str(row["judge"]) for row in rows if row.get("judge")})
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        self.name = f"{', '.join(judges) or 'unnamed'} (replies {path.name} {digest})"

    def __call__(self, question: Question, number: int) -> tuple[str | None, str]:
        for name in (question.name, None):
            if (reply := self._replies.get((question.item, name, number))) is not None:
                return reply, ""
        return None, NO_REPLY


def _rows_of_object(path: Path) -> list[dict[str, Any]]:
    found = read_json(path)
    if not isinstance(found, Mapping):
        raise JudgedError(f"--judge {path}: expected a JSON object of replies, found {type(found).__name__}")
    return [{"item": item, "reply": reply} for item, reply in found.items()]


def _digest(folder: Path) -> str:
    """Hash of a small folder's files."""
    if not folder.is_dir():
        raise JudgedError(f"--adapter {folder}: no such folder; expected a LoRA of peft")
    digests = [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(folder.glob("adapter_*"))]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:12]

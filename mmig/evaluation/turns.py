"""Editing in turns: each instruction of a session is followed on what came of the one before; the last picture counts.

So MagicBrush (Zhang et al. 2023) evaluates "multi-turn, final turn". A sample is a whole session, so that ranks,
batches and resuming treat it like any other.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from datamodules.schema import Batch, no_attachments, take
from mmig.editor import Editor, EditOutput, KnowsSeeds, MissingFieldError, ResponseSource, autoencoder_of

FIELD = "turn_instructions"
"""Entry of a sample's metadata: the instructions of its turns, a list of texts."""
READ = ("source", "instruction", "target")
"""Fields that every turn has; the target is the session's. All else that a batch may hold (captions, masks, attachments
and cached features) is about the first source, the last target or all instructions, so no turn is shown it: a turn has
no attachments."""


class InTurns:
    """Edits sessions turn by turn with another editor.

    Turn k of all samples that have one is one batch. Its sources are the pictures of turn k - 1, cut to [-1,1] but not
    rounded to 256 levels. A sample's generator goes on from turn to turn: turn k draws what follows on the draws of
    turn k - 1, in whatever batch.

    Args:
        editor: what edits in each turn.

    Raises:
        ValueError: it needs what a session has for no turn, such as a response.
    """

    def __init__(self, editor: Editor) -> None:
        lacking = [name for name in editor.required_fields if name not in READ]
        if lacking or editor.response_source == "given":
            raise ValueError(
                f"--turns: {type(editor).__name__} reads {', '.join(lacking) or 'a response'} of the data, which a "
                "session has for no turn; leave it out, or let the editor do without where it can (--sampling "
                "response=generated or text=instruction)"
            )
        self.editor = editor

    @property
    def sampling(self) -> Any:
        """Of the editor."""
        return self.editor.sampling

    @sampling.setter
    def sampling(self, sampling: Any) -> None:
        self.editor = copy.copy(self.editor)  # as `with_settings` does: the editor that was given stays as it is
        self.editor.sampling = sampling

    @property
    def autoencoder(self) -> Any | None:
        """The editor's."""
        return autoencoder_of(self.editor)

    @property
    def required_fields(self) -> tuple[str, ...]:
        """Those of the editor."""
        return self.editor.required_fields

    @property
    def response_source(self) -> ResponseSource:
        """That of the editor."""
        return self.editor.response_source

    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        """Edit sessions; one generator for all samples, or one a sample.

        Returns:
            Pictures and texts of the last turns. Of `extras` what is a list with one entry a sample: those of the last
            turns, and under "cut" those of all turns. Nothing else can be put together from turns of different batches.

        Raises:
            MissingFieldError: a sample without the instructions of its turns.
        """
        sessions = [_instructions(*sample) for sample in zip(batch["key"], batch["metadata"], strict=True)]
        names = ("key", "position", *READ, *(f"has_{field}" for field in READ))
        shown = {name: value for name, value in batch.items() if name in names}
        images, texts = [*batch["source"]], [""] * len(sessions)
        extras: list[dict[str, Any]] = [{} for _ in sessions]
        for turn in range(max(map(len, sessions))):
            rows = [row for row, instructions in enumerate(sessions) if turn < len(instructions)]
            part = take(shown, rows) | no_attachments(len(rows))  # type: ignore[operator]
            part["source"] = torch.stack([images[row] for row in rows]).clamp(-1, 1)
            part["instruction"] = [sessions[row][turn] for row in rows]
            of_rows = generator if isinstance(generator, torch.Generator) else [generator[row] for row in rows]
            output = self.editor(part, of_rows)
            for place, row in enumerate(rows):
                images[row] = output.images[place]
                texts[row] = output.texts[place] if output.texts else ""
                extras[row] = _continued(extras[row], _of_sample(output.extras, place, len(rows)))
        of_all = sorted(set.intersection(*map(set, extras)))
        return EditOutput(torch.stack(images), texts, {name: [own[name] for own in extras] for name in of_all})


def in_turns(editor: Editor) -> Editor:
    """The editor for --turns; pictures that are there already are those of the last turns, and stay as they are.

    Raises:
        ValueError: as `InTurns`.
    """
    return editor if isinstance(editor, KnowsSeeds) else InTurns(editor)


def _instructions(key: str, metadata: Mapping[str, Any]) -> list[str]:
    found = metadata.get(FIELD)
    if not isinstance(found, list) or not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise MissingFieldError(
            f"sample {key!r}: --turns needs the instructions of its turns, metadata.{FIELD}, as a list of texts, found "
            f"{'none' if found is None else repr(found)[:80]}; of MagicBrush `python -m datamodules.convert "
            "magicbrush_sessions` writes them"
        )
    return found


def _of_sample(extras: Mapping[str, Any], place: int, count: int) -> dict[str, Any]:
    return {name: value[place] for name, value in extras.items() if isinstance(value, list) and len(value) == count}


def _continued(before: Mapping[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Extras of a sample after a turn: a text that was cut in any turn counts."""
    return now | {"cut": [*before.get("cut", ()), *now.get("cut", ())]}

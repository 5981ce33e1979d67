"""An editor that follows the text that another method's language model writes, in the place of the data's own."""

import copy
from typing import Any

import torch

from datamodules.schema import Batch
from mmig.base.settings import call
from mmig.diffusion.sampling import Generators
from mmig.editor import Editor, EditOutput, ResponseSource, Writes, autoencoder_of, read_fields
from mmig.evaluation.opening import OpeningError, checked_editor, move_editor, open_checkpoint


class FollowsWriter:
    """Edits by what another method writes.

    With MGIE's language model as the writer and an InstructPix2Pix that was trained on instructions this is mode FZ of
    MGIE's ablation, with one that was trained on expressive instructions its mode FT (Fu et al. 2024, section 4.3);
    MGIE itself, whose editor is guided by the [IMG] tokens, is E2E.

    Args:
        writer: run, checkpoint or exported folder of a method that writes.
        editor: run, checkpoint or exported folder of the editor; or class_path and init_args of one.
        field: text of the batch in whose place the written one is put; the editor must read it.

    Raises:
        OpeningError: the writer writes nothing, or the editor does not read the field.
        CheckpointError: one of them cannot be opened.
    """

    response_source: ResponseSource = "generated"

    def __init__(self, writer: str, editor: str | dict[str, Any], field: str = "expressive") -> None:
        self.writer: Any = open_checkpoint(writer).editor
        if not isinstance(self.writer, Writes):
            name = type(self.writer).__name__
            raise OpeningError(f"writer: {writer}: {name} writes no text; give a run of MGIE or LGIE")
        is_path = isinstance(editor, str)
        self.editor: Editor = open_checkpoint(editor).editor if is_path else checked_editor(call(editor), "editor")
        self.field = field
        if field not in (reads := read_fields(self.editor)):
            raise OpeningError(
                f"field: {type(self.editor).__name__} reads {', '.join(reads)}, found {field!r}; give one of them, or "
                f"let the editor read it (sampling.text: {field})"
            )

    def to(self, device: torch.device | str) -> None:
        """Both on a device."""
        move_editor(self.writer, device)
        move_editor(self.editor, device)

    @property
    def sampling(self) -> Any:
        """The editor's."""
        return self.editor.sampling

    @sampling.setter
    def sampling(self, changed: Any) -> None:
        self.editor = copy.copy(self.editor)  # `with_settings` copies this one alone
        self.editor.sampling = changed

    @property
    def resolution(self) -> int | None:
        """The editor's."""
        return getattr(self.editor, "resolution", None)

    @property
    def autoencoder(self) -> Any | None:
        """The editor's."""
        return autoencoder_of(self.editor)

    @property
    def required_fields(self) -> tuple[str, ...]:
        """What both read, but for what is written."""
        both = (*self.writer.required_fields, *self.editor.required_fields)
        return (*dict.fromkeys(name for name in both if name != self.field),)

    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """The editor's pictures under the written texts, which are the texts of the result."""
        texts = self.writer.write(batch)
        written = {self.field: texts, f"has_{self.field}": torch.ones(len(texts), dtype=torch.bool)}
        edited = self.editor({**batch, **written}, generator)
        return EditOutput(edited.images, texts, edited.extras)

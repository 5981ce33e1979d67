"""What the options of edit.py say, checked: files, attachments, layers, and whether the editor reads what is given."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from PIL import Image

from datamodules.schema import (
    AttachmentSettings,
    Sample,
    SchemaError,
    placeholders,
    same_shape,
    with_attachment_tensors,
)
from mmig.editor import ATTACHMENTS, AnyEditor, Editor, ShowsAttention, read_fields, with_settings
from mmig.evaluation.editing import KEY
from mmig.evaluation.overrides import settable
from mmig.evaluation.pictures import read_image, read_mask


class EditError(ValueError):
    """The image, the output path or an option cannot be used."""


def checked_out(option: str, path: str) -> Path:
    """A path to write an image to.

    Raises:
        EditError: its suffix is none of an image.
    """
    out = Path(path)
    if out.suffix.lower() not in Image.registered_extensions():
        raise EditError(f"{option} {out}: expected an image suffix such as .png, found {out.suffix!r}")
    return out


def attached(options: Sequence[str], instruction: str) -> Sample:
    """The files of --attach KIND=FILE as attachments of the sample, in their order.

    Raises:
        EditError: another kind, no file, or a placeholder of the instruction that is about none.
        PictureError: a picture that cannot be read.
    """
    attachments = []
    for option in options:
        kind, _, name = option.partition("=")
        if kind not in ATTACHMENTS or not name:
            raise EditError(f"--attach {option}: expected KIND=FILE, of the kinds {', '.join(ATTACHMENTS)}")
        path = Path(name)
        if not path.is_file():
            raise EditError(f"--attach {option}: no such file")
        data = read_image(path, f"--attach {kind}") if kind == "image" else path.read_bytes()
        form = path.suffix.removeprefix(".").lower()
        attachments.append({"kind": kind, "role": "reference", "data": data, "format": form})
    kinds = [one["kind"] for one in attachments]
    for named in placeholders(instruction):
        if named.number >= len(kinds) or kinds[named.number] != named.kind:
            found = ", ".join(f"<{kind}:{number}>" for number, kind in enumerate(kinds)) or "nothing"
            raise EditError(
                f"--instruction: <{named.kind}:{named.number}> names no attached {named.kind}; --attach gives {found}"
            )
    return cast(Sample, {"attachments": attachments} if attachments else {})


def with_tensors(sample: Sample, instruction: str, data: Mapping[str, Any], response: str | None = None) -> Sample:
    """The sample with its attachments decoded, and bound to the words that their placeholders stand before.

    Args:
        sample: with `attachments`.
        instruction: with placeholders or without.
        data: settings of the editor's training data, of which those about attachments hold here too.
        response: description of the goal, which is the target caption; its placeholders go before the instruction's.

    Raises:
        EditError: one cannot be used.
    """
    own = {item.name: data[item.name] for item in fields(AttachmentSettings) if item.name in data}
    try:
        described = {"target_caption": response} if response else {}
        whole = cast(Sample, {**sample, "key": KEY, "instruction": instruction, **described})
        return with_attachment_tensors(whole, AttachmentSettings(**own))
    except SchemaError as error:
        raise EditError(f"--attach: {error}") from error


def check_given(editor: Editor, has_image: bool, response: str | None, kinds: Sequence[str]) -> None:
    """Refuse what an editor does not read, and the lack of what it needs.

    Args:
        editor: as it is going to edit.
        has_image: whether there is a picture to edit.
        response: the given description of the goal.
        kinds: of the attachments.

    Raises:
        EditError: naming the option.
    """
    name, reads, needs = type(editor).__name__, read_fields(editor), editor.required_fields
    if "source" in needs and not has_image:
        raise EditError(f"--image: {name} edits a picture, and none is given; give the one to edit")
    if has_image and "source" not in reads:
        raise EditError(f"--image: {name} draws without a picture; leave it out, --resolution gives the size")
    described = {"response", "target_caption"}
    if response and not described & {*reads}:
        raise EditError(f"--response: {name} reads no description of the goal; leave it out")
    if not response and "target_caption" in needs and "source" in needs:
        raise EditError(f"--response: {name} edits by a description of the goal, and none is given")
    for kind, field in ATTACHMENTS.items():
        if kind in kinds and field not in reads:
            raise EditError(f"--attach {kind}=FILE: {name} takes no attached {kind}; leave it out")
        if kind not in kinds and field in needs:
            raise EditError(f"--attach {kind}=FILE: {name} needs an attached {kind}, and none is given")


def check_texts(editor: Editor, arguments: Namespace) -> None:
    """Refuse texts that say nothing; an editor that follows a given response alone needs no instruction.

    Raises:
        EditError: naming the option.
    """
    instead = {
        "--response": "the model writes it, or the instruction takes its place",
        "--object-phrase": "the response gives it",
        "--background-phrase": "the response gives it",
    }
    for option, otherwise in instead.items():
        text = getattr(arguments, option.removeprefix("--").replace("-", "_"))
        if text is not None and not text.strip():
            raise EditError(f"{option}: expected words, found an empty text; leave it out, then {otherwise}")
    if not arguments.instruction.strip() and ("instruction" in read_fields(editor) or not arguments.response):
        raise EditError("--instruction: expected words that say what to do, found an empty text")


def layer_fields(arguments: Namespace, image: Image.Image | None) -> Sample:
    """What the command line says about object and background, as fields of the sample.

    Raises:
        EditError: something without --layered, or a mask that cannot be read or has another shape than the image.
    """
    given = {"--object-phrase": arguments.object_phrase, "--background-phrase": arguments.background_phrase}
    for option, value in (given | {"--mask": arguments.mask}).items():
        if value and not arguments.layered:
            raise EditError(f"{option}: only layered edits use it; leave it out, or give --layered")
    names = {name.removeprefix("--").replace("-", "_"): value for name, value in given.items() if value}
    fields = cast(Sample, names)
    if arguments.mask and image is None:
        raise EditError("--mask: it says where the object is in --image, and none is given")
    if arguments.mask and image is not None:
        mask = read_mask(Path(arguments.mask), "--mask")
        if not same_shape(mask.size, image.size):
            found, expected = (f"{picture.width}x{picture.height}" for picture in (mask, image))
            raise EditError(
                f"--mask {arguments.mask}: expected the image's shape of {expected} pixels, found {found}; cut it alike"
            )
        fields["reference_mask"] = mask
    return fields


def configured(editor: AnyEditor, num_steps: int | None, response: str | None) -> AnyEditor:
    """The editor with another number of steps, taking the given response, and writing it itself where none is given.

    Raises:
        EditError: for an editor that has no steps, or needs a response that nobody gives.
    """
    settings = settable(editor)
    changes: dict[str, Any] = {} if num_steps is None else {"num_steps": num_steps}
    if "response" in editor.required_fields and not response:
        changes["response"] = "generated"
    if response and editor.response_source == "generated" and "response" in settings:
        changes["response"] = "given"
    if "response" in changes and "response" not in settings:
        raise EditError(
            f"{type(editor).__name__} writes no response itself; give --response with a description of the goal"
        )
    if "num_steps" in changes and "num_steps" not in settings:
        raise EditError(f"--steps: {type(editor).__name__} has no denoising steps to set; leave it out")
    return with_settings(editor, changes) if changes else editor


def showing_attention(editor: Editor) -> Editor:
    """The editor, giving the attention maps of its concepts too.

    Raises:
        EditError: it has none to give.
    """
    if not isinstance(editor, ShowsAttention):
        raise EditError(
            f"--show-attention: {type(editor).__name__} gives no attention maps of concepts; leave it out, or take a "
            "run of an MMIG stage"
        )
    return editor.showing_attention()

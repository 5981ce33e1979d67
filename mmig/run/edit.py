"""What edit.py does after its arguments are parsed: an image or none, an instruction, one edited image."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from rich.console import Console

from datamodules.schema import Sample
from mmig.base.batches import chosen_device
from mmig.base.files import replacing
from mmig.editor import Editor, EditOutput, in_layers
from mmig.evaluation.attention_grid import draw_attention
from mmig.evaluation.editing import edit_image
from mmig.evaluation.opening import Opened, open_named
from mmig.evaluation.overrides import with_sampling
from mmig.evaluation.pictures import read_image
from mmig.run.edit_options import (
    attached,
    check_given,
    check_texts,
    checked_out,
    configured,
    layer_fields,
    showing_attention,
    with_tensors,
)


class Given(NamedTuple):
    """What the files that the options name hold.

    Attributes:
        image: the source, RGB; None where there is none.
        more: masks, phrases and attachments, as fields of the sample.
    """

    image: Image.Image | None
    more: Sample


def run(arguments: Namespace) -> None:
    """Edit one image, or draw one, and write the result.

    Raises:
        ValueError: for an unusable image, output path, option, checkpoint or configuration.
    """
    out, picture = checked_out("--out", arguments.out), None
    if arguments.show_attention is not None:
        picture = checked_out("--show-attention", arguments.show_attention)
    given, device = read_given(arguments), chosen_device(arguments.device)
    with Console(stderr=True).status("opening the editor") as status:  # seen on a terminal alone
        opened = open_named(arguments.checkpoint, arguments.config, ema=not arguments.no_ema, device=device)
        editor = ready(arguments, opened)
        status.update(f"editing on {device}")
        edited, output = perform(editor, arguments, given, opened, device)
    with replacing(out) as temporary:
        edited.save(temporary)
    sys.stdout.write(f"written: {out}\n")
    tell(output, editor.response_source)
    if picture is not None:
        with replacing(picture) as temporary:
            draw_attention(given.image or edited, edited, output.extras["attention"]).save(temporary)
        sys.stdout.write(f"attention: {picture}\n")


def read_given(arguments: Namespace) -> Given:
    """Read the files that the options of edit.py name.

    Raises:
        ValueError: one cannot be read or used.
    """
    image = None if arguments.image is None else read_image(Path(arguments.image))
    return Given(image, layer_fields(arguments, image) | attached(arguments.attach, arguments.instruction))


def ready(arguments: Namespace, opened: Opened) -> Editor:
    """The editor, set as the options of edit.py say.

    Raises:
        ValueError: an option that it does not take.
    """
    editor = in_layers(opened.editor) if arguments.layered else opened.editor
    return configured(with_sampling(editor, arguments.sampling), arguments.steps, arguments.response)


def perform(
    editor: Editor, arguments: Namespace, given: Given, opened: Opened, device: torch.device | str
) -> tuple[Image.Image, EditOutput]:
    """The edit that the options of edit.py ask for, as `edit_image` gives it; nothing is written.

    Args:
        editor: of `ready`.
        arguments: of `edit_parser.build_parser`; what opens the editor and where the result goes is not looked at.
        given: of `read_given`.
        opened: what is known of the editor.
        device: where it is.

    Raises:
        ValueError: an option that the editor does not take, or something that it needs and nobody gives.
    """
    more = given.more
    check_texts(editor, arguments)
    kinds = [one["kind"] for one in more.get("attachments", ())]
    check_given(editor, given.image is not None, arguments.response, kinds)
    if arguments.show_attention is not None:
        editor = showing_attention(editor)
    if "attachments" in more:
        more = with_tensors(more, arguments.instruction, opened.data, arguments.response)
    resolution = arguments.resolution or opened.resolution
    return edit_image(
        editor, given.image, arguments.instruction, arguments.response, arguments.seed, resolution, device, more
    )


def tell(output: EditOutput, response_source: str) -> None:
    """Say what texts and losses came with an edited image, and which texts were not read whole."""
    for cut in output.extras.get("cut", [()])[0]:
        sys.stderr.write(f"{cut}\n")
    if output.texts and output.texts[0]:
        sys.stdout.write(f"response ({response_source}): {output.texts[0]}\n")
    elif response_source == "generated":
        sys.stderr.write("the model wrote an empty response: the edit follows no text; give one with --response\n")
    if captions := output.extras.get("captions"):
        sys.stdout.write(f"caption of the new image: {captions[0]}\n")
    if layers := output.extras.get("layers"):
        (before, after), (object_phrase, background) = output.extras["layered_loss"][:, 0].tolist(), layers[0]
        sys.stdout.write(f"object: {object_phrase}\nbackground: {background}\n")
        sys.stdout.write(f"loss of the layers: {before:.6f}, then {after:.6f}\n")

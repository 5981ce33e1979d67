"""What edit.py does after its arguments are parsed: an image or none, an instruction, one edited image."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from datamodules.schema import MASK_FIELDS, Batch, Sample, collate
from mmig.base.batches import chosen_device, move_batch
from mmig.base.files import replacing
from mmig.editor import Editor, EditOutput, check_fields, in_layers
from mmig.evaluation.attention_grid import draw_attention
from mmig.evaluation.opening import open_named
from mmig.evaluation.overrides import with_sampling
from mmig.evaluation.pictures import editing_size, read_image, to_pil
from mmig.run.edit_options import (
    KEY,
    EditError,
    attached,
    check_given,
    check_texts,
    checked_out,
    configured,
    layer_fields,
    showing_attention,
    with_tensors,
)
from mmig.training.rng import sample_generators


def run(arguments: Namespace) -> None:
    """Edit one image, or draw one, and write the result.

    Raises:
        ValueError: for an unusable image, output path, option, checkpoint or configuration.
    """
    out, picture = checked_out("--out", arguments.out), None
    if arguments.show_attention is not None:
        picture = checked_out("--show-attention", arguments.show_attention)
    image = None if arguments.image is None else read_image(Path(arguments.image))
    more = layer_fields(arguments, image) | attached(arguments.attach, arguments.instruction)
    device = chosen_device(arguments.device)
    opened = open_named(arguments.checkpoint, arguments.config, ema=not arguments.no_ema, device=device)
    editor = in_layers(opened.editor) if arguments.layered else opened.editor
    editor = configured(with_sampling(editor, arguments.sampling), arguments.steps, arguments.response)
    check_texts(editor, arguments)
    check_given(editor, image is not None, arguments.response, [one["kind"] for one in more.get("attachments", ())])
    if picture is not None:
        editor = showing_attention(editor)
    if "attachments" in more:
        more = with_tensors(more, arguments.instruction, opened.data, arguments.response)
    resolution = arguments.resolution or opened.resolution
    edited, output = edit_image(
        editor, image, arguments.instruction, arguments.response, arguments.seed, resolution, device, more
    )
    with replacing(out) as temporary:
        edited.save(temporary)
    sys.stdout.write(f"written: {out}\n")
    tell(output, editor.response_source)
    if picture is not None:
        with replacing(picture) as temporary:
            draw_attention(image or edited, edited, output.extras["attention"]).save(temporary)
        sys.stdout.write(f"attention: {picture}\n")


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


@torch.no_grad()
def edit_image(
    editor: Editor,
    image: Image.Image | None,
    instruction: str,
    response: str | None = None,
    seed: int = 0,
    resolution: int | None = None,
    device: torch.device | str = "cpu",
    more: Sample | None = None,
) -> tuple[Image.Image, EditOutput]:
    """Edit one PIL image; returns the edited image in the size of the input, and all that the editor gave.

    Args:
        editor: any `Editor`.
        image: the source, RGB; None for an editor that needs none: it draws a square of `resolution`.
        instruction: what to do, or what to draw.
        response: description of the goal image, for editors that are given one; those that draw from a caption take
            the instruction where there is none.
        seed: sampling seed.
        resolution: longer side of what the editor sees, see `editing_size`; None keeps the size.
        device: where the editor is.
        more: further fields of the sample; masks in the size of the image, attachments as tensors.

    Raises:
        EditError: neither an image nor a resolution.
        MissingFieldError: if the editor needs a field that is not given.
    """
    sample: dict[str, Any] = {**(more or {}), "key": KEY, "instruction": instruction}
    if image is not None:
        size = editing_size(image.size, resolution)
        sample["source"] = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
    elif resolution is None:
        raise EditError("--resolution: nothing says how large the picture is to be; give its side in pixels")
    else:
        size = editing_size((resolution, resolution), resolution)
    for name in sample.keys() & set(MASK_FIELDS):
        sample[name] = sample[name].resize(size, Image.Resampling.NEAREST)
    if response:
        sample["response"] = response
    if response or image is None:
        sample["target_caption"] = response or instruction
    batch: Any = move_batch(collate([sample], size=size[::-1]), device)
    check_fields(editor, batch)
    output = editor(Batch(**batch), sample_generators(seed, batch["key"]))
    return to_pil(output.images, None if image is None else [image.size])[0], output

"""What edit.py does after its arguments are parsed: one image, one instruction, one edited image."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from datamodules.schema import Batch, Sample, collate
from mmig.base.batches import chosen_device, move_batch
from mmig.base.files import replacing
from mmig.checkpoints.checkpoint import load_module, read_checkpoint, run_config, trained_resolution
from mmig.editor import Editor, EditOutput, ShowsAttention, check_fields
from mmig.evaluation.attention_grid import draw_attention
from mmig.evaluation.overrides import sampling_settings, with_settings
from mmig.evaluation.pictures import editing_size, to_pil, to_rgb
from mmig.training.rng import sample_generators


class EditError(ValueError):
    """The image, the output path or an option cannot be used."""


def run(arguments: Namespace) -> None:
    """Edit one image and write the result.

    Raises:
        ValueError: for an unusable image, output path, option or checkpoint.
    """
    out, picture = checked_out("--out", arguments.out), None
    if arguments.show_attention is not None:
        picture = checked_out("--show-attention", arguments.show_attention)
    image = read_image(Path(arguments.image))
    device = chosen_device(arguments.device)
    editor = load_module(arguments.checkpoint, ema=not arguments.no_ema, map_location=device).make_pipeline()
    editor = configured(editor, arguments.steps, arguments.response)
    if picture is not None:
        editor = showing_attention(editor)
    resolution = arguments.resolution or _trained_resolution(arguments.checkpoint)
    edited, output = edit_image(
        editor, image, arguments.instruction, arguments.response, arguments.seed, resolution, device
    )
    with replacing(out) as temporary:
        edited.save(temporary)
    sys.stdout.write(f"written: {out}\n")
    if output.texts and output.texts[0]:
        sys.stdout.write(f"response ({editor.response_source}): {output.texts[0]}\n")
    if captions := output.extras.get("captions"):
        sys.stdout.write(f"caption of the new image: {captions[0]}\n")
    if picture is not None:
        with replacing(picture) as temporary:
            draw_attention(image, edited, output.extras["attention"]).save(temporary)
        sys.stdout.write(f"attention: {picture}\n")


def checked_out(option: str, path: str) -> Path:
    """A path to write an image to.

    Raises:
        EditError: its suffix is none of an image.
    """
    out = Path(path)
    if out.suffix.lower() not in Image.registered_extensions():
        raise EditError(f"{option} {out}: expected an image suffix such as .png, found {out.suffix!r}")
    return out


@torch.no_grad()
def edit_image(
    editor: Editor,
    image: Image.Image,
    instruction: str,
    response: str | None = None,
    seed: int = 0,
    resolution: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Image.Image, EditOutput]:
    """Edit one PIL image; returns the edited image in the size of the input, and all that the editor gave.

    Args:
        editor: any `Editor`.
        image: the source, RGB.
        instruction: what to do.
        response: description of the goal image, for editors whose response is "given".
        seed: sampling seed.
        resolution: longer side of what the editor sees, see `editing_size`; None keeps the size.
        device: where the editor is.

    Raises:
        MissingFieldError: if the editor needs a response and none is given.
    """
    size = editing_size(image.size, resolution)
    resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
    sample: Sample = {"key": "edit", "source": resized, "instruction": instruction}
    if response:
        sample["response"] = response
    batch: Any = move_batch(collate([sample]), device)
    check_fields(editor, batch)
    output = editor(Batch(**batch), sample_generators(seed, batch["key"]))
    return to_pil(output.images, [image.size])[0], output


def read_image(path: Path) -> Image.Image:
    """An image file as RGB; transparency is put on white.

    Raises:
        EditError: for a missing or unreadable file.
    """
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise EditError(f"--image {path}: no such file") from error
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise EditError(f"--image {path}: cannot be read as an image ({error}); give a PNG, JPEG or WebP") from error
    return to_rgb(image)


def _trained_resolution(checkpoint: str) -> int | None:
    return trained_resolution(run_config(checkpoint, read_checkpoint(checkpoint, outline=True)))


def configured(editor: Editor, num_steps: int | None, response: str | None) -> Editor:
    """The editor with another number of steps, taking the given response, and writing it itself where none is given.

    Raises:
        EditError: for an editor that has no steps, or needs a response that nobody gives.
    """
    settings = sampling_settings(editor)
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
    return with_settings(editor, changes)


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

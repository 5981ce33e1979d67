"""What edit.py does after its arguments are parsed: one image, one instruction, one edited image."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image, UnidentifiedImageError

from datamodules.schema import MASK_FIELDS, Batch, Sample, collate
from mmig.base.batches import chosen_device, move_batch
from mmig.base.files import replacing
from mmig.checkpoints.checkpoint import load_module, read_checkpoint, run_config, trained_resolution
from mmig.editor import Editor, EditOutput, ShowsAttention, check_fields, in_layers
from mmig.evaluation.attention_grid import draw_attention
from mmig.evaluation.overrides import sampling_settings, with_sampling, with_settings
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
    layers = layer_fields(arguments, image)
    device = chosen_device(arguments.device)
    editor = load_module(arguments.checkpoint, ema=not arguments.no_ema, map_location=device).make_pipeline()
    if arguments.layered:
        editor = in_layers(editor)
    editor = configured(with_sampling(editor, arguments.sampling), arguments.steps, arguments.response)
    if picture is not None:
        editor = showing_attention(editor)
    resolution = arguments.resolution or _trained_resolution(arguments.checkpoint)
    edited, output = edit_image(
        editor, image, arguments.instruction, arguments.response, arguments.seed, resolution, device, layers
    )
    with replacing(out) as temporary:
        edited.save(temporary)
    sys.stdout.write(f"written: {out}\n")
    tell(output, editor.response_source)
    if picture is not None:
        with replacing(picture) as temporary:
            draw_attention(image, edited, output.extras["attention"]).save(temporary)
        sys.stdout.write(f"attention: {picture}\n")


def tell(output: EditOutput, response_source: str) -> None:
    """Say what texts and losses came with an edited image."""
    if output.texts and output.texts[0]:
        sys.stdout.write(f"response ({response_source}): {output.texts[0]}\n")
    if captions := output.extras.get("captions"):
        sys.stdout.write(f"caption of the new image: {captions[0]}\n")
    if layers := output.extras.get("layers"):
        (before, after), (object_phrase, background) = output.extras["layered_loss"][:, 0].tolist(), layers[0]
        sys.stdout.write(f"object: {object_phrase}\nbackground: {background}\n")
        sys.stdout.write(f"loss of the layers: {before:.6f}, then {after:.6f}\n")


def layer_fields(arguments: Namespace, image: Image.Image) -> Sample:
    """What the command line says about object and background, as fields of the sample.

    Raises:
        EditError: something without --layered, or a mask that cannot be read or has another size than the image.
    """
    given = {"--object-phrase": arguments.object_phrase, "--background-phrase": arguments.background_phrase}
    for option, value in (given | {"--mask": arguments.mask}).items():
        if value and not arguments.layered:
            raise EditError(f"{option}: only layered edits use it; leave it out, or give --layered")
    names = {name.removeprefix("--").replace("-", "_"): value for name, value in given.items() if value}
    fields = cast(Sample, names)
    if arguments.mask:
        mask = read_image(Path(arguments.mask), "--mask")
        if mask.size != image.size:
            found, expected = (f"{picture.width}x{picture.height}" for picture in (mask, image))
            raise EditError(f"--mask {arguments.mask}: expected {expected} pixels, as the image has, found {found}")
        fields["reference_mask"] = mask.convert("L")
    return fields


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
    more: Sample | None = None,
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
        more: further fields of the sample; masks in the size of the image.

    Raises:
        MissingFieldError: if the editor needs a response and none is given.
    """
    size = editing_size(image.size, resolution)
    resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
    sample: dict[str, Any] = {**(more or {}), "key": "edit", "source": resized, "instruction": instruction}
    for name in sample.keys() & set(MASK_FIELDS):
        sample[name] = sample[name].resize(size, Image.Resampling.NEAREST)
    if response:
        sample["response"] = response
    batch: Any = move_batch(collate([sample]), device)
    check_fields(editor, batch)
    output = editor(Batch(**batch), sample_generators(seed, batch["key"]))
    return to_pil(output.images, [image.size])[0], output


def read_image(path: Path, option: str = "--image") -> Image.Image:
    """An image file as RGB; transparency is put on white.

    Raises:
        EditError: for a missing or unreadable file.
    """
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise EditError(f"{option} {path}: no such file") from error
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise EditError(f"{option} {path}: cannot be read as an image ({error}); give a PNG, JPEG or WebP") from error
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

"""One image edited, or drawn, in its own shape."""

from typing import Any

import torch
from PIL import Image

from datamodules.schema import MASK_FIELDS, Batch, Sample, collate
from mmig.base.batches import move_batch
from mmig.editor import Editor, EditOutput, check_fields
from mmig.evaluation.pictures import PictureError, editing_size, to_pil
from mmig.training.rng import sample_generators

KEY = "edit"
"""Of an image that is edited alone."""


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
    key: str = KEY,
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
        key: of the sample, with which its noise is drawn.

    Raises:
        PictureError: neither an image nor a resolution.
        MissingFieldError: if the editor needs a field that is not given.
    """
    sample: dict[str, Any] = {**(more or {}), "key": key, "instruction": instruction}
    if image is not None:
        size = editing_size(image.size, resolution)
        sample["source"] = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
    elif resolution is None:
        raise PictureError("--resolution: nothing says how large the picture is to be; give its side in pixels")
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

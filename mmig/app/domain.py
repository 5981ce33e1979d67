"""Whether a picture is one that a model knows, in a sentence."""

from PIL import Image

from datamodules.schema import image_to_tensor
from mmig.app.systems import System
from mmig.evaluation.domain import outside
from mmig.evaluation.pictures import editing_size


def stranger(system: System, picture: Image.Image, resolution: int | None) -> str:
    """A sentence that warns of a picture outside of what a model was trained on; "" where nothing is to be said.

    Args:
        system: that edits it.
        picture: RGB, as it was given.
        resolution: longer side in pixels that it is edited at.
    """
    size = editing_size(picture.size, resolution or system.opened.resolution)
    verdict = outside(system.editor, image_to_tensor(picture.resize(size, Image.Resampling.BICUBIC)))
    if verdict is None or not verdict.is_outside:
        return ""
    return (
        f"The model has not learned from such pictures: its autoencoder is off by {verdict.error:.3g} here, and by at "
        f"most {verdict.limit:.3g} on 99 of 100 of its own. Expect a poor edit."
    )

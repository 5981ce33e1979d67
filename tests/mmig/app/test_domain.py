"""The page warns of pictures that its model has not learned from, and of no others."""

from PIL import Image
from skimage import data

from mmig.app.domain import stranger
from mmig.app.examples import Example
from mmig.app.systems import System


def test_a_photograph_is_strange_to_the_tiny_editor_and_a_scene_is_not(system: System, example: Example) -> None:
    said = stranger(system, Image.fromarray(data.chelsea()), None)
    assert "has not learned from such pictures" in said and said.endswith(".")
    assert stranger(system, example.picture, None) == ""

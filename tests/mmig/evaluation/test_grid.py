import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from mmig.evaluation.grid import Example, draw_grid, varied, wrap


def example(
    key: str = "a", size: int = 64, target: bool = True, instruction: str = "make it red", **extra: str
) -> Example:
    pixels = np.full((size, size, 3), 200, dtype=np.uint8)
    return Example(key, pixels, pixels, pixels if target else None, instruction, **extra)


def test_small_images_are_enlarged_without_blur() -> None:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[::2] = 255
    grid = np.asarray(draw_grid([Example("a", pixels, pixels, pixels, "x")]))
    tile = grid[52 : 52 + 192, 22 : 22 + 192]
    assert set(np.unique(tile)) == {0, 255}
    assert (tile[:3] == 255).all()
    assert (tile[3:6] == 0).all()


def test_rows_and_absent_images_are_drawn() -> None:
    one, two = draw_grid([example()]), draw_grid([example(), example("b", 300, target=False, edit_type="add")])
    assert two.height - one.height == 192 + 14
    assert one.width == two.width


def test_a_very_long_instruction_stays_inside_its_row() -> None:
    first = example(instruction="word " * 600)
    grid = np.asarray(draw_grid([first, example("b", instruction="")]))
    second_row_text = grid[52 + 206 :, 640:]
    assert (second_row_text == second_row_text[0, 0]).all()


def test_lines_are_no_wider_than_asked() -> None:
    draw, font = ImageDraw.Draw(Image.new("RGB", (10, 10))), ImageFont.load_default(16)
    lines = wrap(draw, "make the small red triangle at the bottom left blue", font, 120)
    assert len(lines) > 1
    assert all(draw.textlength(line, font=font) <= 120 for line in lines)
    assert " ".join(lines) == "make the small red triangle at the bottom left blue"


def test_variety_comes_before_order() -> None:
    examples = [example(key, edit_type=kind) for key, kind in [("a", "add"), ("b", "add"), ("c", "move")]]
    assert [shown.key for shown in varied(examples, 2)] == ["a", "c"]
    assert [shown.key for shown in varied(examples, 3)] == ["a", "c", "b"]


def test_no_examples_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        draw_grid([])


def titles(examples: list[Example]) -> int:
    """How many columns of images a grid has."""
    return (draw_grid(examples).width - 2 * 22 - 300) // (192 + 14)


def test_columns_that_nobody_has_an_image_for_are_left_out() -> None:
    pixels = np.full((64, 64, 3), 200, dtype=np.uint8)
    drawn, edited = Example("a", None, pixels, None, "x"), example("b", target=False)
    assert [titles([drawn]), titles([edited]), titles([drawn, edited]), titles([example()])] == [1, 2, 2, 3]
    grid = np.asarray(draw_grid([drawn, edited]))
    first, second = grid[52 : 52 + 192, 22 : 22 + 192], grid[52 + 206 : 52 + 206 + 192, 22 : 22 + 192]
    assert (first[0] == 255).all() and first.min() < 200  # a white card that says "none"
    assert (second == 200).all()


def test_references_have_a_column_of_their_own_and_share_a_tile() -> None:
    pixels = np.full((64, 64, 3), 200, dtype=np.uint8)
    shades = tuple(np.full((96, 96, 3), shade, dtype=np.uint8) for shade in (0, 60, 120))
    examples = [Example("a", pixels, pixels, pixels, "x", references=shades), example("b")]
    examples.append(Example("c", pixels, pixels, pixels, "x", references=shades[:1]))
    assert titles(examples) == 4
    grid = np.asarray(draw_grid(examples))
    column = grid[52:, 22 + 206 : 22 + 206 + 192]
    assert [int(column[row, left, 0]) for row, left in ((48, 48), (48, 144), (144, 48), (144, 144))] == [
        0,
        60,
        120,
        255,
    ]
    assert (column[206 + 5, 5:-5] == 255).all()  # the second has none
    assert (column[2 * 206 + 5, 5:-5] == 0).all()

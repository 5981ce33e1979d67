"""Filter expressions: what they mean, and that they can do nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.filters import MAX_LENGTH, Filter, FilterError

FACTS = {
    "key": "000007",
    "edit_type": "add",
    "instruction": "Add a red hat",
    "width": 640,
    "height": 480,
    "similarity": 0.31,
    "concepts": ["hat", "cat"],
    "metadata": {"scene": {"objects": [{"shape": "circle"}]}, "a b": 1},
    "nothing": None,
}


@pytest.mark.parametrize(
    "text",
    [
        'edit_type == "add"',
        "edit_type in ('add', 'remove')",
        "edit_type not in ['move']",
        '"red" in instruction and "blue" not in instruction',
        '"hat" in lower(instruction)',
        "width >= 512 or height >= 512",
        "1 < width / height < 1.5",
        "width * height > 300000 - 1",
        "not similarity > 0.5",
        "-similarity < 0",
        "width % 64 == 0",
        "len(instruction) < 20 and len(concepts) == 2",
        'metadata.scene.objects[0].shape == "circle"',
        'metadata["a b"] == 1',
        "nothing is None and absent is None and edit_type is not None",
        "width >= 512 and\n  height >= 100  # over several lines",
        "True",
    ],
)
def test_a_true_expression_chooses_the_sample(text: str) -> None:
    assert Filter(text)(FACTS)
    assert not Filter(f"not ({text}\n)")(FACTS)


@pytest.mark.parametrize(
    "text",
    [
        "absent > 3",
        "absent <= 3",
        "instruction > 3",
        "3 in width",
        "absent.inner == 1",
        "metadata.scene.objects[7].shape == 'circle'",
        "width / 0 > 1",
        "instruction * 3 == 'x'",
        "absent + 1 > 0",
        "len(width) > 0",
        "draw(width) < 1",
    ],
)
def test_what_cannot_be_compared_is_false_and_stops_nothing(text: str) -> None:
    assert not Filter(text)(FACTS)


def test_different_from_a_missing_field_is_true() -> None:
    assert Filter("absent != 3 and 'x' not in absent")(FACTS)


def test_edit_types_come_on_top_of_the_expression() -> None:
    both = Filter("width > 600 or height > 600", ["add", "move"])
    assert both(FACTS) and not both({**FACTS, "edit_type": "remove"}) and not both({**FACTS, "width": 5})
    assert both.names == {"edit_type", "width", "height"}
    assert Filter("True", ["add"]).text != Filter("True", ["move"]).text


def test_a_draw_splits_keys_for_good_and_in_the_share_asked_for() -> None:
    one, other = Filter("draw(key) < 0.9"), Filter("draw(key) >= 0.9")
    facts = [{"key": f"{number:06d}"} for number in range(5000)]
    assert all(one(each) != other(each) for each in facts)
    assert abs(sum(one(each) for each in facts) / 5000 - 0.9) < 0.02
    assert [Filter("draw(key) < 0.5")({"key": key}) for key in "abcdefgh"] == [bool(int(c)) for c in "11111001"]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('x')",
        "(lambda: 1)()",
        "[x for x in (1, 2)]",
        "width.__class__()",
        "len(instruction, 2)",
        "len(*instruction)",
        "f'{width}'",
        "2 ** 9 ** 9",
        "1 << 40",
        "b'x' == width",
        "1j == width",
        "... == width",
        "width if height else 3",
        "(width := 3)",
        "metadata[width]",
        "metadata[0:1]",
        "edit_type = 'add'",
        "edit_type ==",
        "width >= 512)",
        "'a\0b'",
        "",
        "width > 3,",
        "not " * 60 + "width",
        "(" * 300 + "width" + ")" * 300,
        "width" + " + 1" * MAX_LENGTH,
    ],
)
def test_what_is_no_filter_is_refused_in_one_line_before_any_sample_is_read(text: str) -> None:
    with pytest.raises(FilterError, match=r"^where: expected ") as caught:
        Filter(text)
    assert "\n" not in str(caught.value).replace(text, "") and len(str(caught.value)) < 2000


def test_nothing_is_executed(tmp_path: Path) -> None:
    target = tmp_path / "made"
    for text in (f"open({str(target)!r}, 'w')", f"len(open({str(target)!r}, 'w').name)"):
        with pytest.raises(FilterError):
            Filter(text)
    assert not Filter("().__class__.__bases__[0].__subclasses__ is not None")(FACTS)  # only fields of the sample
    assert not target.exists()

"""Lines over a grid of sampling settings."""

from itertools import product

from mmig.evaluation.bootstrap import Interval
from mmig.evaluation.overview import Evaluated
from mmig.evaluation.page.curve import curve
from mmig.evaluation.summary import interval_dict

NAMES = ("across", "up")


def evaluated(system: str, across: float, up: float, **point: str) -> Evaluated:
    """With two metrics."""
    values = {
        name: interval_dict(Interval(value, value - 0.01, value + 0.01, n=9))
        for name, value in zip(NAMES, (across, up), strict=True)
    }
    return Evaluated(system, "", {"metrics": values}, point)


def test_a_line_a_system_over_one_setting() -> None:
    found = curve(
        [evaluated(name, step / 10, step / 20, scale=str(step)) for name, step in product("ab", (1, 2))], NAMES
    )
    assert found is not None and found.setting == "scale"
    assert [line.name for line in found.lines] == ["a", "b"]
    assert [stop.label for stop in found.lines[0].stops] == ["1", "2"]


def test_of_two_settings_the_last_changes_along_a_line() -> None:
    points = [evaluated("a", s / 10, t / 10, text=str(t), image=str(s)) for t, s in product((2, 5), (1, 2, 3))]
    found = curve(points, NAMES)
    assert found is not None and found.setting == "image"
    assert [line.name for line in found.lines] == ["a, text 2", "a, text 5"]
    assert [stop.across.value for stop in found.lines[1].stops] == [0.1, 0.2, 0.3]
    assert {stop.up.value for stop in found.lines[1].stops} == {0.5}


def test_without_a_grid_or_a_value_there_is_none() -> None:
    assert curve([evaluated("a", 0.1, 0.2)], NAMES) is None
    assert curve([evaluated("a", 0.1, 0.2, scale="1")], ("across", "elsewhere")) is None

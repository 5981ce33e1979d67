"""Sampling settings of an editor from the command line."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from mmig.evaluation.overrides import OverrideError, with_sampling


@dataclass
class Sampling:
    num_steps: int = 50
    scale: float = 7.5
    response: str = "given"
    use_mmsm: bool = True


class Editor:
    def __init__(self, pipeline: Any = None, sampling: Sampling | None = None) -> None:
        self.pipeline, self.sampling = pipeline, sampling or Sampling()
        self.response_source = self.sampling.response


def test_named_settings_change_and_the_rest_stays() -> None:
    editor: Any = Editor("pipeline")
    changed: Any = with_sampling(editor, ["response=generated", "scale=4", "use_mmsm=false"])
    assert changed.sampling == Sampling(50, 4.0, "generated", False)
    assert changed.response_source == "generated" and changed.pipeline == "pipeline"
    assert editor.sampling == Sampling()


def test_editors_without_a_dataclass_have_attributes() -> None:
    editor: Any = SimpleNamespace(num_steps=20, unet=object())
    assert with_sampling(editor, ["num_steps=5"]).num_steps == 5
    with pytest.raises(OverrideError, match=r"one of num_steps$"):
        with_sampling(editor, ["unet=5"])


@pytest.mark.parametrize("setting", ["response", "steps=5", "num_steps=many", "use_mmsm=1", "num_steps=1.5"])
def test_what_does_not_fit_is_one_line(setting: str) -> None:
    with pytest.raises(OverrideError, match=f"--sampling {setting}: expected"):
        with_sampling(Editor(), [setting])  # type: ignore[arg-type]

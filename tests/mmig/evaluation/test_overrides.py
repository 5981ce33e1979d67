"""Sampling settings of an editor from the command line."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from mmig.editor import NoSettings
from mmig.evaluation.overrides import OverrideError, settable, with_sampling
from mmig.methods.instruct_pix2pix.pipeline import EditSampling, InstructPix2PixPipeline


@dataclass
class Sampling:
    num_steps: int = 50
    scale: float = 7.5
    response: Literal["given", "generated"] = "given"
    use_mmsm: bool = True
    strength: float = 0.8
    seed: int | None = None
    sizes: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError("sampling.num_steps: expected at least 1")


class Editor:
    idle_settings = ("strength",)

    def __init__(self, pipeline: Any = None, sampling: Any = None) -> None:
        self.pipeline, self.sampling = pipeline, sampling or Sampling()

    @property
    def response_source(self) -> str:
        return self.sampling.response


def test_named_settings_change_and_the_rest_stays() -> None:
    editor: Any = Editor("pipeline")
    changed: Any = with_sampling(editor, ["response=generated", "scale=4", "use_mmsm=false"])
    assert changed.sampling == Sampling(50, 4.0, "generated", False)
    assert changed.response_source == "generated" and changed.pipeline == "pipeline"
    assert editor.sampling == Sampling()


def test_settings_of_every_type_can_be_given() -> None:
    changed: Any = with_sampling(Editor(), ["seed=5", "sizes=[3, 4]", "scale=1e-2"])
    assert (changed.sampling.seed, changed.sampling.sizes, changed.sampling.scale) == (5, (3, 4), 0.01)
    assert with_sampling(changed, ["seed=null"]).sampling.seed is None


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("response", "NAME=VALUE with one of num_steps, response, scale, seed, sizes, use_mmsm"),
        ("steps=5", "NAME=VALUE with one of num_steps, response, scale, seed, sizes, use_mmsm"),
        ("num_steps=many", "a value like 50, found 'many'"),
        ("num_steps=1.5", "a value like 50, found '1.5'"),
        ("use_mmsm=1", "a value like True, found '1'"),
        ("response=none", "one of given, generated, found 'none'"),
        ("scale=[", r"a value like 7.5, found '\['"),
    ],
)
def test_what_does_not_fit_is_one_line(setting: str, expected: str) -> None:
    with pytest.raises(OverrideError, match=f"^--sampling {setting.replace('[', '.')}: expected {expected}$"):
        with_sampling(Editor(), [setting])


def test_a_setting_that_does_nothing_is_refused() -> None:
    with pytest.raises(
        OverrideError, match="strength=1: strength does nothing with these weights; expected NAME=VALUE"
    ):
        with_sampling(Editor(), ["strength=1"])
    assert "strength" not in settable(Editor())


def test_what_the_settings_themselves_refuse_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^sampling.num_steps: expected at least 1$"):
        with_sampling(Editor(), ["num_steps=0"])


@pytest.mark.parametrize("setting", ["strength=-0.1", "scale=.nan", "scale=.inf"])
def test_what_no_settings_can_mean_is_refused_although_they_take_it(setting: str) -> None:
    editor: Any = Editor()
    editor.idle_settings = ()
    with pytest.raises(ValueError, match=r"^sampling\.\w+: expected a finite number.*, found"):
        with_sampling(editor, [setting])


def test_an_editor_without_settings_has_none() -> None:
    with pytest.raises(OverrideError, match="--sampling num_steps=5: Editor has nothing to set; leave it out"):
        with_sampling(Editor(None, NoSettings()), ["num_steps=5"])


def test_another_text_of_instruct_pix2pix_is_said_by_the_editor() -> None:
    part: Any = None
    editor = InstructPix2PixPipeline(part, part, part, part, part, "response", EditSampling(20))
    assert (editor.required_fields, editor.response_source) == (("source", "response"), "given")
    other = with_sampling(editor, ["text=instruction"])
    assert (other.required_fields, other.response_source) == (("source", "instruction"), "none")
    assert other.sampling == EditSampling(20, text="instruction") and editor.sampling == EditSampling(20)
    assert with_sampling(other, ["text=null"]).required_fields == ("source", "response")
    with pytest.raises(
        OverrideError, match="expected one of instruction, response, target_caption, expressive, found 'caption'"
    ):
        with_sampling(editor, ["text=caption"])
    with pytest.raises(OverrideError, match=r"with one of guidance_scale, image_guidance_scale, num_steps, text$"):
        with_sampling(editor, ["response=given"])

"""What can be set on the page: a sentence for each setting, and values that edit.py takes."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest

from mmig.app.controls import NOT_SET, as_words, changed, controls_of, described
from mmig.evaluation.overrides import with_sampling
from mmig.methods.instruct_any2pix.editor import Any2PixSampling
from mmig.methods.instruct_pix2pix.pipeline import EditSampling
from mmig.methods.styleclip.latent_optimisation import LatentSampling

METHODS = Path(__file__).parents[3] / "mmig" / "methods"


def sampling_classes() -> list[type]:
    """Every dataclass of settings of every method, by its name."""
    found = {}
    for path in sorted(METHODS.rglob("*.py")):
        if "Sampling" in path.read_text(encoding="utf-8"):
            module = importlib.import_module(".".join(path.relative_to(METHODS.parents[1]).with_suffix("").parts))
            for name, value in vars(module).items():
                is_settings = isinstance(value, type) and dataclasses.is_dataclass(value)
                if is_settings and name.endswith(("Sampling", "SamplingConfig")) and not name.startswith("_"):
                    found[f"{value.__module__}.{name}"] = value
    return list(found.values())


class Editor:
    """An editor of certain settings."""

    required_fields = ()
    response_source = "none"

    def __init__(self, sampling: Any) -> None:
        self.sampling = sampling


def test_every_method_is_among_those_whose_settings_are_looked_at() -> None:
    methods = {kind.__module__.split(".")[2] for kind in sampling_classes()}
    assert methods == {path.parent.name for path in METHODS.glob("*/__init__.py")}


@pytest.mark.parametrize("kind", sampling_classes(), ids=lambda kind: kind.__name__)
def test_each_setting_of_each_method_has_a_sentence(kind: type) -> None:
    sentences = described(kind)
    assert [item.name for item in dataclasses.fields(kind) if not sentences.get(item.name)] == []
    assert not any("\n" in sentence for sentence in sentences.values())


def test_the_usual_settings_come_first() -> None:
    names = [control.name for control in controls_of(Editor(Any2PixSampling()))]
    assert names[:2] == ["num_steps", "guidance_scale"]


def test_values_that_are_left_alone_change_nothing() -> None:
    for kind in (EditSampling, Any2PixSampling, LatentSampling):
        controls = controls_of(Editor(kind()))
        assert changed(controls, [control.value for control in controls]) == {}


def test_changed_values_reach_the_editor_through_the_words_of_the_command_line() -> None:
    editor = Editor(Any2PixSampling())
    wanted = {"num_steps": 7, "guidance_scale": 1e-5, "aesthetic_score": None, "retrieval": "all"}
    controls = controls_of(editor)
    values = [wanted.get(control.name, control.value) for control in controls]
    found = changed(controls, values)
    assert found == wanted
    sampling = with_sampling(editor, as_words(found)).sampling
    assert {name: getattr(sampling, name) for name in wanted} == wanted


def test_a_choice_that_may_be_open_goes_back_to_open() -> None:
    editor = Editor(EditSampling(text="response"))
    control = next(control for control in controls_of(editor) if control.name == "text")
    assert control.choices[0] == NOT_SET
    assert changed([control], [NOT_SET]) == {"text": None}
    assert changed([control], ["instruction"]) == {"text": "instruction"}


def test_a_browsers_whole_numbers_are_taken_as_what_the_setting_is() -> None:
    controls = controls_of(Editor(EditSampling()))
    found = changed(controls, [{"num_steps": 3.0, "guidance_scale": 2}.get(c.name, c.value) for c in controls])
    assert found == {"num_steps": 3, "guidance_scale": 2.0}
    assert [type(value) for value in found.values()] == [int, float]

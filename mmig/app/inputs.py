"""What can be put in: which inputs a set of systems takes, as components of the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from mmig.app.asking import LARGEST_SEED, LARGEST_SIDE, MOST_RESULTS
from mmig.app.controls import Control, changed
from mmig.app.handlers import Handlers
from mmig.app.systems import Needs, needs_of
from mmig.editor import with_settings

Values = tuple[str | None, str, str, list[str] | None]
"""Picture, instruction, description, attachments."""


class Inputs:
    """The left side of the page.

    Args:
        handlers: with the systems.
        values: to begin with.
    """

    def __init__(self, handlers: Handlers, values: Values) -> None:
        self.handlers = handlers
        needs = [system.needs for system in handlers.systems]
        self.picture = gr.Image(
            values[0],
            type="filepath",
            label="Picture",
            sources=["upload", "clipboard"],
            buttons=["fullscreen"],
            height=256,
            elem_id="picture",
            visible=any(one.reads_picture for one in needs),
        )
        self.picture.preprocess = _path  # it is for `uploads` to look into the file, not for Gradio
        self.instruction = gr.Textbox(
            values[1], label="Instruction", lines=1, max_lines=4, elem_id="instruction", placeholder="make it night"
        )
        self.description = gr.Textbox(
            values[2],
            label="Description",
            info=_on_description(needs),
            lines=1,
            max_lines=4,
            elem_id="description",
            visible=any(one.reads_description for one in needs),
        )
        self.attachments = gr.File(
            values[3],
            label=_on_attachments(needs),
            file_count="multiple",
            file_types=sorted({kind for one in needs for kind in one.kinds}) or None,
            height=120,
            elem_id="attachments",
            visible=any(one.kinds for one in needs),
        )
        self.attachments.preprocess = _paths
        names = [system.name for system in handlers.systems]
        self.systems = gr.CheckboxGroup(
            names, value=names[:2], label="Systems, side by side", elem_id="systems", visible=len(names) > 1
        )

    def add_settings(self) -> None:
        """Seed, number of results and all settings of each system, folded away."""
        systems = self.handlers.systems
        with gr.Accordion("Seed and results", open=False, elem_id="seeds"):
            self.seed = gr.Number(
                0,
                precision=0,
                minimum=0,
                maximum=LARGEST_SEED,
                label="Seed",
                info="The same seed gives the same noise, and so the same edit.",
                elem_id="seed",
            )
            self.count = gr.Slider(
                1, MOST_RESULTS, 1, step=1, label="Results", info="How many, each with the next seed.", elem_id="count"
            )
            self.resolution = gr.Number(
                None,
                precision=0,
                label="Resolution",
                info=f"Longer side in pixels at which the model works, up to {LARGEST_SIDE:,}. Empty: as trained.",
            )
            self.attention = gr.Checkbox(
                True,
                label="Attention",
                info="Also show where the model looked for each word.",
                visible=any(system.shows_attention for system in systems),
            )
        self.settings: list[Any] = []
        for system in systems:
            controls = self.handlers.controls[system.name]
            label = "Settings" if len(systems) == 1 else f"Settings of {system.name}"
            with gr.Accordion(label, open=False, visible=bool(controls), elem_classes=["settings"]):
                self.settings += [_component(control) for control in controls]

    @property
    def asked(self) -> list[Any]:
        """Components of `handlers.Asked`, all but the settings."""
        given = [self.picture, self.instruction, self.description, self.attachments, self.systems]
        return [*given, self.seed, self.count, self.resolution, self.attention]

    def follow_settings(self) -> None:
        """Show and hide inputs as settings change what is read."""
        if self.settings:
            gr.on(
                [component.change for component in self.settings],
                self._visible,
                self.settings,
                [self.picture, self.description, self.attachments],
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )

    def _visible(self, *values: Any) -> tuple[Any, Any, Any]:
        needs, left = [], list(values)
        for system in self.handlers.systems:
            controls = self.handlers.controls[system.name]
            own, left = left[: len(controls)], left[len(controls) :]
            try:
                needs.append(needs_of(with_settings(system.editor, changed(controls, own))))
            except (ValueError, TypeError):  # a value that is being typed; the edit says what is wrong with it
                needs.append(system.needs)
        described = gr.update(visible=any(one.reads_description for one in needs), info=_on_description(needs))
        return (
            gr.update(visible=any(one.reads_picture for one in needs)),
            described,
            gr.update(visible=any(one.kinds for one in needs), label=_on_attachments(needs)),
        )


def _path(payload: Any) -> str | None:
    """Where the file was put that a browser has sent.

    Raises:
        gr.Error: another place: a request can name any, and whatever lies there would be edited and shown.
    """
    if payload is None:
        return None
    if not Path(payload.path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise gr.Error("This file was not sent by a browser; send it.", print_exception=False)
    return str(payload.path)


def _paths(payload: Any) -> list[str] | None:
    """The same of several files."""
    files = getattr(payload, "root", payload)
    return [path for file in files if (path := _path(file)) is not None] if files else None


def _on_description(needs: Sequence[Needs]) -> str:
    if any(one.needs_description for one in needs):
        return "What the new picture shows, in a sentence: this model edits by it."
    return "What the new picture shows. Left empty, the model writes it, or does without."


def _on_attachments(needs: Sequence[Needs]) -> str:
    kinds = sorted({kind for one in needs for kind in one.kinds})
    names = " or ".join(f"<{kind}:0>" for kind in reversed(kinds))
    return f"Attachments; {names} in the text is the first one" if names else "Attachments"


def _component(control: Control) -> Any:
    given: dict[str, Any] = {"value": control.value, "label": control.label, "info": control.sentence or None}
    if control.kind == "flag":
        return gr.Checkbox(**given)
    if control.kind == "choice":
        return gr.Dropdown(list(control.choices), **given)
    if control.kind == "text":
        return gr.Textbox(**given, max_lines=1)
    if control.low is not None and control.high is not None and not control.may_be_none:
        return gr.Slider(control.low, control.high, step=1 if control.kind == "whole" else 0.05, **given)
    return gr.Number(precision=0 if control.kind == "whole" else None, minimum=control.low, **given)

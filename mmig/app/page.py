"""The layout: which inputs a set of systems needs, and which handler hears which button."""

import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from mmig.app import show
from mmig.app.asking import RequestError
from mmig.app.examples import Example, png
from mmig.app.handlers import Asked, Handlers
from mmig.app.inputs import Inputs, Values

CSS = Path(__file__).with_name("templates") / "style.css"
QUEUE = 100
"""Visitors that may wait."""
FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
"""Of the visitor's machine: nothing is fetched from elsewhere."""


class Page:
    """The page of some systems.

    Args:
        handlers: what happens on a click.
        title: over the page.
    """

    def __init__(self, handlers: Handlers, title: str = "mmig") -> None:
        self.handlers, self.title = handlers, title
        systems = handlers.systems
        self.examples = [one for one in handlers.examples.shown if all(one.serves(system) for system in systems)]
        self.files = [self._written(example, number) for number, example in enumerate(self.examples)]
        self.inputs: Inputs

    def build(self) -> gr.Blocks:
        """The page, not served yet."""
        with gr.Blocks(title=self.title, analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            self.history = gr.State([], delete_callback=self.handlers.leave)
            gr.HTML(f'<div class="head"><h1>{self.title}</h1><p>Say in words how a picture is to change.</p></div>')
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=320):
                    self._left()
                with gr.Column(scale=3, min_width=320):
                    with gr.Tab("Edit"):
                        self.results = gr.HTML(show.cards([]), elem_id="results")
                    with gr.Tab("Guidance grid", visible=bool(self._scales())):
                        self._grid_inputs()
                    with gr.Tab("History"):
                        self.past = gr.HTML(show.history([]), elem_id="history")
                        self.pack = gr.DownloadButton("Download all", size="sm", visible=False)
            self.choice = gr.Dataset(
                components=[self.inputs.picture, self.inputs.instruction],
                samples=[[path, self._values(place)[1]] for place, (path, *_) in enumerate(self.files)],
                label="Examples",
                type="index",
                elem_id="examples",
                visible=len(self.examples) > 1,
            )
            self._events()
        blocks.queue(max_size=QUEUE, default_concurrency_limit=1)
        return blocks

    # Inputs ------------------------------------------------------------------------------------------------------

    def _left(self) -> None:
        self.inputs = Inputs(self.handlers, self._values(0) if self.examples else (None, "", "", None))
        with gr.Row():
            self.go = gr.Button("Edit", variant="primary", elem_id="go")
            self.cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
        self.status = gr.HTML(show.status("Ready."), elem_id="status")
        self.inputs.add_settings()

    def _scales(self) -> list[str]:
        """Settings of the first system that a grid can be over: guidance first, then other numbers."""
        controls = self.handlers.controls[self.handlers.systems[0].name]
        names = [control.name for control in controls if control.kind == "number" and control.value is not None]
        return sorted(names, key=lambda name: not name.endswith("guidance_scale"))

    def _grid_inputs(self) -> None:
        scales = self._scales()
        down, across = [*scales, *scales, ""][:2] if len(scales) == 1 else [*scales, "", ""][:2]
        gr.Markdown("The same edit by the first system, under every pair of two settings' values.")
        with gr.Row():
            self.down = gr.Dropdown(scales, value=down, label="From top to bottom", min_width=140)
            self.down_values = gr.Textbox("1.5, 2.5, 5", label="Values", max_lines=1, min_width=140)
        with gr.Row():
            self.across = gr.Dropdown(scales, value=across, label="From left to right", min_width=140)
            self.across_values = gr.Textbox("1, 1.5, 2", label="Values", max_lines=1, min_width=140)
        self.draw = gr.Button("Draw the grid", elem_id="draw")
        self.cells = gr.HTML("", elem_id="cells")

    # Events ------------------------------------------------------------------------------------------------------

    def _events(self) -> None:
        inputs, asked = self.inputs, [*self.inputs.asked, self.history]
        buttons, shared = [self.go, self.draw, self.cancel], [self.status, self.history, self.past, self.pack]
        once: dict[str, Any] = {
            "show_progress": "minimal",
            "show_progress_on": self.status,
            "concurrency_id": "model",
            "concurrency_limit": 1,
        }
        hidden: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        places = [self.results, *shared], [self.cells, *shared]
        begun = gr.on([self.go.click, inputs.instruction.submit], _begin, None, [self.status, *buttons], **hidden)
        edited = begun.then(self._edit, [*asked, *inputs.settings], places[0], api_name="edit", **once)
        edited.then(_end, None, buttons, **hidden)
        grid = [self.down, self.down_values, self.across, self.across_values]
        begun = self.draw.click(_begin, None, [self.status, *buttons], **hidden)
        drawn = begun.then(self._grid, [*grid, *asked, *inputs.settings], places[1], api_name="grid", **once)
        drawn.then(_end, None, buttons, **hidden)
        self.cancel.click(
            self._stop,
            None,
            [self.status, *buttons],
            cancels=[edited, drawn],
            queue=False,
            show_progress="hidden",
            api_name="cancel",
        )
        self.pack.click(self.handlers.pack, self.history, self.pack, **hidden)
        filled = [inputs.picture, inputs.instruction, inputs.description, inputs.attachments]
        inputs.follow_settings()
        self.choice.click(self._values, self.choice, filled, **hidden)

    def _edit(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        *asked, history = values[:10]
        found = self.handlers.edit(_visitor(request), Asked(*asked, values[10:]), history)
        for line, results, kept in found:
            shown = gr.skip() if results is None else show.cards(results)
            yield shown, line, *_kept(kept, history)

    def _grid(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        (down, down_values, across, across_values), (*asked, history) = values[:4], values[4:14]
        try:
            rows, columns = _numbers("From top to bottom", down_values), _numbers("From left to right", across_values)
        except RequestError as error:
            yield gr.skip(), show.status(str(error), "bad"), *_kept(history, history)
            return
        found = self.handlers.grid(
            _visitor(request), Asked(*asked, values[14:]), history, (down, rows), (across, columns)
        )
        names = [f"{number:g}" for number in rows], [f"{number:g}" for number in columns]
        for line, results, kept in found:
            cells = gr.skip() if results is None else show.grid(results, down, names[0], across, names[1])
            yield cells, line, *_kept(kept, history)

    def _stop(self, request: gr.Request) -> tuple[Any, ...]:
        self.handlers.desk.stop(_visitor(request))
        return show.status("Stopped."), *_end()

    # Examples ----------------------------------------------------------------------------------------------------

    def _values(self, number: int) -> Values:
        """An example as these systems take it."""
        example, (picture, *attached) = self.examples[number], self.files[number]
        needs = [system.needs for system in self.handlers.systems]
        reads_picture = any(one.reads_picture for one in needs)
        text = example.instruction if reads_picture else example.caption
        described = example.description if any(one.needs_description for one in needs) else ""
        return picture if reads_picture else None, text, described, attached or None

    def _written(self, example: Example, number: int) -> list[str]:
        """Files of an example: its picture, then what is attached."""
        folder = self.handlers.root / "examples" / str(number)
        folder.mkdir(parents=True)
        assert example.picture is not None  # those without serve no system
        contents = [("picture.png", png(example.picture))]
        contents += [(f"{place}.{suffix}", data) for place, (_, suffix, data) in enumerate(example.attachments)]
        for name, data in contents:
            (folder / name).write_bytes(data)
        return [str(folder / name) for name, _ in contents]


def theme() -> Any:
    """Calm, in fonts of the visitor's own."""
    sans, mono = FONTS
    found = gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=sans, font_mono=mono)
    # as it is, such texts have a contrast of 2.6 on white; WCAG asks for 4.5
    return found.set(body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500")


def _begin() -> tuple[Any, ...]:
    return show.status("Waiting for the model.", "busy"), *_buttons(idle=False)


def _end() -> tuple[Any, ...]:
    return _buttons(idle=True)


def _buttons(idle: bool) -> tuple[Any, ...]:
    return gr.update(interactive=idle), gr.update(interactive=idle), gr.update(visible=not idle)


def _kept(new: Sequence[Any], old: Sequence[Any]) -> tuple[Any, ...]:
    """History, its HTML and the button below it; nothing where nothing is new."""
    if len(new) == len(old) and new == old:
        return gr.skip(), gr.skip(), gr.skip()
    return list(new), show.history(new), gr.update(visible=bool(new))


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash or secrets.token_hex(16))  # who has none can be stopped by nobody


def _numbers(name: str, text: str) -> list[float]:
    """Numbers of a line like "1, 2.5"."""
    try:
        found = [float(word) for word in re.split(r"[,\s]+", text.strip()) if word]
    except ValueError as error:
        raise RequestError(f"{name}: {text[:80]!r} are no numbers; write them like 1, 2.5, 5.") from error
    if not found:
        raise RequestError(f"{name}: there are no values; write some like 1, 2.5, 5.")
    return found

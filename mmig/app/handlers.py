"""What happens on a click: from values of the page to requests, to results, to HTML. Knows nothing of the layout."""

import logging
import secrets
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from mmig.app import show
from mmig.app.asking import (
    LARGEST_SEED,
    LARGEST_SIDE,
    MOST_CELLS,
    MOST_RESULTS,
    EditRequest,
    RequestError,
    check_settings,
    check_text,
    check_whole,
    in_words,
)
from mmig.app.controls import Control, changed, controls_of
from mmig.app.examples import Examples
from mmig.app.results import Result, make_result
from mmig.app.systems import System
from mmig.app.uploads import forget, keep_attachments, keep_picture
from mmig.app.work import Desk, Step
from mmig.base.watching import Stopped

logger = logging.getLogger(__name__)
PAUSE = 0.1
"""Least seconds between two news of one edit."""
MOST_KEPT = 60
"""Results of a visit whose files are kept."""
Update = tuple[str, list[Result] | None, list[Result]]
"""Status; results to show, None for those that are shown; the visit's history."""


@dataclass(frozen=True)
class Asked:
    """Values of the page, as they come."""

    picture: str | None
    instruction: str
    description: str
    attachments: Sequence[Any] | None
    systems: Sequence[str]
    seed: float
    results: float
    resolution: float | None
    attention: bool
    settings: Sequence[Any]


class Handlers:
    """One for a running page.

    Args:
        systems: what edits.
        examples: with the judge.
        root: folder of everything that is kept.
    """

    def __init__(self, systems: Sequence[System], examples: Examples, root: Path) -> None:
        self.systems, self.examples, self.root, self.desk = systems, examples, root, Desk()
        self.controls: dict[str, list[Control]] = {system.name: controls_of(system.editor) for system in systems}

    def edit(self, visitor: str, asked: Asked, history: list[Result]) -> Iterator[Update]:
        """Edit by all chosen systems under as many seeds as asked for."""
        folder = self._folder()

        def tasks() -> list[partial[Result]]:
            count = check_whole("Results", asked.results, 1, MOST_RESULTS)
            requests = self._requests(asked, folder)
            return [
                partial(
                    make_result,
                    system,
                    replace(request, seed=request.seed + number),
                    folder,
                    folder / f"{place}-{number}",
                )
                for number in range(count)
                for place, (system, request) in enumerate(requests)
            ]

        yield from self._made(visitor, tasks, history)

    def grid(
        self, visitor: str, asked: Asked, history: list[Result], down: tuple[str, list[float]], across: Any
    ) -> Iterator[Update]:
        """Edit by the first chosen system under all pairs of two settings' values, row by row.

        Args:
            visitor, asked, history: as of `edit`.
            down, across: name of a setting and its values each.
        """
        folder = self._folder()

        def tasks() -> list[partial[Result]]:
            if down[0] == across[0]:
                raise RequestError(f"Grid: both sides are {down[0]}; choose another setting for one of them.")
            if len(down[1]) * len(across[1]) > MOST_CELLS:
                raise RequestError(
                    f"Grid: {len(down[1])} × {len(across[1])} edits are more than {MOST_CELLS}; give fewer values."
                )
            system, request = self._requests(asked, folder)[0]
            pairs = [{down[0]: first, across[0]: second} for first in down[1] for second in across[1]]
            return [
                partial(make_result, system, self._set(request, system, pair), folder, folder / f"cell-{number}")
                for number, pair in enumerate(pairs)
            ]

        yield from self._made(visitor, tasks, history)

    def pack(self, history: Sequence[Result]) -> str | None:
        """All results of a visit in one archive; None where there are none."""
        kept = [result for result in history if result.archive.is_file()]
        if not kept:
            return None
        path = self._folder() / "edits.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as whole:
            for number, result in enumerate(kept, 1):
                with zipfile.ZipFile(result.archive) as one:
                    for name in one.namelist():
                        whole.writestr(f"{number:03d}/{name}", one.read(name))
        return str(path)

    def leave(self, history: Sequence[Result]) -> None:
        """Forget a visit."""
        forget([result.folder.parent for result in history])

    def _made(self, visitor: str, tasks: Any, history: list[Result]) -> Iterator[Update]:
        """Do what is asked for; what cannot be done, and every other end, is a sentence."""
        step: Step[Result] | None = None
        last, shown = 0.0, -1
        try:
            found = [partial(task, examples=self.examples) for task in tasks()]
            yield show.status("Waiting for the model.", "busy"), [], history
            for step in self.desk.do(visitor, found):
                if (now := time.monotonic()) - last > PAUSE or len(step.made) > shown:
                    last = now
                    yield show.progress(step), list(step.made) if len(step.made) > shown else None, history
                    shown = len(step.made)
        except Stopped:
            yield show.status(_stopped(step)), list(step.made) if step else [], self._with(history, step)
        except (ValueError, OSError) as error:
            logger.info("refused: %s", error)
            yield show.status(in_words(error), "bad"), list(step.made) if step else [], self._with(history, step)
        else:
            made = list(step.made) if step else []
            seconds = sum(result.seconds for result in made)
            count = "Done" if len(made) == 1 else f"{len(made)} edits are done"
            yield show.status(f"{count}, in {seconds:.1f} s."), made, self._with(history, step)

    def _with(self, history: list[Result], step: Step[Result] | None) -> list[Result]:
        """The history with what is new; the oldest results are forgotten."""
        whole = [*history, *(step.made if step else ())]
        forget([result.folder for result in whole[:-MOST_KEPT]])
        return whole[-MOST_KEPT:]

    def _requests(self, asked: Asked, folder: Path) -> list[tuple[System, EditRequest]]:
        """What each chosen system is asked, with the files that it is about put into a folder.

        Raises:
            RequestError: a value that cannot be used.
        """
        chosen = [system for system in self.systems if system.name in asked.systems] or list(self.systems[:1])
        instruction, description = (
            check_text("Instruction", asked.instruction or ""),
            check_text("Description", asked.description or ""),
        )
        seed = check_whole("Seed", asked.seed, 0, LARGEST_SEED)
        has_side = asked.resolution not in (None, 0)
        side = check_whole("Resolution", asked.resolution, 16, LARGEST_SIDE) if has_side else None
        folder.mkdir(parents=True)
        picture = keep_picture(asked.picture, folder, "source", "Picture") if asked.picture else None
        attachments = keep_attachments(asked.attachments, folder)
        common = EditRequest(instruction, description, picture, attachments, seed)
        found, values = [], list(asked.settings)
        for system in self.systems:
            controls = self.controls[system.name]
            own, values = values[: len(controls)], values[len(controls) :]
            if system in chosen:
                attention = bool(asked.attention) and system.shows_attention
                resolution = side or _limit(system, folder, picture)
                request = replace(common, resolution=resolution, attention=attention)
                found.append((system, self._set(request, system, changed(controls, own))))
        return found

    def _set(self, request: EditRequest, system: System, settings: dict[str, Any]) -> EditRequest:
        check_settings(settings)
        return replace(request, settings={**request.settings, **settings})

    def _folder(self) -> Path:
        """A new place, whose name nobody can guess: whoever knows it may read what lies there."""
        return self.root / "visits" / secrets.token_urlsafe(16)


def _limit(system: System, folder: Path, picture: str | None) -> int | None:
    """The largest resolution, for a system that has none of its own and a picture that is larger; else None."""
    if picture is None or system.opened.resolution is not None:
        return None
    with Image.open(folder / picture) as header:
        return LARGEST_SIDE if max(header.size) > LARGEST_SIDE else None


def _stopped(step: Step[Result] | None) -> str:
    if step is None or step.progress is None or not step.progress.count:
        return "Stopped."
    return f"Stopped at step {step.progress.done} of {step.progress.count}."

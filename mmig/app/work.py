"""Edits one after another in a thread of their own, which can be watched and stopped between two steps."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

from mmig.base.watching import Progress, Stopped, watching

Made = TypeVar("Made")


@dataclass(frozen=True)
class Step(Generic[Made]):
    """News of a piece of work.

    Attributes:
        task: number of the task that is going on, from 0.
        tasks: how many there are.
        progress: where its loop is; None before it has told.
        made: what the finished tasks gave.
    """

    task: int
    tasks: int
    progress: Progress | None
    made: tuple[Made, ...]


class Desk:
    """One worker for all visitors: models are not made to be called by two threads at once.

    Whoever asks waits for its turn; what a visitor has begun, that visitor alone can stop.
    """

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="edit")
        self._stops: dict[str, set[threading.Event]] = {}
        self._guard = threading.Lock()

    def do(self, visitor: str, tasks: Sequence[Callable[[], Made]]) -> Iterator[Step[Made]]:
        """Do the tasks in order; news after each step. Closing the iterator stops them.

        Args:
            visitor: who asks, for `stop`.
            tasks: called in the worker's thread.

        Raises:
            Stopped: the visitor has stopped it.
            Exception: what a task raises.
        """
        news: SimpleQueue[Step[Made] | None] = SimpleQueue()
        stop, made = threading.Event(), list[Made]()

        def hear(progress: Progress) -> None:
            if stop.is_set():
                raise Stopped
            news.put(Step(len(made), len(tasks), progress, tuple(made)))

        def work() -> None:
            with watching(hear):
                for number, task in enumerate(tasks):
                    if stop.is_set():
                        raise Stopped
                    news.put(Step(number, len(tasks), None, tuple(made)))
                    made.append(task())

        with self._known(visitor, stop):
            future = self._worker.submit(work)
            future.add_done_callback(lambda _: news.put(None))
            try:
                while (step := news.get()) is not None:
                    yield step
                future.result()
                yield Step(len(tasks), len(tasks), None, tuple(made))
            except CancelledError as error:
                raise Stopped from error
            finally:
                stop.set()
                future.cancel()

    def stop(self, visitor: str) -> bool:
        """Stop all that a visitor has begun, between two steps; whether there was anything."""
        with self._guard:
            stops = [*self._stops.get(visitor, ())]
        for stop in stops:
            stop.set()
        return bool(stops)

    @property
    def busy(self) -> bool:
        """Whether anything is asked for or going on."""
        with self._guard:
            return any(self._stops.values())

    def close(self) -> None:
        """Stop everything, and wait for the step that is going on."""
        for visitor in [*self._stops]:
            self.stop(visitor)
        self._worker.shutdown(cancel_futures=True)

    @contextmanager
    def _known(self, visitor: str, stop: threading.Event) -> Iterator[None]:
        """Inside, a visitor's stop is on the list."""
        with self._guard:
            self._stops.setdefault(visitor, set()).add(stop)
        try:
            yield
        finally:
            with self._guard:
                self._stops[visitor].discard(stop)
                if not self._stops[visitor]:
                    del self._stops[visitor]

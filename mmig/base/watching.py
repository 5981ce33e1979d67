"""Long loops that somebody outside can watch and stop, whatever lies between: `watching` outside, `steps` inside.

An editor is called through `Editor.__call__`, whose arguments know nothing of loops, and some methods have several of
them. So who watches is a variable of the context (`contextvars`): of this thread and of what it calls, of no other.
Without a watcher a loop is what it would be without `steps`.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Progress:
    """Where a loop is.

    Attributes:
        what: the loop, in a word or two, as "denoising".
        done: steps that are finished, from 0 to `count`.
        count: steps in all; None where nobody knows before the end.
    """

    what: str
    done: int
    count: int | None


class Stopped(Exception):  # noqa: N818  # what happens, not what went wrong
    """Raised by a watcher to end the loop between two of its steps; editors let it pass."""


Watcher = Callable[[Progress], None]
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Loops inside tell `watcher` before each step, and after the last. What it raises ends them there."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def tell(what: str, done: int, count: int | None = None) -> None:
    """Say where a loop is, to whoever watches."""
    if (watcher := _watcher.get()) is not None:
        watcher(Progress(what, done, count))


def steps(what: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items of a loop, one a step.

    Args:
        what: see `Progress`.
        items: what the loop runs over.
    """
    count = len(items) if isinstance(items, Sized) else None
    done = 0
    for item in items:
        tell(what, done, count)
        yield item
        done += 1
    tell(what, done, count)

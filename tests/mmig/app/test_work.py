"""The desk: one piece of work after another, stopped between two steps by whoever asked, and by nobody else."""

from collections.abc import Callable, Iterator
from threading import Event, Thread

import pytest

from mmig.app.work import Desk
from mmig.base.watching import Progress, Stopped, steps


@pytest.fixture
def desk() -> Iterator[Desk]:
    found = Desk()
    yield found
    found.close()


def counting(done: list[int], name: int = 0, count: int = 3) -> Callable[[], int]:
    def task() -> int:
        for step in steps("counting", range(count)):
            done.append(step)
        return name

    return task


def test_tasks_are_done_in_order_with_news_of_every_step(desk: Desk) -> None:
    news = list(desk.do("a", [counting([], 7), counting([], 8)]))
    assert news[-1].made == (7, 8)
    told = [(one.task, one.progress.done) for one in news if one.progress is not None]
    assert told == [(task, done) for task in (0, 1) for done in range(4)]
    assert news[1].progress == Progress("counting", 0, 3)
    assert not desk.busy


def test_a_visitor_stops_the_loop_between_two_steps(desk: Desk) -> None:
    done: list[int] = []
    held = Event()

    def task() -> None:
        for step in steps("counting", range(1_000)):
            done.append(step)
            if step == 4:
                held.set()
                stopped.wait()

    stopped = Event()
    found = desk.do("a", [task, counting([])])
    assert next(found) is not None
    held.wait()
    assert desk.stop("a")
    stopped.set()
    with pytest.raises(Stopped):
        list(found)
    assert done == [0, 1, 2, 3, 4]
    assert not desk.busy


def test_nobody_else_stops_it(desk: Desk) -> None:
    found = desk.do("a", [counting([], 5)])
    next(found)
    assert not desk.stop("b")
    assert list(found)[-1].made == (5,)


def test_who_waits_can_be_stopped_too(desk: Desk) -> None:
    begun, go_on, done = Event(), Event(), list[int]()

    def long() -> int:
        begun.set()
        go_on.wait()
        return 1

    first = Thread(target=lambda: done.extend(list(desk.do("a", [long]))[-1].made))
    first.start()
    begun.wait()
    seen: list[int] = []
    raised: list[bool] = []

    def wait() -> None:
        try:
            list(desk.do("b", [counting(seen)]))
        except Stopped:
            raised.append(True)

    second = Thread(target=wait)
    second.start()
    while not desk.stop("b"):
        assert second.is_alive()
    go_on.set()
    first.join()
    second.join()
    assert (done, seen, raised) == ([1], [], [True])


def test_closing_the_news_stops_the_work(desk: Desk) -> None:
    done: list[int] = []
    found = desk.do("a", [counting(done, count=10**9)])
    next(found)
    next(found)
    found.close()
    assert not desk.busy
    assert list(desk.do("b", [counting([], 2)]))[-1].made == (2,)  # the worker is free again
    assert len(done) < 10**9


def test_what_a_task_raises_comes_out_and_the_next_one_is_served(desk: Desk) -> None:
    def broken() -> None:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        list(desk.do("a", [broken]))
    assert list(desk.do("a", [counting([], 3)]))[-1].made == (3,)

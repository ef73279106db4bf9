"""A thread that executes tasks one after another, with at most one large task waiting."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

Task = Callable[[], None]


@dataclass(frozen=True)
class _Waiting:
    task: Task
    is_large: bool


def has_ended(thread: threading.Thread, timeout: float) -> bool:
    """Whether a thread has ended within `timeout` seconds, or was never started."""
    if thread.ident is not None:
        thread.join(timeout)
    return not thread.is_alive()


class Writer:
    """Executes tasks in the order in which they were added.

    A large task holds a clip's frames in memory: `hand_over` waits until the large task before it is finished, so that
    beside the frames that are being written at most one other clip's frames exist.
    A task must not raise: the thread then ends, `ended` is called, and the tasks that wait are dropped.
    """

    def __init__(self, name: str, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._changed = threading.Condition()
        self._tasks: deque[_Waiting] = deque()
        self._at_work: _Waiting | None = None
        self._closed = False
        self._dead = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread. Once per writer."""
        self._thread.start()

    def hand_over(self, task: Task, taken: Callable[[], None]) -> bool:
        """Add a large task once there is no other, calling `taken` then. Returns False if the thread ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._dead or not self._has_large_task())
            if self._dead:
                return False
            taken()
            self._add(_Waiting(task, is_large=True))
            return True

    def add(self, task: Task) -> None:
        """Add a small task. Without effect if the thread ended."""
        with self._changed:
            self._add(_Waiting(task, is_large=False))

    def drain(self) -> None:
        """Wait until all tasks are finished or the thread has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._dead or (not self._tasks and self._at_work is None))

    def close(self) -> None:
        """Let the thread end after the last task: no further one will be added."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended within `timeout` seconds, or was never started."""
        return has_ended(self._thread, timeout)

    def _has_large_task(self) -> bool:
        inside = (*self._tasks, *(() if self._at_work is None else (self._at_work,)))
        return any(waiting.is_large for waiting in inside)

    def _add(self, waiting: _Waiting) -> None:
        self._tasks.append(waiting)
        self._changed.notify_all()

    def _loop(self) -> None:
        try:
            while self._next():
                pass
        finally:
            with self._changed:
                self._dead = True
                self._tasks.clear()
                self._changed.notify_all()
            self._ended()

    def _next(self) -> bool:
        """Executes one task; False when none will come."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._tasks) or self._closed)
            if not self._tasks:
                return False
            self._at_work = self._tasks.popleft()
        self._at_work.task()
        with self._changed:
            self._at_work = None
            self._changed.notify_all()
        return True

"""The thread that does what comes after a render, task after task; it knows no clip, job or file."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

Task = Callable[[], None]


@dataclass(frozen=True)
class _Waiting:
    task: Task
    is_heavy: bool


class Writer:
    """Does tasks in the order in which they came, while the one who gave them goes on.

    A heavy task holds a clip's frames: `hand_over` waits until the one before is done, so that beside the frames that
    are being written there are at most those of the clip that waits to be handed over.
    A task must not raise: then the thread ends, `ended` is called, and what waits is not done.
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
        self._thread.start()

    def hand_over(self, task: Task, taken: Callable[[], None]) -> bool:
        """Adds a heavy task, once there is no other; `taken` is called as it is added. False if the thread is dead."""
        with self._changed:
            self._changed.wait_for(lambda: self._dead or not self._is_heavy_inside())
            if self._dead:
                return False
            taken()
            self._add(_Waiting(task, is_heavy=True))
            return True

    def add(self, task: Task) -> None:
        """Adds a task that holds nothing large. Without effect when the thread is dead."""
        with self._changed:
            self._add(_Waiting(task, is_heavy=False))

    def drain(self) -> None:
        """Returns when all tasks are done, or the thread is dead."""
        with self._changed:
            self._changed.wait_for(lambda: self._dead or (not self._tasks and self._at_work is None))

    def close(self) -> None:
        """No further task will come: the thread ends after the last."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended, or never began."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _is_heavy_inside(self) -> bool:
        inside = (*self._tasks, *(() if self._at_work is None else (self._at_work,)))
        return any(waiting.is_heavy for waiting in inside)

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
        """Does one task; False when none will come."""
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

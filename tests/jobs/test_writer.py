"""The thread after a render: tasks in order, one heavy one at a time, and nobody left waiting when it dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.fakes import PATIENCE, Gate
from wan_ui.jobs.writer import Writer


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def after(seen: list[str]) -> Iterator[Writer]:
    after = Writer("after", lambda: seen.append("ended"))
    after.start()
    yield after
    after.close()
    assert after.join(PATIENCE)


def held(seen: list[str], name: str, gate: Gate) -> Callable[[], None]:
    def work() -> None:
        seen.append(f"{name} begins")
        gate.hold()
        seen.append(f"{name} done")

    return work


def test_a_second_heavy_task_is_taken_when_the_first_is_done(after: Writer, seen: list[str]) -> None:
    gate, other = Gate(), Gate()
    assert after.hand_over(held(seen, "first", gate), lambda: seen.append("first taken"))
    gate.await_arrival()
    after.add(lambda: seen.append("light"))  # waits for none
    giver = threading.Thread(
        target=lambda: after.hand_over(held(seen, "second", other), lambda: seen.append("second taken"))
    )
    giver.start()
    gate.open()
    other.await_arrival()
    giver.join(PATIENCE)
    other.open()
    after.drain()
    assert sorted(seen, key=lambda one: one == "light") == [
        "first taken", "first begins", "first done", "second taken", "second begins", "second done", "light",
    ]  # fmt: skip
    assert seen.index("first done") < seen.index("light") < seen.index("second begins")


def test_what_was_added_is_done_before_the_end(seen: list[str]) -> None:
    after = Writer("after", lambda: seen.append("ended"))
    for number in range(5):
        after.add(lambda number=number: seen.append(str(number)))  # type: ignore[misc]
    after.close()
    assert after.join(PATIENCE)  # it has not begun
    after.start()
    assert after.join(PATIENCE)
    assert seen == [*"01234", "ended"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_died(after: Writer, seen: list[str]) -> None:
    def dies() -> None:
        raise KeyError("a bug")

    assert after.hand_over(dies, lambda: None)
    after.add(lambda: seen.append("never"))
    after.drain()
    assert not after.hand_over(lambda: seen.append("never"), lambda: seen.append("never"))
    assert after.join(PATIENCE)
    assert seen == ["ended"]

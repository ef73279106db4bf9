"""Notifications at a job's end, to a real HTTP server that fails, answers late, and restarts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fakes import PATIENCE, FakeRender, Gate, fake_write_video
from tests.jobs.supervised import add
from tests.ports import reserve_port
from tests.waiting import wait_until
from wan_ui.jobs.notifier import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, Notifier, RetryTimes, signature
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker

SECRET = "a secret of the operator"
QUICK = RetryTimes(answer=PATIENCE, first=0.01, largest=0.05, drop_after=3600, poll=0.005)


@dataclass
class Receiver:
    """An HTTP server. `answers` are the statuses it gives, 200 afterwards; it waits at `gate` before an answer."""

    port: int
    answers: list[int] = field(default_factory=list)
    gate: Gate | None = None
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def of(self, job_id: str) -> list[dict[str, object]]:
        """The notifications about one job, as JSON."""
        bodies = [json.loads(body) for body in self.bodies]
        return [body for body in bodies if body["request_id"] == job_id]

    @contextmanager
    def serving(self) -> Iterator[None]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.headers.append(dict(self.headers))
                receiver.bodies.append(body)
                if receiver.gate is not None:
                    receiver.gate.hold()
                try:
                    self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                    self.send_header("content-length", "0")
                    self.end_headers()
                except ConnectionError:
                    pass  # the sender did not wait

            def log_message(self, format: str, *args: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            if self.gate is not None:
                self.gate.open()
            server.shutdown()
            server.server_close()


@pytest.fixture
def receiver() -> Receiver:
    return Receiver(reserve_port())


@contextmanager
def notifying(
    store: Store, receiver: Receiver, times: RetryTimes = QUICK, clock: Callable[[], float] = time.time
) -> Iterator[Notifier]:
    notifier = Notifier(store, f"http://127.0.0.1:{receiver.port}/hook", SECRET, times, clock)
    notifier.start()
    yield notifier
    assert notifier.stop(PATIENCE)


def ended(store: Store, seed: int = 1) -> str:
    """A job that succeeds at once."""
    job = add(store, seed)
    assert store.claim_next() == job.id
    assert store.finish(job.id, "succeeded") == "succeeded"
    return job.id


def outbox(store: Store) -> int:
    count: int = store.rows("SELECT count(*) AS waiting FROM notifications", {})[0]["waiting"]
    return count


def test_each_end_is_sent_once_and_signed(store: Store, receiver: Receiver) -> None:
    before = ended(store, 9)  # no address was given then
    with receiver.serving(), notifying(store, receiver):
        succeeded, failed, canceled = ended(store), add(store, 2).id, add(store, 3).id
        assert store.claim_next() == failed
        store.finish(failed, "failed", {"code": "X", "message": "secret prompt", "details": {}})
        store.request_cancel(canceled)
        wait_until(lambda: len(receiver.bodies) == 3 and outbox(store) == 0)
    for job_id, status, started in (
        (succeeded, "succeeded", True),
        (failed, "failed", True),
        (canceled, "canceled", False),
    ):
        (body,) = receiver.of(job_id)
        seconds = body.pop("seconds")
        assert body == {"request_id": job_id, "status": status, "model": "wan21_1b"}
        assert (isinstance(seconds, float) and 0 <= seconds < PATIENCE) if started else seconds is None
    assert receiver.of(before) == []
    for sent, headers in zip(receiver.bodies, receiver.headers, strict=True):
        assert headers[SIGNATURE_HEADER] == "sha256=" + signature(SECRET, headers[TIMESTAMP_HEADER], sent)
        assert abs(int(headers[TIMESTAMP_HEADER]) - time.time()) < PATIENCE
    assert len({headers[ID_HEADER] for headers in receiver.headers}) == 3


def test_a_receiver_that_fails_gets_it_again(store: Store, receiver: Receiver) -> None:
    receiver.answers = [500, 404, 302]
    with receiver.serving(), notifying(store, receiver):
        job_id = ended(store)
        wait_until(lambda: len(receiver.bodies) == 4 and outbox(store) == 0)
    assert len({tuple(sorted(body.items())) for body in receiver.of(job_id)}) == 1
    assert len({headers[ID_HEADER] for headers in receiver.headers}) == 1


def test_a_receiver_that_restarts_gets_what_it_missed(store: Store, receiver: Receiver) -> None:
    with notifying(store, receiver):
        first, second = ended(store), ended(store, 2)
        wait_until(lambda: store.rows("SELECT max(attempts) AS most FROM notifications", {})[0]["most"] >= 2)
        with receiver.serving():
            wait_until(lambda: outbox(store) == 0)
    assert len(receiver.of(first)) == 1 and len(receiver.of(second)) == 1


def test_a_receiver_that_answers_late_blocks_neither_the_queue_nor_the_stop(
    store: Store, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.gate = Gate()
    worker = Worker(store, FakeRender(), tmp_path / "clips", fake_write_video)
    notifier = Notifier(store, f"http://127.0.0.1:{receiver.port}/", SECRET, RetryTimes(answer=PATIENCE, poll=0.005))
    with receiver.serving():
        notifier.start()
        worker.start()
        jobs = [add(store, seed).id for seed in (1, 2, 3)]
        worker.wake()
        receiver.gate.await_arrival()
        assert all(worker.wait(job_id, PATIENCE) for job_id in jobs)
        assert worker.stop()
        assert not notifier.stop(0.01)  # it still waits for the answer, and nobody waits for it
        assert outbox(store) == 3
        receiver.gate.open()
        assert notifier.stop(PATIENCE)


def test_an_answer_that_comes_too_late_is_not_waited_for(store: Store, receiver: Receiver) -> None:
    receiver.gate = Gate()
    short = RetryTimes(answer=0.2, first=0.01, largest=0.05, poll=0.005)
    with receiver.serving(), notifying(store, receiver, short):
        ended(store)
        wait_until(lambda: len(receiver.bodies) >= 2)
        receiver.gate.open()
        wait_until(lambda: outbox(store) == 0)
    assert len({headers[ID_HEADER] for headers in receiver.headers}) == 1


def test_what_was_not_sent_is_sent_after_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    store = Store(tmp_path / "kept.sqlite")
    with notifying(store, receiver):
        job_id = ended(store)
        wait_until(lambda: store.rows("SELECT attempts FROM notifications", {})[0]["attempts"] >= 1)
    store.close()
    again = Store(tmp_path / "kept.sqlite")
    with receiver.serving(), notifying(again, receiver):
        wait_until(lambda: outbox(again) == 0)
    again.close()
    assert [body["status"] for body in receiver.of(job_id)] == ["succeeded"]


def test_after_an_hour_it_is_given_up(store: Store, receiver: Receiver) -> None:
    receiver.answers = [500] * 1000
    now = [time.time()]
    with receiver.serving(), notifying(store, receiver, clock=lambda: now[0]):
        ended(store)
        wait_until(lambda: len(receiver.bodies) >= 1)
        wait_until(lambda: store.rows("SELECT attempts FROM notifications", {})[0]["attempts"] >= 1)
        now[0] += 3601
        wait_until(lambda: outbox(store) == 0)
    assert len(receiver.bodies) == 2


def test_the_pauses_grow_within_an_hour() -> None:
    times = RetryTimes()
    pauses = [times.pause(attempts) for attempts in range(1, 20)]
    assert pauses[:4] == [2, 4, 8, 16] and pauses[-1] == 600 and times.pause(10**6) == 600
    attempts = next(count for count in range(1, 20) if sum(pauses[:count]) > times.drop_after)
    assert 10 <= attempts <= 15


def test_the_documented_verification_accepts_only_what_is_genuine() -> None:
    text = (Path(__file__).parents[2] / "docs" / "running.md").read_text(encoding="utf-8")
    names: dict[str, Callable[[str, dict[str, str], bytes], bool]] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    body, now = b'{"status": "failed"}', str(int(time.time()))
    headers = {TIMESTAMP_HEADER: now, SIGNATURE_HEADER: f"sha256={signature(SECRET, now, body)}"}
    is_genuine = names["is_genuine"]
    assert is_genuine(SECRET, headers, body)
    assert not is_genuine(SECRET, headers, body + b" ")
    assert not is_genuine("another secret!!", headers, body)
    assert not is_genuine(SECRET, {**headers, TIMESTAMP_HEADER: str(int(now) - 400)}, body)

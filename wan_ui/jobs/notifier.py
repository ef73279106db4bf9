"""Posts a small signed JSON to the operator's address at each job's end, from an outbox in the job database.

A trigger puts a notification into the outbox in the statement that ends its job, so that none is lost or made up. A
thread sends what is in the outbox; it shares nothing with the queue but the database.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from wan_ui.errors import HostError
from wan_ui.jobs.store import Store
from wan_ui.jobs.writer import has_ended

log = logging.getLogger(__name__)

TIMESTAMP_HEADER = "X-Wan-UI-Timestamp"
SIGNATURE_HEADER = "X-Wan-UI-Signature"
ID_HEADER = "X-Wan-UI-Notification"
AT_ONCE = 50  # notifications read from the outbox at a time
_FINAL = "('succeeded', 'failed', 'canceled')"
# A temporary trigger lives as long as this process's connection: without an address nothing is put into the outbox.
_ON_END = f"""
    CREATE TEMP TRIGGER IF NOT EXISTS job_ended AFTER UPDATE OF status ON jobs
    WHEN NEW.status IN {_FINAL} AND OLD.status NOT IN {_FINAL} BEGIN
        INSERT INTO notifications (job_id, status, model, seconds, ended_at)
        VALUES (
            NEW.id, NEW.status, json_extract(NEW.generations, '$[0].model'),
            round((julianday(NEW.finished_at) - julianday(NEW.started_at)) * 86400, 3),
            (julianday(NEW.finished_at) - 2440587.5) * 86400
        );
    END
"""


@dataclass(frozen=True)
class RetryTimes:
    """Seconds. `answer`: until an answer must have come. `first` to `largest`: pauses, each twice the one before.

    A notification that could not be sent until `drop_after` after its job's end is dropped.
    """

    answer: float = 10.0
    first: float = 2.0
    largest: float = 600.0
    drop_after: float = 3600.0
    poll: float = 0.5

    def pause(self, attempts: int) -> float:
        """How long to wait after so many attempts, at least one."""
        return float(min(self.largest, self.first * 2 ** min(attempts - 1, 30)))


@dataclass(frozen=True)
class Notification:
    """One job's end. `seconds` from its start, None if it never started; `ended_at` in Unix seconds."""

    id: int
    job_id: str
    status: str
    model: str
    seconds: float | None
    ended_at: float
    attempts: int

    @property
    def body(self) -> bytes:
        """The JSON that is sent: no prompt and no path."""
        fields = {"request_id": self.job_id, "status": self.status, "model": self.model, "seconds": self.seconds}
        return json.dumps(fields).encode()


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over `<timestamp>.<body>` in hexadecimal digits."""
    return hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


class Notifier:
    """Sends the notifications of a store to `url`, signed with `secret`, on a thread of its own.

    Jobs that end after the constructor are notified, those ended by the recovery of a killed server included. A
    notification is sent at least once: a receiver that answered too late gets it again with the same ID_HEADER.
    """

    def __init__(
        self,
        store: Store,
        url: str,
        secret: str,
        times: RetryTimes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._url = url
        self._secret = secret
        self._times = times or RetryTimes()
        self._clock = clock
        self._stopping = threading.Event()
        self._resume_at = 0.0  # the receiver cannot be reached before
        self._thread = threading.Thread(target=self._run, name="wan-ui-notifier", daemon=True)
        store.rows(_ON_END, {})

    def start(self) -> None:
        """Start the thread. Once per notifier."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Stop sending; what is left stays in the outbox. Returns whether the thread ended within `timeout` seconds."""
        self._stopping.set()
        return has_ended(self._thread, timeout)

    def _run(self) -> None:
        changes = -1
        next_due = 0.0
        with httpx.Client(timeout=self._times.answer, follow_redirects=False) as client:
            while not self._stopping.is_set():
                now = self._clock()
                if now >= self._resume_at and (self._store.changes != changes or now >= next_due):
                    try:
                        next_due = self._send_due(client)
                        changes = self._store.changes
                    except HostError as error:  # of the database: it is tried again like a silent receiver
                        log.error("%s Notifications wait.", error.message)
                        self._resume_at = now + self._times.first
                self._stopping.wait(self._times.poll)

    def _send_due(self, client: httpx.Client) -> float:
        """Sends what is due, oldest first, and returns when the next one is."""
        for notification in self._due():
            if self._stopping.is_set():
                break
            problem, unreachable = self._send(client, notification)
            if problem is None:
                self._store.rows("DELETE FROM notifications WHERE id = :id", {"id": notification.id})
                continue
            self._postpone(notification, problem)
            if unreachable:  # the others would not arrive either
                self._resume_at = self._clock() + self._times.pause(notification.attempts + 1)
                break
        due: float | None = self._store.rows("SELECT min(due_at) AS due FROM notifications", {})[0]["due"]
        return self._clock() + self._times.largest if due is None else due

    def _due(self) -> list[Notification]:
        rows = self._store.rows(
            """
            SELECT id, job_id, status, model, seconds, ended_at, attempts FROM notifications
            WHERE due_at <= :now ORDER BY id LIMIT :most
            """,
            {"now": self._clock(), "most": AT_ONCE},
        )
        return [Notification(*row) for row in rows]

    def _send(self, client: httpx.Client, notification: Notification) -> tuple[str | None, bool]:
        """The reason why a notification was not accepted, None if it was, and whether nobody answered at all."""
        body, timestamp = notification.body, str(int(self._clock()))
        headers = {
            "Content-Type": "application/json",
            ID_HEADER: str(notification.id),
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: f"sha256={signature(self._secret, timestamp, body)}",
        }
        try:
            status = client.post(self._url, content=body, headers=headers).status_code
        except httpx.HTTPError as error:
            return type(error).__name__, True
        return (None, False) if 200 <= status < 300 else (f"status {status}", False)

    def _postpone(self, notification: Notification, problem: str) -> None:
        attempts, now = notification.attempts + 1, self._clock()
        about = {"request_id": notification.job_id, "attempts": attempts, "reason": problem}
        due = now + self._times.pause(attempts)
        if due > notification.ended_at + self._times.drop_after:
            log.warning("the notification is given up", extra=about)
            self._store.rows("DELETE FROM notifications WHERE id = :id", {"id": notification.id})
            return
        log.info("the notification was not accepted", extra=about)
        self._store.rows(
            "UPDATE notifications SET attempts = :attempts, due_at = :due WHERE id = :id",
            {"id": notification.id, "attempts": attempts, "due": due},
        )

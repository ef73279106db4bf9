"""Two guests, the owner and a program use the API in random order: nobody sees or changes what is another's.

The sample in the suite is fixed; `WAN_UI_STATES=2000 pytest tests/api/test_stateful.py` runs as many sequences.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle as Jobs
from hypothesis.stateful import RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from hypothesis.stateful import run_state_machine_as_test as run_sequences

from tests.web.strangers import BODY, Server, running
from wan_ui.access import LOCAL_ACCESS

pytestmark = pytest.mark.slow

SEQUENCES = int(os.environ.get("WAN_UI_STATES", "6"))
EACH, ALL = 4, 9
GUESTS = ("one", "other")
READS = ("status", "result", "sheet.png", "judging", "checklist")
TWO: dict[str, Any] = {**BODY, "prompts": [*BODY["prompts"], {"prompt": "a second garden", "num_frames": 5}]}
GRID: dict[str, Any] = {**BODY, "compare": {"columns": {"field": "seed", "values": [1, 2]}}}


class People:
    """The callers: a client each, and what the server knows a guest as."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.server = server
        self.clients = {
            "one": stack.enter_context(server.browser()),
            "other": stack.enter_context(server.browser()),
            "owner": stack.enter_context(server.owner()),
        }
        self.visitors = {name: server.visitor_of(self.clients[name]) for name in self.clients}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("stateful")
    limits = {"max_waiting": ALL, "max_waiting_each": EACH}
    with running("plain", folder, auth=("user", "a-long-password"), **limits) as server, ExitStack() as stack:
        yield People(server, stack)


class Sequence(RuleBasedStateMachine):
    """Jobs are (id, name of who sent it); `state` says what each of them is: waiting, canceled, done or deleted."""

    people: People
    jobs = Jobs("jobs")
    anybody = st.sampled_from(("one", "other", "owner"))

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, str] = {}
        self.sender: dict[str, str] = {}

    def ask(self, who: str, method: str, path: str, **arguments: Any) -> httpx.Response:
        reply = self.people.clients[who].request(method, f"/v1{path}", **arguments)
        assert reply.status_code < 500, f"{who}: {method} {path}: {reply.status_code} {reply.text[:500]}"
        return reply

    def waiting(self, who: str | None = None) -> list[str]:
        """The waiting jobs, of one sender or of all, in the order in which they were sent."""
        return [job for job, state in self.state.items() if state == "waiting" and who in (None, self.sender[job])]

    def may(self, who: str, job: str) -> bool:
        return who in ("owner", self.sender[job]) and self.state[job] != "deleted"

    @initialize(target=jobs)
    def nothing_yet(self) -> Any:
        return multiple()

    @rule(target=jobs, who=anybody, body=st.sampled_from((BODY, TWO, GRID)))
    def send(self, who: str, body: dict[str, Any]) -> Any:
        reply = self.ask(who, "POST", "/inference", json=body)
        full = len(self.waiting()) >= ALL or len(self.waiting(who)) >= EACH  # a limit that is given is the owner's too
        assert reply.status_code == (429 if full else 200), reply.text
        if full:
            return multiple()
        job = reply.json()["request_id"]
        self.state[job], self.sender[job] = "waiting", who
        return job

    @rule(target=jobs, who=st.sampled_from(GUESTS))
    def have_rendered(self, who: str) -> Any:
        if len(self.waiting()) >= ALL or len(self.waiting(who)) >= EACH:
            return multiple()
        job = self.people.server.finished_job(self.people.visitors[who])
        self.state[job], self.sender[job] = "done", who
        return job

    @rule(who=anybody, job=jobs, what=st.sampled_from(READS))
    def read(self, who: str, job: str, what: str) -> None:
        reply = self.ask(who, "GET", f"/requests/{job}/{what}")
        if not self.may(who, job):
            assert reply.status_code == 404, f"{who} reads {what} of {self.sender[job]}: {reply.text[:300]}"
        elif what in ("status", "result"):
            assert reply.status_code == 200, reply.text

    @rule(who=anybody, job=jobs)
    def watch(self, who: str, job: str) -> None:
        reply = self.ask(who, "GET", f"/requests/{job}/videos/0")
        there = self.may(who, job) and self.state[job] == "done"
        assert reply.status_code == (200 if there else 404), reply.text

    @rule(who=anybody, job=jobs)
    def cancel(self, who: str, job: str) -> None:
        reply = self.ask(who, "DELETE", f"/requests/{job}")
        assert reply.status_code == (200 if self.may(who, job) else 404), reply.text
        if reply.status_code == 200 and self.state[job] == "waiting":
            self.state[job] = "canceled"

    @rule(who=anybody, job=jobs)
    def keep(self, who: str, job: str) -> None:
        reply = self.ask(who, "PATCH", f"/gallery/{job}-0", json={"kept": False})
        there = self.may(who, job) and self.state[job] == "done"
        assert reply.status_code == (200 if there else 404), reply.text

    @rule(who=anybody, job=consumes(jobs))
    def delete(self, who: str, job: str) -> None:
        reply = self.ask(who, "DELETE", f"/gallery/{job}-0")
        there = self.may(who, job) and self.state[job] == "done"
        assert reply.status_code == (204 if there else 404), reply.text
        if there:
            self.state[job] = "deleted"

    @rule(who=st.sampled_from(GUESTS), job=jobs)
    def share(self, who: str, job: str) -> None:
        reply = self.ask(who, "POST", "/shares", json={"entry_id": f"{job}-0"})
        assert reply.status_code in (403, 404, 422), reply.text
        assert self.ask(who, "GET", "/shares").status_code in (403, 404)

    @rule(who=anybody, text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
    def guess(self, who: str, text: str) -> None:
        segment = quote(text, safe="").replace(".", "%2E")
        for path in (f"/requests/{segment}/result", f"/gallery/{segment}", f"/requests/{segment}/videos/0"):
            assert self.ask(who, "GET", path).status_code in (404, 422), path

    @invariant()
    def a_gallery_shows_a_guest_nothing_of_others(self) -> None:
        done = {f"{job}-0" for job, state in self.state.items() if state == "done"}
        for who in GUESTS:
            listed = {entry["id"] for entry in self.ask(who, "GET", "/gallery").json()["entries"]}
            mine = {entry for entry in done if self.sender[entry.removesuffix("-0")] == who}
            assert listed == mine, f"{who}: {listed ^ mine}"

    @invariant()
    def the_newest_job_is_there_for_whom_it_belongs_to(self) -> None:
        for job in list(self.state)[-1:]:
            for who in GUESTS:
                self.read(who, job, "status")

    @invariant()
    def the_queue_has_each_waiting_job_once(self) -> None:
        queue = self.people.server.services.service.queue(LOCAL_ACCESS)
        assert {job.id for job in queue} == set(self.waiting())
        assert sorted(job.position or 0 for job in queue) == list(range(1, len(queue) + 1))

    def teardown(self) -> None:
        for job in self.people.server.services.service.queue(LOCAL_ACCESS):
            reply = self.ask("owner", "DELETE", f"/requests/{job.id}")
            assert reply.status_code == 200, reply.text
        for job_id in [job_id for job_id, state in self.state.items() if state == "done"]:
            reply = self.ask("owner", "DELETE", f"/gallery/{job_id}-0")
            assert reply.status_code == 204, reply.text


def test_nobody_sees_or_changes_what_is_anothers(people: People) -> None:
    Sequence.people = people
    run_sequences(Sequence, settings=settings(max_examples=SEQUENCES, stateful_step_count=20))

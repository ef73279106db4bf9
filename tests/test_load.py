"""A hundred clients and forty pages at once: no job lost or doubled, no failure of the server, no answer slow for long.

tests/test_app.py has a sample of it, which measures no time. Times are judged where others leave it the processor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.load import PATIENCE, in_a_loop_of_its_own, load, nothing_lost_or_doubled
from tests.test_app import App

pytestmark = pytest.mark.slow
MEGABYTE = 1e6
QUIET = 0.25  # of the processor's time that others may use for the times to say something of this server
# What keeps one from filling the line, raised above all jobs of a run.
CAPS = ("--max-waiting", "2000", "--max-waiting-each", "2000")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(tmp_path / "data", "--demo", *CAPS)
    app.wait_for("Ready on ")
    yield app
    app.process.kill()
    app.process.wait()


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds of the processors' time so far: of all processes, of the server, and of this program with its clients."""

    machine: float
    server: float
    clients: float

    @classmethod
    def now(cls, app: App) -> ProcessorTime:
        machine = psutil.cpu_times()
        server, own = psutil.Process(app.process.pid).cpu_times(), psutil.Process().cpu_times()
        busy = sum(machine) - machine.idle - machine.iowait
        return cls(busy, server.user + server.system, own.user + own.system)

    def shares_since(self, before: ProcessorTime, seconds: float) -> tuple[float, float, float]:
        """What the server, the clients and all others used of the machine's processors."""
        server, clients = self.server - before.server, self.clients - before.clients
        others = self.machine - before.machine - server - clients
        whole = seconds * (psutil.cpu_count() or 1)
        return server / whole, clients / whole, others / whole


@pytest.mark.soak
@pytest.mark.timeout(2 * PATIENCE)
def test_a_hundred_clients_with_ten_jobs_each_while_forty_pages_poll(app: App, tmp_path: Path) -> None:
    begun, before = time.monotonic(), ProcessorTime.now(app)
    busy, idle = in_a_loop_of_its_own(load(app, clients=100, jobs=10, pages=40, probes=150))
    after, seconds = ProcessorTime.now(app), time.monotonic() - begun
    server, clients, others = after.shares_since(before, seconds)
    answers = sum(busy.answers.values()) + sum(idle.answers.values())
    each = 1e3 * (after.server - before.server) / answers
    grown = (busy.memory[1000] - busy.memory[200]) / MEGABYTE
    print(
        f"\n1,000 jobs in {seconds:.0f} s; of the processors the server used {server:.0%}, the clients {clients:.0%}, "
        f"others {others:.0%}; {answers} answers, {each:.0f} ms of the server's time for each, renders included; "
        f"{len(busy.looks)} looks; "
        f"status p95 {busy.p95() * 1e3:.0f} ms of {len(busy.probes)} while rendering, {idle.p95() * 1e3:.0f} ms of "
        f"{len(idle.probes)} idle; memory {busy.memory[200] / MEGABYTE:.0f} MB at 200 jobs, {grown:+.1f} MB at 1,000"
    )
    nothing_lost_or_doubled(app, busy, tmp_path / "data")
    assert set(busy.answers) | set(idle.answers) == {200}
    assert grown < 50
    if others < QUIET:
        assert busy.p95() <= 0.25
        assert idle.p95() <= 0.1

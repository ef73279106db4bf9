"""A hundred clients and forty pages at once: no job lost or doubled, no failure of the server, no answer slow for long.

tests/test_app.py has a sample of it, which measures no time. Times are judged where others leave it the processor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
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


def processor_seconds(app: App) -> tuple[float, float]:
    """The processor's time in all so far, and what this server and this program used of it."""
    machine, server, own = psutil.cpu_times(), psutil.Process(app.process.pid).cpu_times(), psutil.Process().cpu_times()
    return sum(machine) - machine.idle - machine.iowait, server.user + server.system + own.user + own.system


@pytest.mark.soak
@pytest.mark.timeout(2 * PATIENCE)
def test_a_hundred_clients_with_ten_jobs_each_while_forty_pages_poll(app: App, tmp_path: Path) -> None:
    begun, (before, ours_before) = time.monotonic(), processor_seconds(app)
    busy, idle = in_a_loop_of_its_own(load(app, clients=100, jobs=10, pages=40, probes=150))
    after, ours_after = processor_seconds(app)
    seconds = time.monotonic() - begun
    others = (after - before - ours_after + ours_before) / seconds / (psutil.cpu_count() or 1)
    grown = (busy.memory[1000] - busy.memory[200]) / MEGABYTE
    print(
        f"\n1,000 jobs in {seconds:.0f} s, others used {others:.0%} of the processor; "
        f"{sum(busy.answers.values())} answers; "
        f"status p95 {busy.p95() * 1e3:.0f} ms of {len(busy.probes)} while rendering, {idle.p95() * 1e3:.0f} ms of "
        f"{len(idle.probes)} idle; memory {busy.memory[200] / MEGABYTE:.0f} MB at 200 jobs, {grown:+.1f} MB at 1,000"
    )
    nothing_lost_or_doubled(app, busy, tmp_path / "data")
    assert set(busy.answers) | set(idle.answers) == {200}
    assert grown < 50
    if others < QUIET:
        assert busy.p95() <= 0.25
        assert idle.p95() <= 0.1

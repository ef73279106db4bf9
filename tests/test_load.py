"""A hundred clients and forty pages at once: no job lost or doubled, no failure of the server, no answer slow for long.

The ordinary run is a tenth of it and measures no time; scripts/soak runs it whole.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.test_app import App
from wan_ui.media import video

TINY = {"width": 64, "height": 64, "num_frames": 1, "sample_steps": 1}
pytestmark = pytest.mark.slow
PATIENCE = 1800.0  # seconds
PAGE_SECONDS = 1.0  # a page's poll, see ui/pulse.js
PROBE_SECONDS = 0.1
MEGABYTE = 1e6
# What keeps one from filling the line, raised above all jobs of a run.
CAPS = ("--max-waiting", "2000", "--max-waiting-each", "2000")


@dataclass
class Seen:
    """What the clients saw: request ids with their seeds, answers by status, seconds of the status probes."""

    ids: dict[str, int] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    probes: list[float] = field(default_factory=list)
    memory: dict[int, int] = field(default_factory=dict)

    def p95(self) -> float:
        return statistics.quantiles(self.probes, n=20)[-1]


async def answer(seen: Seen, client: httpx.AsyncClient, method: str, url: str, **more: Any) -> Any:
    reply = await client.request(method, url, **more)
    seen.answers[reply.status_code] += 1
    assert reply.status_code == 200, reply.text
    return reply.json()


async def submitting(seen: Seen, client: httpx.AsyncClient, number: int, jobs: int) -> None:
    for job in range(jobs):
        seed = number * jobs + job
        body = {"model": "wan21_1b", "prompts": [{"prompt": f"client {number}", **TINY, "seed": seed}]}
        said = await answer(seen, client, "POST", "/v1/inference", json=body)
        assert said["request_id"] not in seen.ids
        seen.ids[said["request_id"]] = seed


async def page_polling(seen: Seen, client: httpx.AsyncClient, dependency: dict[str, Any], session: str) -> None:
    """What an open page does, every second, for as long as it is open."""
    body = {
        "data": [None] * len(dependency["inputs"]),
        "fn_index": dependency["id"],
        "session_hash": session,
        "event_data": None,
        "trigger_id": dependency["targets"][0][0],
    }
    await asyncio.sleep(random.Random(session).random() * PAGE_SECONDS)
    last = None
    while True:
        pulse = (await answer(seen, client, "GET", "/v1/pulse"))["pulse"]
        if pulse != last:
            await answer(seen, client, "POST", "/gradio_api/run/predict", json=body)
        last = pulse
        await asyncio.sleep(PAGE_SECONDS)


async def probing(seen: Seen, client: httpx.AsyncClient) -> None:
    """Asks for the status of one request after another and notes the seconds of each answer."""
    picks = random.Random(0)
    while True:
        if seen.ids:
            begun = time.perf_counter()
            await answer(seen, client, "GET", f"/v1/requests/{picks.choice(list(seen.ids))}/status")
            seen.probes.append(time.perf_counter() - begun)
        await asyncio.sleep(PROBE_SECONDS)


async def until_done(seen: Seen, app: App, client: httpx.AsyncClient, total: int) -> None:
    """Waits for the end of all requests, and notes the server's memory at each hundred."""
    server, deadline = psutil.Process(app.process.pid), time.monotonic() + PATIENCE
    while True:
        metrics = (await client.get("/metrics")).text
        done = int(float(metrics.split('wan_ui_jobs{status="succeeded"} ')[1].split("\n")[0]))
        seen.memory.setdefault(done // 100 * 100, server.memory_info().rss)
        if done >= total:
            return
        assert time.monotonic() < deadline, metrics
        await asyncio.sleep(0.5)


async def load(app: App, clients: int, jobs: int, pages: int, probes: int) -> tuple[Seen, Seen]:
    """All of it at once; what was seen until the last job was done, and what then, with only the pages left.

    The latter by so many probes.
    """
    busy, idle = Seen(), Seen()
    # Shorter than the server keeps an idle connection: else one may end just as the next request goes out on it.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{app.port}", timeout=60, trust_env=False, limits=limits
    ) as client:
        config = (await client.get("/config")).json()
        look = next(event for event in config["dependencies"] if event["api_name"] == "on_look")
        async with asyncio.TaskGroup() as group:
            endless = [
                group.create_task(page_polling(busy, client, look, f"page{number:03}")) for number in range(pages)
            ]
            probe = group.create_task(probing(busy, client))
            submitters = [group.create_task(submitting(busy, client, number, jobs)) for number in range(clients)]
            await asyncio.wait(submitters)
            await until_done(busy, app, client, clients * jobs)
            probe.cancel()
            idle.ids.update(busy.ids)
            endless.append(group.create_task(probing(idle, client)))
            while len(idle.probes) < probes:
                await asyncio.sleep(PROBE_SECONDS)
            for task in endless:
                task.cancel()
    return busy, idle


def nothing_lost_or_doubled(app: App, seen: Seen, data_dir: Path) -> None:
    """Each request that was answered for is one job with its own seed's one clip, and there is no other."""
    with sqlite3.connect(data_dir / "jobs.sqlite") as rows:
        jobs = rows.execute("SELECT id, status FROM jobs").fetchall()
        clips = rows.execute("SELECT job_id, seed, file FROM clips").fetchall()
    assert Counter(status for _, status in jobs) == {"succeeded": len(seen.ids)}
    assert {job_id for job_id, _ in jobs} == set(seen.ids)
    assert sorted((job_id, seed) for job_id, seed, _ in clips) == sorted(seen.ids.items())
    files = {f"clips/{path.name}" for path in (data_dir / "clips").iterdir() if path.suffix == ".mp4"}
    assert files == {file for _, _, file in clips}
    for file in random.Random(0).sample(sorted(files), 10):
        assert video.probe(data_dir / file)[:3] == (64, 64, 1)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(tmp_path / "data", "--demo", *CAPS)
    app.wait_for("Ready on ")
    yield app
    app.process.kill()
    app.process.wait()


def in_a_loop_of_its_own(work: Coroutine[Any, Any, tuple[Seen, Seen]]) -> tuple[Seen, Seen]:
    """Runs it in a thread: a browser of another test may hold this one's event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def test_a_tenth_of_the_load(app: App, tmp_path: Path) -> None:
    busy, idle = in_a_loop_of_its_own(load(app, clients=10, jobs=10, pages=4, probes=10))
    nothing_lost_or_doubled(app, busy, tmp_path / "data")
    assert set(busy.answers) | set(idle.answers) == {200}


@pytest.mark.soak
@pytest.mark.timeout(2 * PATIENCE)
def test_a_hundred_clients_with_ten_jobs_each_while_forty_pages_poll(app: App, tmp_path: Path) -> None:
    begun = time.monotonic()
    busy, idle = in_a_loop_of_its_own(load(app, clients=100, jobs=10, pages=40, probes=150))
    grown = (busy.memory[1000] - busy.memory[200]) / MEGABYTE
    print(
        f"\n1,000 jobs in {time.monotonic() - begun:.0f} s; {sum(busy.answers.values())} answers; "
        f"status p95 {busy.p95() * 1e3:.0f} ms of {len(busy.probes)} while rendering, {idle.p95() * 1e3:.0f} ms of "
        f"{len(idle.probes)} idle; memory {busy.memory[200] / MEGABYTE:.0f} MB at 200 jobs, {grown:+.1f} MB at 1,000"
    )
    nothing_lost_or_doubled(app, busy, tmp_path / "data")
    assert set(busy.answers) | set(idle.answers) == {200}
    assert busy.p95() <= 0.25
    assert idle.p95() <= 0.1
    assert grown < 50

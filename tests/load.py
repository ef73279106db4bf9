"""Many clients and pages at once on a running server, and what must be true of its jobs afterwards.

test_app.py runs a sample of the load beside its other tests; test_load.py, in scripts/soak, all of it with its times.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from wan_ui.media import video

if TYPE_CHECKING:
    from tests.test_app import App

PROMPT = "client"  # begins the prompts of all clients
TINY = {"width": 64, "height": 64, "num_frames": 1, "sample_steps": 1}
PATIENCE = 1800.0  # seconds
PAGE_SECONDS = 1.0  # a page's poll, see ui/pulse.js
PROBE_SECONDS = 0.1


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
        body = {"model": "wan21_1b", "prompts": [{"prompt": f"{PROMPT} {number}", **TINY, "seed": seed}]}
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


async def succeeded(client: httpx.AsyncClient) -> int:
    """How many of the server's jobs have succeeded."""
    metrics = (await client.get("/metrics")).text
    return int(float(metrics.split('wan_ui_jobs{status="succeeded"} ')[1].split("\n")[0]))


async def until_done(seen: Seen, app: App, client: httpx.AsyncClient, total: int) -> None:
    """Waits until so many jobs have succeeded, and notes the server's memory at each hundred."""
    server, deadline = psutil.Process(app.process.pid), time.monotonic() + PATIENCE
    while True:
        done = await succeeded(client)
        seen.memory.setdefault(done // 100 * 100, server.memory_info().rss)
        if done >= total:
            return
        assert time.monotonic() < deadline, f"{done} of {total}"
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
        config, before = (await client.get("/config")).json(), await succeeded(client)
        look = next(event for event in config["dependencies"] if event["api_name"] == "on_look")
        async with asyncio.TaskGroup() as group:
            endless = [
                group.create_task(page_polling(busy, client, look, f"page{number:03}")) for number in range(pages)
            ]
            probe = group.create_task(probing(busy, client))
            submitters = [group.create_task(submitting(busy, client, number, jobs)) for number in range(clients)]
            await asyncio.wait(submitters)
            await until_done(busy, app, client, before + clients * jobs)
            probe.cancel()
            idle.ids.update(busy.ids)
            endless.append(group.create_task(probing(idle, client)))
            while len(idle.probes) < probes:
                await asyncio.sleep(PROBE_SECONDS)
            for task in endless:
                task.cancel()
    return busy, idle


def nothing_lost_or_doubled(app: App, seen: Seen, data_dir: Path) -> None:
    """Each request that was answered for is one job with its own seed's one clip, and clients sent no other."""
    with sqlite3.connect(data_dir / "jobs.sqlite") as rows:
        jobs = rows.execute("SELECT id, status FROM jobs WHERE request LIKE ?", (f'%"{PROMPT} %',)).fetchall()
        clips = rows.execute("SELECT job_id, seed, file FROM clips").fetchall()
    assert Counter(status for _, status in jobs) == {"succeeded": len(seen.ids)}
    assert {job_id for job_id, _ in jobs} == set(seen.ids)
    assert sorted((job_id, seed) for job_id, seed, _ in clips if job_id in seen.ids) == sorted(seen.ids.items())
    files = {f"clips/{path.name}" for path in (data_dir / "clips").iterdir() if path.suffix == ".mp4"}
    assert files == {file for _, _, file in clips}
    for file in random.Random(0).sample(sorted(file for job_id, _, file in clips if job_id in seen.ids), 10):
        assert video.probe(data_dir / file)[:3] == (64, 64, 1)


def in_a_loop_of_its_own(work: Coroutine[Any, Any, tuple[Seen, Seen]]) -> tuple[Seen, Seen]:
    """Runs it in a thread: a browser of another test may hold this one's event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()

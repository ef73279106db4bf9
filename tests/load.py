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
from contextlib import AsyncExitStack
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
LOOK_SECONDS = 0.4  # between two looks of a page, see EVERY in ui/static/look.js
PROBE_SECONDS = 0.1


@dataclass
class Seen:
    """What the clients saw: ids of requests with their seeds, answers by status, seconds of status probes and looks."""

    ids: dict[str, int] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    probes: list[float] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
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


class SimulatedPage:
    """What an open page asks for: tests/ui/test_page_traffic.py compares it with a browser's.

    It reads the event stream, looks whenever the jobs have changed, and sends back what it was shown before, so that
    the server leaves out what has stayed the same. Its videos and posters it does not load.
    """

    def __init__(self, seen: Seen, client: httpx.AsyncClient, config: Any, session: str) -> None:
        self._seen = seen
        self._client = client
        self._session = session
        self._due = asyncio.Event()
        dependencies = config["dependencies"]
        self.look = next(event for event in dependencies if event["api_name"] == "on_look")
        props = {component["id"]: component["props"] for component in config["components"]}
        self._types = {component["id"]: component["type"] for component in config["components"]}
        self.values: dict[int, Any] = {name: each.get("value") for name, each in props.items()}
        # What the page was shown before, which the choice of a finished job sends too.
        pick = next(event for event in dependencies if event["api_name"] == "on_pick")
        self.known = next(name for name in pick["inputs"] if self._types[name] == "json")

    async def live(self) -> None:
        """Opens the page and keeps it open."""
        await self._client.get("/")  # a browser of its own, with its own cookie
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            while True:
                await self._due.wait()
                self._due.clear()
                begun = time.monotonic()
                await self._look_once()
                await asyncio.sleep(max(0.0, begun + LOOK_SECONDS - time.monotonic()))

    async def _listen(self) -> None:
        async with self._client.stream("GET", "/v1/events", timeout=None) as stream:
            assert stream.status_code == 200
            async for line in stream.aiter_lines():
                if line == "event: jobs":
                    self._due.set()

    async def _look_once(self) -> None:
        # The values of `gr.State` stay on the server.
        sent = [None if self._types[name] == "state" else self.values[name] for name in self.look["inputs"]]
        body = {
            "data": sent,
            "fn_index": self.look["id"],
            "session_hash": self._session,
            "event_data": {},
            "trigger_id": self.look["targets"][0][0],
        }
        begun = time.perf_counter()
        reply = await answer(self._seen, self._client, "POST", "/gradio_api/run/predict", json=body)
        self._seen.looks.append(time.perf_counter() - begun)
        for name, value in zip(self.look["outputs"], reply["data"], strict=True):
            if not isinstance(value, dict) or value.get("__type__") != "update":
                self.values[name] = value
            elif "value" in value:
                self.values[name] = value["value"]


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
    async with AsyncExitStack() as opened:

        async def browser() -> httpx.AsyncClient:
            address = f"http://127.0.0.1:{app.port}"
            client = httpx.AsyncClient(base_url=address, timeout=60, trust_env=False, limits=limits)
            return await opened.enter_async_context(client)

        client = await browser()
        config, before = (await client.get("/config")).json(), await succeeded(client)
        async with asyncio.TaskGroup() as group:
            shown = [SimulatedPage(busy, await browser(), config, f"page{number:03}") for number in range(pages)]
            endless = [group.create_task(page.live()) for page in shown]
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

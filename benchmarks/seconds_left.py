"""Seconds left against the truth: `python -m benchmarks.seconds_left [--jobs N] [--seed N]`.

Starts the demo's server on the CPU, renders each size once so that it is known, then real jobs of mixed sizes, models
and numbers of videos, and asks for their status all the while. Prints for each job what was said when a quarter of its
time had passed, what was true, and their ratio; then how many of the jobs were within a fifth. The machine's load is
printed beside each job, for the estimate learns from jobs before it: where the load changes, the ratio does too.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.ports import reserve_port

PART = 0.25  # of a job's time, at which its estimate is read
WITHIN = 0.2  # of the truth
ASK_EVERY = 0.05  # seconds
START_SECONDS, JOB_SECONDS = 300.0, 600.0
MODELS = ("wan21_1b", "wan22_5b")
SIZES = ((64, 64, 9), (96, 96, 17), (128, 128, 17))
STEPS = (8, 16, 24)


@dataclass(frozen=True)
class Reading:
    """Seconds since the job was sent, the seconds left that were said then, and whether they are marked rough."""

    at: float
    left: float
    about: bool


@dataclass(frozen=True)
class JobResult:
    """How long a job took, and the reading nearest to a quarter of that."""

    seconds: float
    reading: Reading
    load: float

    @property
    def ratio(self) -> float:
        """What was said, over the truth."""
        return self.reading.left / (self.seconds - self.reading.at)


def body(model: str, size: tuple[int, int, int], steps: int, videos: int, seed: int) -> dict[str, Any]:
    """A request for so many videos of one size."""
    width, height, frames = size
    prompt = {"width": width, "height": height, "num_frames": frames, "sample_steps": steps, "guidance_scale": 2.0}
    prompts = [{**prompt, "prompt": f"a red circle {index}", "seed": seed + index} for index in range(videos)]
    return {"model": model, "prompts": prompts}


def run(client: httpx.Client, request: dict[str, Any]) -> JobResult:
    """Sends a request and follows it to its end."""
    load, readings = os.getloadavg()[0], []
    job = client.post("/v1/inference", json=request).raise_for_status().json()["request_id"]
    began = time.perf_counter()
    while (now := time.perf_counter() - began) < JOB_SECONDS:
        status = client.get(f"/v1/requests/{job}/status").raise_for_status().json()
        progress = status.get("progress") or {}
        if progress.get("seconds_left") is not None:
            readings.append(Reading(now, progress["seconds_left"], progress["about"]))
        if status["status"] not in ("in_queue", "in_progress"):
            if status["status"] != "succeeded":
                raise SystemExit(f"The job ended as {status['status']}: {status}")
            return JobResult(now, min(readings, key=lambda reading: abs(reading.at - PART * now)), load)
        time.sleep(ASK_EVERY)
    raise SystemExit(f"A job took longer than {JOB_SECONDS:g} s.")


def wait_until_ready(client: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    """Returns when the engine is built."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            if client.get("/v1/health").json()["status"] == "ready":
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("The server did not start.")


def measure(client: httpx.Client, jobs: int, draws: random.Random) -> list[JobResult]:
    """The results of `jobs` jobs, each size having been rendered once before."""
    for model in MODELS:
        for size in SIZES:
            first = run(client, body(model, size, STEPS[0], 1, seed=1))
            print(f"first of {model} {size}: {first.seconds:.1f} s", flush=True)
    results = []
    print("| model | size | steps × videos | seconds | said at a quarter | true | said ÷ true | load |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for number in range(jobs):
        model, size = draws.choice(MODELS), draws.choice(SIZES)
        steps, videos = draws.choice(STEPS), draws.choice((1, 1, 3))
        result = run(client, body(model, size, steps, videos, seed=100 * number))
        results.append(result)
        true = result.seconds - result.reading.at
        print(
            f"| {model} | {'×'.join(map(str, size))} | {steps} × {videos} | {result.seconds:.1f} | "
            f"{result.reading.left:.1f} | {true:.1f} | {result.ratio:.2f} | {result.load:.0f} |",
            flush=True,
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Path(folder, "server.log").open("wb") as log:
        port = reserve_port()
        flags = ["--demo", "--device", "cpu", "--port", str(port), "--data-dir", str(Path(folder, "data"))]
        server = subprocess.Popen([sys.executable, "-m", "wan_ui", *flags], stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                wait_until_ready(client, server)
                results = measure(client, options.jobs, random.Random(options.seed))
        finally:
            server.terminate()
            server.wait()
    near = sum(abs(result.ratio - 1) <= WITHIN for result in results)
    print(f"{near} of {len(results)} within {WITHIN:.0%}")


if __name__ == "__main__":
    main()

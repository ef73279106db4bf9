"""Seconds left against the truth: `python -m benchmarks.seconds_left [--jobs N] [--seed N]`.

Renders each size once on the demo's models on the CPU, so that it is known, then real jobs of mixed sizes, models and
numbers of videos through the server's own queue, and asks for the seconds left all the while. Prints for each job what
was said when a quarter of its time had passed, what was true, and their ratio; then how many of the jobs were within a
fifth. The machine's load is printed beside each job, for the estimate learns from jobs before it: where the load
changes, the ratio does too.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_ui.access import LOCAL_ACCESS
from wan_ui.compose import Services, compose
from wan_ui.config import Settings
from wan_ui.demo.checkpoints import ensure
from wan_ui.job import FINAL
from wan_ui.server import build_engine

PART = 0.25  # of a job's time, at which its estimate is read
WITHIN = 0.2  # of the truth
ASK_EVERY = 0.05  # seconds
JOB_SECONDS = 600.0  # at most
MODELS = ("wan21_1b", "wan22_5b")
SIZES = ((64, 64, 9), (96, 96, 17), (128, 128, 17))
STEPS = (8, 16, 24)


@dataclass(frozen=True)
class Reading:
    """Seconds since the job was sent, and the seconds left that were said then."""

    at: float
    left: float


@dataclass(frozen=True)
class JobResult:
    """How long a job took, the reading nearest to a quarter of that, and the machine's load when it was sent."""

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


def run(services: Services, request: dict[str, Any]) -> JobResult:
    """Sends a request and follows it to its end."""
    service, load, readings = services.service, os.getloadavg()[0], []
    job = service.submit(request, LOCAL_ACCESS)
    began = time.perf_counter()
    while (now := time.perf_counter() - began) < JOB_SECONDS:
        outlook = service.outlook(job.id)
        if outlook is not None and outlook.seconds_left is not None:
            readings.append(Reading(now, outlook.seconds_left))
        if (state := services.store.job(job.id)).status in FINAL:
            if state.status != "succeeded":
                raise SystemExit(f"The job ended as {state.status}: {state.error}")
            return JobResult(now, min(readings, key=lambda reading: abs(reading.at - PART * now)), load)
        time.sleep(ASK_EVERY)
    raise SystemExit(f"A job took longer than {JOB_SECONDS:g} s.")


def measure(services: Services, jobs: int, draws: random.Random) -> list[JobResult]:
    """The results of `jobs` jobs, each size having been rendered once before."""
    for model in MODELS:
        for size in SIZES:
            first = run(services, body(model, size, STEPS[0], 1, seed=1))
            print(f"first of {model} {size}: {first.seconds:.1f} s", flush=True)
    results = []
    print("| model | size | steps × videos | seconds | said at a quarter | true | said ÷ true | load |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for number in range(jobs):
        model, size = draws.choice(MODELS), draws.choice(SIZES)
        steps, videos = draws.choice(STEPS), draws.choice((1, 1, 3))
        result = run(services, body(model, size, steps, videos, seed=100 * number))
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
    with tempfile.TemporaryDirectory() as folder:
        demo = ensure(Path(folder, "demo"))
        data = Path(folder, "data")
        data.mkdir()
        settings = Settings(models_dir=demo.models_dir, lora_dir=demo.lora_dir, device="cpu", data_dir=data)
        services = compose(settings)
        services.engine.set_result(build_engine(settings, services.service.library))
        services.start()
        services.worker.start()
        try:
            results = measure(services, options.jobs, random.Random(options.seed))
        finally:
            services.close()
    near = sum(abs(result.ratio - 1) <= WITHIN for result in results)
    print(f"{near} of {len(results)} within {WITHIN:.0%}")


if __name__ == "__main__":
    main()

"""Seconds left against the truth: `python -m benchmarks.seconds_left [--jobs N] [--seed N]`.

Renders each size once on the demo's models on the CPU, so that it is known, then real jobs of mixed sizes, models and
numbers of videos through the server's own queue, and asks for the seconds left all the while. Prints for each job what
was said when a quarter of its time had passed, what was true, and their ratio; then how many of the jobs were within a
fifth. An estimate learns from the jobs before it, so where other programs take a changing share of the CPU, the clock
is wrong about it: what was true is also given at the share that the earlier jobs of that size had, and judged by that
when `--at-equal-share` is given.
"""

from __future__ import annotations

import argparse
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
STEPS = (16, 32, 48)


@dataclass(frozen=True)
class Reading:
    """Seconds since the job was sent, the seconds of CPU that it took so far, and the seconds left that were said."""

    at: float
    cpu: float
    left: float


@dataclass(frozen=True)
class JobResult:
    """How long a job took by the clock and in seconds of CPU, and the reading nearest to a quarter of that."""

    seconds: float
    cpu: float
    reading: Reading

    @property
    def share(self) -> float:
        """Seconds of CPU that it had in each second."""
        return self.cpu / self.seconds

    @property
    def true(self) -> float:
        """Seconds that were left at the reading, by the clock."""
        return self.seconds - self.reading.at

    def true_at(self, share: float) -> float:
        """Seconds that would have been left at the reading with such a share of the CPU from then on."""
        return (self.cpu - self.reading.cpu) / share


def body(model: str, size: tuple[int, int, int], steps: int, videos: int, seed: int) -> dict[str, Any]:
    """A request for so many videos of one size."""
    width, height, frames = size
    prompt = {"width": width, "height": height, "num_frames": frames, "sample_steps": steps, "guidance_scale": 2.0}
    prompts = [{**prompt, "prompt": f"a red circle {index}", "seed": seed + index} for index in range(videos)]
    return {"model": model, "prompts": prompts}


def run(services: Services, request: dict[str, Any]) -> JobResult:
    """Sends a request and follows it to its end."""
    service, readings = services.service, []
    job = service.submit(request, LOCAL_ACCESS)
    began, cpu_began = time.perf_counter(), time.process_time()
    while (now := time.perf_counter() - began) < JOB_SECONDS:
        outlook = service.outlook(job.id)
        if outlook is not None and outlook.seconds_left is not None:
            readings.append(Reading(now, time.process_time() - cpu_began, outlook.seconds_left))
        if (state := services.store.job(job.id)).status in FINAL:
            if state.status != "succeeded":
                raise SystemExit(f"The job ended as {state.status}: {state.error}")
            quarter = min(readings, key=lambda reading: abs(reading.at - PART * now))
            return JobResult(now, time.process_time() - cpu_began, quarter)
        time.sleep(ASK_EVERY)
    raise SystemExit(f"A job took longer than {JOB_SECONDS:g} s.")


def measure(services: Services, jobs: int, draws: random.Random) -> list[tuple[float, float]]:
    """Said over true of `jobs` jobs, by the clock and at an equal share of the CPU; each size was rendered before."""
    shares = {}
    for model in MODELS:
        for size in SIZES:
            first = run(services, body(model, size, STEPS[0], 1, seed=1))
            shares[model, size] = first.share
            print(f"first of {model} {size}: {first.seconds:.1f} s", flush=True)
    ratios = []
    print("| model | size | steps × videos | seconds | said at a quarter | true | said ÷ true | at an equal share |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for number in range(jobs):
        model, size = draws.choice(MODELS), draws.choice(SIZES)
        steps, videos = draws.choice(STEPS), draws.choice((1, 1, 3))
        result = run(services, body(model, size, steps, videos, seed=100 * number))
        said, usual = result.reading.left, shares[model, size]
        ratios.append((said / result.true, said / result.true_at(usual)))
        shares[model, size] = (usual + result.share) / 2  # as the estimate learns
        print(
            f"| {model} | {'×'.join(map(str, size))} | {steps} × {videos} | {result.seconds:.1f} | {said:.1f} | "
            f"{result.true:.1f} | {ratios[-1][0]:.2f} | {ratios[-1][1]:.2f} |",
            flush=True,
        )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-equal-share", action="store_true", help="judge by the time of the CPU")
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
            ratios = measure(services, options.jobs, random.Random(options.seed))
        finally:
            services.close()
    judged = [at_share if options.at_equal_share else by_clock for by_clock, at_share in ratios]
    near = sum(abs(ratio - 1) <= WITHIN for ratio in judged)
    print(f"{near} of {len(ratios)} within {WITHIN:.0%}")


if __name__ == "__main__":
    main()

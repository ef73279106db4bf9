"""The scheduler and the job database with simulated slots: `python -m benchmarks.scheduler [--slots N] [--units N]`.

Slots are simulated and fail now and then; the choice of clips, the leases and the clips' rows are the real ones, in a
SQLite file that syncs each commit. The server is one process: while it chooses for one slot the others wait, so its
measured seconds are added to the simulated time. Prints one line of JSON for each number of slots; with `--plot FILE`
draws clips per hour against slots as SVG. `--folder DIR` keeps the database there; a folder in memory leaves the disk
out of the figures.

A choice is timed three ways: by the thread's own time, by the clock, and by the clock among the choices during which
the kernel did not take the core away from the thread. On a busy machine only the second one measures other programs.
The collector's pauses are in all three.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wan_ui.job import ClipRecord
from wan_ui.jobs.leases import Lease, Leases
from wan_ui.jobs.scheduler import Affinity, Assignment, Scheduler, SchedulerRules, Unit, units_of
from wan_ui.jobs.store import Store
from wan_ui.models import MODELS
from wan_ui.request import Generation, LoraUse, parse, resolve

PROMPTS = 10  # clips of a job
VISITORS, LORA_SETS = 50, 20
LOAD_SECONDS = 45.0
FAILURES = 0.005  # of the renders
DOWN_SECONDS = 30.0  # until a slot that failed renders again
PLOT_SLOTS = (1, 4, 16, 64, 256, 1000)


@dataclass
class Figures:
    """What a run measured. Seconds are real ones, except `simulated`; `choices` are of the thread's own time.

    `choice_undisturbeds` are those of `choice_walls` during which the thread kept its core.
    """

    choices: list[float] = field(default_factory=list)
    choice_walls: list[float] = field(default_factory=list)
    choice_undisturbeds: list[float] = field(default_factory=list)
    leases: list[float] = field(default_factory=list)
    stores: list[float] = field(default_factory=list)
    loads: int = 0
    failures: int = 0
    simulated: float = 0.0

    def assign(self, scheduler: Scheduler, idle: Sequence[str], counts: bool = True) -> Assignment | None:
        """A timed choice."""
        switches = _switches()
        own, wall = time.thread_time(), time.perf_counter()
        assignment = scheduler.assign(idle)
        own, wall = time.thread_time() - own, time.perf_counter() - wall
        if counts:
            self.choices.append(own)
            self.choice_walls.append(wall)
            if _switches() == switches:
                self.choice_undisturbeds.append(wall)
        return assignment

    def summary(self, slots: int, units: int) -> dict[str, Any]:
        """The run in one JSON object; milliseconds where the name says ms."""
        best = min(slots, units) + self.failures  # each slot loads once, and again after each failure
        return {
            "slots": slots,
            "units": units,
            "failures": self.failures,
            **{
                f"{name}_ms": _percentiles(getattr(self, f"{name}s"))
                for name in ("choice", "choice_wall", "choice_undisturbed", "lease", "store")
            },
            "undisturbed": round(len(self.choice_undisturbeds) / len(self.choices), 3),
            "loads": self.loads,
            "best_possible_loads": best,
            "loads_per_unit": round(self.loads / units, 4),
            "clips_per_hour": round(units / self.simulated * 3600, 1),
        }


def _switches() -> int:
    """How often the kernel took the core away from this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p99": 0.99, "most": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1e3, 3) for name, part in at.items()}


def fill(store: Store, units: int, draws: random.Random) -> Iterator[tuple[Unit, ...]]:
    """Queues jobs of mixed models, LoRAs and visitors, and gives the clips of each."""
    models = [model for model in MODELS.values() if model.control_image != "required"]
    for number in range(units // PROMPTS):
        model = draws.choice(models)
        request = {
            "model": model.id,
            "prompts": [{"prompt": f"clip {number} {index}", "seed": index} for index in range(PROMPTS)],
        }
        lora = LoraUse(next(iter(model.slots)), f"{draws.randrange(LORA_SETS)}.safetensors", 1.0)
        generations = [_small(generation, lora) for generation in resolve(parse(request), store_image=str)]
        job = store.add(request, generations, visitor=f"visitor {draws.randrange(VISITORS)}")
        yield units_of(job)


def _small(generation: Generation, lora: LoraUse) -> Generation:
    return replace(generation, loras=(lora,), width=832, height=480)


def simulate(slots: int, units: int, rules: SchedulerRules, mean_seconds: float, folder: Path) -> dict[str, Any]:
    """Renders all units on simulated slots, each clip in `mean_seconds` give or take a half."""
    store, draws, figures = Store(folder / "jobs.sqlite"), random.Random(1), Figures()
    units -= units % PROMPTS  # whole jobs
    leases, scheduler = Leases(store), Scheduler(slots, rules)
    for job_units in fill(store, units, draws):
        scheduler.add(job_units)
    left: Counter[str] = Counter()
    events: list[tuple[float, int, str, Unit | None, Lease | None]] = [
        (0.0, number, f"gpu {number}", None, None) for number in range(slots)
    ]
    order, free_at, done = slots, 0.0, 0
    while done < units:
        now, _, slot, unit, lease = heapq.heappop(events)
        began = time.perf_counter()
        if unit is not None and lease is not None:
            if draws.random() < FAILURES:
                figures.failures += 1
                leases.void(lease)
                scheduler.ended(unit, None)
                scheduler.requeue(unit)
                scheduler.emptied(slot)
                order += 1
                heapq.heappush(events, (now + DOWN_SECONDS, order, slot, None, None))
                continue
            assert store.add_clip(unit.job_id, _clip(unit), lease.epoch)
            scheduler.ended(unit, mean_seconds)
            done += 1
            left[unit.job_id] += 1
            if left[unit.job_id] == PROMPTS:
                store.finish(unit.job_id, "succeeded")
            figures.stores.append(time.perf_counter() - began)
        assignment = figures.assign(scheduler, [slot])
        if assignment is not None:
            leased = time.perf_counter()
            assert leases.claim(assignment.unit.job_id)
            lease = leases.lease(assignment.unit.job_id, assignment.unit.index, slot)
            figures.leases.append(time.perf_counter() - leased)
            assert lease is not None
            figures.loads += assignment.loads
            # The server does one thing after another: this slot starts when it has finished all before.
            free_at = max(free_at, now) + time.perf_counter() - began
            seconds = mean_seconds * draws.uniform(0.5, 1.5) + LOAD_SECONDS * assignment.loads
            order += 1
            heapq.heappush(events, (free_at + seconds, order, slot, assignment.unit, lease))
        figures.simulated = max(now, free_at)
    store.close()
    return figures.summary(slots, units)


def decide(slots: int, units: int, count: int, rules: SchedulerRules) -> dict[str, Any]:
    """What a choice costs while about so many units wait: `count` choices on slots that end by turns, no database."""
    draws, scheduler, figures = random.Random(1), Scheduler(slots, rules), Figures()
    for job in range(units // PROMPTS):
        model, loras, visitor = draws.randrange(len(MODELS)), draws.randrange(LORA_SETS), draws.randrange(VISITORS)
        needs = [Affinity(f"{model}", f"{loras}", f"{job} {index}", f"{job} {index}") for index in range(PROMPTS)]
        scheduler.add([Unit(f"{job}", index, f"{visitor}", need) for index, need in enumerate(needs)])
    running: list[Unit | None] = [None] * slots
    for turn in range(slots + count):
        slot = turn % slots
        if (ended := running[slot]) is not None:
            scheduler.ended(ended, draws.uniform(60, 180))
        assignment = figures.assign(scheduler, [f"gpu {slot}"], counts=turn >= slots)
        running[slot] = None if assignment is None else assignment.unit
        figures.loads += turn >= slots and assignment is not None and assignment.loads
    return {
        "slots": slots,
        "waiting": units - slots - count,
        "choices": count,
        "choice_ms": _percentiles(figures.choices),
        "choice_wall_ms": _percentiles(figures.choice_walls),
        "choice_undisturbed_ms": _percentiles(figures.choice_undisturbeds),
        "undisturbed": round(len(figures.choice_undisturbeds) / count, 3),
        "loads_per_unit": round(figures.loads / count, 4),
    }


def _clip(unit: Unit) -> ClipRecord:
    return ClipRecord(unit.index, 832, 480, 81, 16, unit.index, f"clips/{unit.job_id}{unit.index}.mp4", {})


def plot(results: list[dict[str, Any]], mean_seconds: float) -> str:
    """Clips per hour against slots on logarithmic axes, with the line of a server that costs nothing."""
    import math

    width, height, margin = 640, 400, 60
    ideal = [3600 / mean_seconds * result["slots"] for result in results]
    most_x, most_y = math.log10(results[-1]["slots"]), math.log10(max(ideal))
    least_y = math.log10(min(result["clips_per_hour"] for result in results))

    def point(slots: float, clips: float) -> str:
        x = margin + (width - 2 * margin) * math.log10(slots) / most_x
        y = height - margin - (height - 2 * margin) * (math.log10(clips) - least_y) / (most_y - least_y)
        return f"{x:.1f},{y:.1f}"

    measured = " ".join(point(result["slots"], result["clips_per_hour"]) for result in results)
    line = " ".join(point(result["slots"], clips) for result, clips in zip(results, ideal, strict=True))
    marks = "".join(
        f'<circle cx="{x}" cy="{y}" r="3" fill="#2563eb"/><text x="{x}" y="{height - margin + 18}" '
        f'text-anchor="middle">{result["slots"]}</text>'
        for result in results
        for x, y in [point(result["slots"], result["clips_per_hour"]).split(",")]
    )
    labels = "".join(
        f'<text x="{margin - 8}" y="{point(1, 10**power).split(",")[1]}" text-anchor="end">{10**power:,}</text>'
        for power in range(math.ceil(least_y), math.floor(most_y) + 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="#fff"/>'
        f'<polyline points="{line}" fill="none" stroke="#9ca3af" stroke-dasharray="4 4"/>'
        f'<polyline points="{measured}" fill="none" stroke="#2563eb" stroke-width="2"/>{marks}{labels}'
        f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">GPUs (clips of {mean_seconds:g} s)</text>'
        f'<text x="{margin}" y="24">clips per hour; dashed: no cost of the server, no loads</text></svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--passes", type=int, default=SchedulerRules.passes)
    parser.add_argument("--seconds", type=float, default=120.0, help="of a clip")
    parser.add_argument("--plot", type=Path, help="draw clips per hour against slots into this SVG file")
    parser.add_argument("--folder", type=Path, help="for the database; the system's temporary folder by default")
    parser.add_argument("--decide", type=int, help="only time so many choices while the units wait, without a database")
    options = parser.parse_args()
    if options.decide is not None:
        rules = SchedulerRules(passes=options.passes)
        print(json.dumps(decide(options.slots, options.units, options.decide, rules)))
        return
    runs = [(options.slots, options.units)]
    if options.plot is not None:
        runs = [(slots, max(300, 4 * slots)) for slots in PLOT_SLOTS]
    results = []
    for slots, units in runs:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rules = SchedulerRules(passes=options.passes)
            results.append(simulate(slots, units, rules, options.seconds, Path(folder)))
        print(json.dumps(results[-1]), flush=True)
    if options.plot is not None:
        options.plot.write_text(plot(results, options.seconds))


if __name__ == "__main__":
    main()

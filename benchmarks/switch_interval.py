"""What a shorter switch interval costs a render, and gives those who wait: `python -m benchmarks.switch_interval`.

In one process: a video of the demo, of a few steps, with Python's own interval and with the server's, in turns, while
two threads keep the interpreter busy and a third measures how late it is woken. Prints the medians and their ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.demo import PROMPT
from wan_ui import Engine
from wan_ui.demo.checkpoints import DEMO_DEFAULTS, ensure
from wan_ui.server import SWITCH_SECONDS

INTERVALS = {"Python's default": 0.005, "the server's": SWITCH_SECONDS}
TURNS = 3
STEPS = 2  # beside busy threads a step takes many seconds
NAP = 0.005  # seconds between two measures of the delay
BUSY = 2  # threads that hold the interpreter


@contextmanager
def busy(late: list[float]) -> Iterator[None]:
    """Threads that compute in Python, and one that notes how much later than asked for it wakes."""
    done = threading.Event()

    def compute() -> None:
        while not done.is_set():
            sum(range(1000))

    def measure() -> None:
        while not done.is_set():
            began = time.perf_counter()
            time.sleep(NAP)
            late.append(time.perf_counter() - began - NAP)

    threads = [threading.Thread(target=compute) for _ in range(BUSY)] + [threading.Thread(target=measure)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--turns", type=int, default=TURNS, help="videos for each interval (default: %(default)s)")
    turns: int = flags.parse_args().turns
    alone: dict[str, list[float]] = {name: [] for name in INTERVALS}
    beside: dict[str, list[float]] = {name: [] for name in INTERVALS}
    late: dict[str, list[float]] = {name: [] for name in INTERVALS}
    with tempfile.TemporaryDirectory() as scratch:
        demo = ensure(Path(scratch))
        engine = Engine(demo.models_dir, demo.lora_dir, "cpu")
        body = {"model": "wan21_1b", "prompts": [{"prompt": PROMPT, **DEMO_DEFAULTS, "sample_steps": STEPS}]}

        def seconds() -> float:
            began = time.perf_counter()
            engine.generate(body)
            return time.perf_counter() - began

        seconds()
        for _ in range(turns):
            for name, interval in INTERVALS.items():
                sys.setswitchinterval(interval)
                alone[name].append(seconds())
                with busy(late[name]):
                    beside[name].append(seconds())
        engine.close()
    print("| interval | a video | beside busy threads | woken late, median | woken late, 99 % |")
    print("| --- | --- | --- | --- | --- |")
    for name, interval in INTERVALS.items():
        middle, worst = statistics.median(late[name]), statistics.quantiles(late[name], n=100)[98]
        print(
            f"| {interval * 1000:g} ms, {name} | {statistics.median(alone[name]):.2f} s "
            f"| {statistics.median(beside[name]):.2f} s | {middle * 1000:.1f} ms | {worst * 1000:.1f} ms |"
        )
    own, other = INTERVALS
    for what, times in (("a video", alone), ("beside busy threads", beside)):
        print(f"{what}: {statistics.median(times[other]) / statistics.median(times[own]):.3f} of the default's time")


if __name__ == "__main__":
    main()

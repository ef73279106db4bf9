"""A line run under a supervisor that starts it again after exit code 70, and what it leaves; for a CPU and for CUDA."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.jobs.helpers import body
from wan_ui.job import Job
from wan_ui.jobs.store import Store
from wan_ui.request import parse, resolve

ROOT = Path(__file__).parents[2]
MOST_STARTS = 4
LIMIT = 120.0  # seconds a start and its renders may take


def add(store: Store, *seeds: int, **size: int) -> Job:
    """A waiting job of one tiny prompt per seed."""
    request = body(*seeds)
    for prompt in request["prompts"]:
        prompt.update(size)
    return store.add(request, resolve(parse(request), store_image=str))


def run_program(arguments: list[str]) -> tuple[int, str]:
    """The exit code of the queue's program, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.jobs.queue_program", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout


Run = Callable[[list[str]], tuple[int, str]]


def supervise(data_dir: Path, *arguments: str, run: Run = run_program) -> tuple[list[int], str]:
    """Runs the queue until it ends with another code than 70: the codes of all starts, and all that they printed."""
    codes: list[int] = []
    printed = ""
    while len(codes) < MOST_STARTS and codes[-1:] in ([], [70]):
        code, output = run([str(data_dir), *arguments])
        codes.append(code)
        printed += output
    return codes, printed


def a_dead_context_ends_its_job_and_the_rest_runs_after_a_restart(
    data_dir: Path, device: str, run: Run = run_program
) -> None:
    store = Store(data_dir / "jobs.sqlite")
    jobs = [add(store, 1), add(store, 2, 3), add(store, 4)]
    codes, said = supervise(data_dir, device, "--break-at", "3", run=run)
    assert codes == [70, 0], said
    before, struck, after = (store.job(job.id) for job in jobs)
    assert (before.status, after.status) == ("succeeded", "succeeded")
    assert (struck.status, struck.attempts, [clip.index for clip in struck.clips]) == ("failed", 0, [0])
    assert struck.error is not None
    assert struck.error["code"] == "DEVICE_LOST"
    assert "device-side assert" in struck.error["message"]
    assert struck.error["details"] == {"after": "RENDER_FAILED", "prompt": 1}
    assert struck.error["message"].removeprefix("Prompt 2 of 2: ") in said
    store.close()

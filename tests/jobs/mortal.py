"""A line on the demo checkpoints that is killed again and again: the crash soak's victim and its killer.

Importing torch takes seconds, so one process imports it and forks a child for each life; each child is a process of its
own, with its own lock, store, engine and worker, and is killed with SIGKILL.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

import torch

from wan_ui.inference import Engine
from wan_ui.jobs.lock import FolderLock
from wan_ui.jobs.runner import RenderLimits, WorkerHooks
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.media import video

MANY = 10**6  # attempts: a raised cap
TICK_SECONDS = 0.05


def live(data_dir: Path) -> None:
    """One life: renders what waits until nothing does. The app's own parts, without the web server."""
    torch.set_num_threads(1)
    lock = FolderLock(data_dir)
    store = Store(data_dir / "jobs.sqlite")
    engine = Engine(data_dir / "demo" / "models", data_dir / "demo" / "loras", "cpu", data_dir=data_dir)
    worker = Worker(
        store,
        engine.render,
        data_dir / "clips",
        video.write,
        RenderLimits(max_attempts=MANY),
        WorkerHooks(check_device=engine.check),
    )
    worker.start()
    while (unfinished := store.unfinished(1)) and worker.broken is None:
        worker.wait(unfinished[0].id, TICK_SECONDS)
    worker.stop()
    lock.release()


def born(data_dir: Path) -> int:
    """The process id of a new life."""
    child = os.fork()
    if child:
        return child
    try:
        live(data_dir)
    finally:
        sys.stderr.flush()
        os._exit(0 if sys.exc_info()[0] is None else 1)


def finished(data_dir: Path) -> float:
    """The part of all clips that is there."""
    rows = sqlite3.connect(data_dir / "jobs.sqlite")
    clips, total = rows.execute("SELECT (SELECT count(*) FROM clips), (SELECT sum(total) FROM jobs)").fetchone()
    rows.close()
    return float(clips / total)


def be_killed(data_dir: Path, kills: int, seed: int, longest: float) -> None:
    """Kills so many lives, each within `longest` seconds, and prints one line of JSON about it."""
    moments = random.Random(seed)
    killed, ended_early = 0, 0
    while killed < kills:
        left = 1 - finished(data_dir)
        # On a fast machine lives get shorter, so that work is left for every kill.
        pace = min(1.0, left / (1 - killed / kills)) ** 2
        child = born(data_dir)
        time.sleep(moments.uniform(0, longest * pace))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        elif os.WEXITSTATUS(status):
            raise SystemExit("a life ended by an error; the trace is above")
        else:
            ended_early += 1
            break  # nothing is left to kill
    _, status = os.waitpid(born(data_dir), 0)
    print(json.dumps({"killed": killed, "ended_early": ended_early, "last": status}))

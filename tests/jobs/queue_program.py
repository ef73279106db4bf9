"""Renders a queue without a web server: `python -m tests.jobs.queue_program DATA_DIR cuda --break-at 2`.

It needs no web server and no ffmpeg, so that it runs where there is little but a GPU. `--break-at SEED` breaks the
device in that seed's first step: by an index out of range in a kernel on CUDA, by the error's words on a CPU.
`--cap BYTES` limits the GPU memory. Exit code 0 once the queue is empty, else the worker's.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from tests.fakes import fake_write_video
from tests.golden_cases import CHECKPOINTS, LORAS
from wan_ui.engine.result import Clip, OnProgress, Progress
from wan_ui.errors import RestartNeeded
from wan_ui.inference import Engine, device_lost
from wan_ui.jobs.lock import FolderLock
from wan_ui.jobs.runner import WorkerHooks
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.request import Generation

TICK_SECONDS = 0.05
ASSERT_WORDS = "CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA."


def provoke_assert(device: torch.device) -> None:
    """Leaves the CUDA context dead: what is raised comes up at a later call."""
    if device.type != "cuda":
        raise RuntimeError(ASSERT_WORDS)
    torch.zeros(4, device=device)[torch.tensor([9], device=device)].sum().item()


def run(data_dir: Path, device: str, break_at: int | None, cap: int | None) -> int:
    lock = FolderLock(data_dir)
    store = Store(data_dir / "jobs.sqlite")
    engine = Engine(CHECKPOINTS, LORAS, device, "resident", data_dir, compile="off")
    broken = False
    if cap is not None:
        torch.cuda.set_per_process_memory_fraction(cap / torch.cuda.get_device_properties(0).total_memory)

    def render(generation: Generation, on_progress: OnProgress) -> Clip:
        def heard(progress: Progress) -> None:
            nonlocal broken
            on_progress(progress)
            if progress.phase == "denoise" and generation.seed == break_at:
                broken = True
                provoke_assert(engine.device)

        return engine.render(generation, heard)

    def check() -> None:
        if broken and engine.device.type != "cuda":
            raise device_lost(RuntimeError(ASSERT_WORDS))
        engine.check()
        held = torch.cuda.memory_allocated() if engine.device.type == "cuda" else 0
        print(f"checked: {held} bytes held, model {engine.core.state}", flush=True)

    worker = Worker(store, render, data_dir / "clips", fake_write_video, hooks=WorkerHooks(check_device=check))
    worker.start()
    for job in store.unfinished():
        while worker.broken is None and not worker.wait(job.id, TICK_SECONDS):
            pass
    if worker.broken is not None:
        raise worker.broken
    worker.stop()
    lock.release()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a run with these arguments, or those of the command line."""
    flags = argparse.ArgumentParser()
    flags.add_argument("data_dir", type=Path)
    flags.add_argument("device")
    flags.add_argument("--break-at", type=int)
    flags.add_argument("--cap", type=int)
    said = flags.parse_args(arguments)
    try:
        return run(said.data_dir, said.device, said.break_at, said.cap)
    except RestartNeeded as error:
        print(error.message, flush=True)
        return error.exit_code


def run_process(arguments: Sequence[str] | None = None) -> NoReturn:
    """Ends the process as app.py does: a dead CUDA context may hold up the interpreter's own end."""
    code = main(arguments)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    run_process()

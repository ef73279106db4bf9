"""A CUDA context that dies, and memory that runs out, in a process of its own that a supervisor starts again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.jobs.supervised import a_dead_context_ends_its_job_and_the_rest_runs_after_a_restart, add, supervise
from wan_ui.jobs.store import Store

pytestmark = pytest.mark.gpu
CAP = 512 << 20  # bytes; 33 frames of 2048 × 2048 take several times that, in tiles too
CAP_OF_TILES = 1 << 30  # bytes; 5 such frames took 3.0 GiB decoded whole, and 0.7 GiB in tiles
LEFT = 200 << 20  # bytes that libraries keep as their workspace


def test_a_device_side_assert(tmp_path: Path) -> None:
    a_dead_context_ends_its_job_and_the_rest_runs_after_a_restart(tmp_path, "cuda")


def test_out_of_memory_frees_everything_and_the_next_job_runs_in_the_same_process(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    jobs = [add(store, 1), add(store, 2, width=2048, height=2048, num_frames=33), add(store, 3)]
    codes, output = supervise(tmp_path, "cuda", "--cap", str(CAP))
    before, struck, after = (store.job(job.id) for job in jobs)
    store.close()
    assert codes == [0], output
    assert (before.status, struck.status, after.status) == ("succeeded", "failed", "succeeded")
    assert struck.error is not None
    assert struck.error["code"] == "OUT_OF_MEMORY"
    found = re.search(r"checked: (\d+) bytes held, model None", output)
    assert found is not None, output
    assert int(found[1]) < LEFT


def test_a_decode_without_room_is_done_in_tiles(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    job = add(store, 2, width=2048, height=2048, num_frames=5)
    codes, output = supervise(tmp_path, "cuda", "--cap", str(CAP_OF_TILES))
    done = store.job(job.id)
    store.close()
    assert codes == [0], output
    assert done.status == "succeeded"
    assert done.clips[0].metadata["tiled"] is True

"""Real processes killed with SIGKILL: the queue, its clips and the folder's lock afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import PATIENCE, FakeRender, fake_write_video
from tests.jobs.helpers import body
from wan_ui.compare import expand
from wan_ui.errors import DataFolderInUse, HostError
from wan_ui.job import Job
from wan_ui.jobs.lock import LOCK_FILE, FolderLock
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.render_order import plan_cells
from wan_ui.request import Compare, parse, resolve

pytestmark = pytest.mark.slow  # processes of their own
ROOT = Path(__file__).parents[2]


def start_stuck(data_dir: Path, seed: int, where: str = "render") -> subprocess.Popen[str]:
    """A server process that is inside the render of `seed`, or at another moment of it, see the victim."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.victim", str(data_dir), str(seed), where],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()


def add(store: Store, *seeds: int) -> Job:
    request = body(*seeds)
    return store.add(request, resolve(parse(request), store_image=str))


def test_a_killed_job_runs_again_at_its_place_without_its_finished_clips(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    first, second = add(store, -1, 2, 3), add(store, 4)
    kill(start_stuck(tmp_path, 2))

    interrupted = store.job(first.id)
    assert interrupted.status == "in_progress"
    (clip,) = interrupted.clips
    file = tmp_path / clip.file
    before = (file.read_bytes(), file.stat().st_mtime_ns)

    render = FakeRender()
    order: list[int] = []
    gate = render.gate(2, 1)
    worker = Worker(store, render, tmp_path / "clips", fake_write_video)
    worker.start()
    gate.await_arrival()
    assert [job.id for job in store.unfinished()] == [first.id, second.id]
    gate.open()
    assert worker.wait(second.id, PATIENCE)
    assert worker.stop()

    job = store.job(first.id)
    assert (job.status, job.attempts, [clip.index for clip in job.clips]) == ("succeeded", 1, [0, 1, 2])
    assert job.generations == first.generations  # the seed that was drawn
    assert job.clips[0] == clip
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    order = list(dict.fromkeys(seed for seed, _, _ in render.seen))
    assert order == [2, 3, 4]
    assert store.job(second.id).status == "succeeded"
    store.close()


def test_a_killed_comparison_keeps_its_cells_and_its_marks(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    request = {**body(1), "compare": {"columns": {"field": "seed", "values": [1, 2, 2, 3]}}}
    made = expand(parse(request), Compare.model_validate(request["compare"]))
    generations, cells = plan_cells(made, [resolve(cell.request, store_image=str)[0] for cell in made.cells])
    job = store.add(request, generations, cells=cells)
    kill(start_stuck(tmp_path, 2))
    (before,) = store.job(job.id).clips
    render = FakeRender()
    worker = Worker(store, render, tmp_path / "clips", fake_write_video)
    worker.start()
    assert worker.wait(job.id, PATIENCE)
    assert worker.stop()
    after = store.job(job.id)
    assert (after.status, after.attempts, after.clips[0], after.cells) == ("succeeded", 1, before, cells)
    assert list(dict.fromkeys(seed for seed, _, _ in render.seen)) == [2, 3]
    store.close()


def test_three_kills_fail_the_job_and_the_next_runs(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    first, second = add(store, 1, 2), add(store, 3)
    for _ in range(3):
        kill(start_stuck(tmp_path, 2))
    worker = Worker(store, FakeRender(), tmp_path / "clips", fake_write_video)
    worker.start()
    assert worker.wait(second.id, PATIENCE)
    assert worker.stop()
    job = store.job(first.id)
    assert (job.status, job.attempts, len(job.clips)) == ("failed", 3, 1)
    assert job.error is not None
    assert job.error["message"].startswith("The process ended three times while running this")
    assert store.job(second.id).status == "succeeded"
    store.close()


def test_an_interrupted_job_is_in_line_again_before_the_engine_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    first, second = add(store, 1), add(store, 2)
    kill(start_stuck(tmp_path, 1))
    worker = Worker(store, FakeRender(), tmp_path / "clips", fake_write_video)
    worker.recover()
    assert [(job.id, job.status, job.position) for job in store.unfinished()] == [
        (first.id, "in_queue", 1),
        (second.id, "in_queue", 2),
    ]
    worker.start()
    assert worker.wait(second.id, PATIENCE)
    assert worker.stop()
    assert (store.job(first.id).status, store.job(first.id).attempts) == ("succeeded", 1)
    store.close()


@pytest.mark.parametrize("where", ["written", "half"])
def test_what_a_killed_process_wrote_and_did_not_list_is_removed(tmp_path: Path, where: str) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    job = add(store, 1, 2)
    kill(start_stuck(tmp_path, 2, where))
    (tmp_path / "clips" / "kept.mp4").write_bytes(b"of somebody else")
    listed = {Path(clip.file).name for clip in store.job(job.id).clips}
    stills = {name.replace(".mp4", suffix) for name in listed for suffix in (".jpg", ".png")}
    left = {path.name for path in (tmp_path / "clips").iterdir()} - listed - stills
    assert {Path(name).suffix for name in left} == ({".mp4", ".jpg", ".png"} if where == "written" else {".mp4", ""})
    worker = Worker(store, FakeRender(), tmp_path / "clips", fake_write_video)
    worker.start()
    assert worker.wait(job.id, PATIENCE)
    assert worker.stop()
    done = store.job(job.id)
    assert (done.status, len(done.clips)) == ("succeeded", 2)
    assert {path.name for path in (tmp_path / "clips").iterdir()} == {
        "kept.mp4",
        *(Path(clip.file).with_suffix(suffix).name for clip in done.clips for suffix in (".mp4", ".jpg", ".png")),
    }
    store.close()


def test_the_cap_on_attempts_can_be_raised(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    job = add(store, 1)
    for _ in range(4):
        store.claim_next()
        assert store.recover(max_attempts=9) == {job.id: "in_queue"}
    store.claim_next()
    assert store.recover(max_attempts=5) == {job.id: "failed"}
    error = store.job(job.id).error
    assert error is not None
    assert "The process ended 5 times while running this" in error["message"]
    store.close()


def test_the_folder_is_locked_until_its_process_is_killed(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    add(store, 1)
    store.close()
    process = start_stuck(tmp_path, 1)
    with pytest.raises(DataFolderInUse, match=rf"process {process.pid}\).*--data-dir") as refusal:
        FolderLock(tmp_path)
    assert str(tmp_path) not in refusal.value.message
    kill(process)
    FolderLock(tmp_path).release()


def test_a_released_folder_can_be_held_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    lock = FolderLock(folder)
    assert (folder / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    with pytest.raises(DataFolderInUse):
        FolderLock(folder)
    lock.release()
    FolderLock(folder).release()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="--data-dir") as refusal:
        FolderLock(tmp_path / "file" / "data")
    assert str(tmp_path) not in refusal.value.message

"""Watched training jobs over a real store, library and folder: what is rendered and when; and a killed process."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import PATIENCE, FakeRender
from tests.jobs.helpers import body
from tests.jobs.watch_program import services, watcher_of
from tests.lora_files import write_lora
from tests.trainer.job_files import I2V, PAIR, SAMPLE, config, lora, write_job
from tests.waiting import wait_until
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.errors import DiskFull, JobNotWatchable, NotWatched, OwnerOnly, PreviewNotFound
from wan_ui.identity import Identity
from wan_ui.job import Job
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.watcher import Watcher, comparison_for, fixed_seed
from wan_ui.jobs.worker import Worker
from wan_ui.trainer.folder import read_folder
from wan_ui.trainer.saves import CompleteSaves, save_label

pytestmark = pytest.mark.slow

GUEST = Access(Identity("2" * 32, False), shared=True)
ROOT = Path(__file__).parents[2]


def write_config(folder: Path, name: str = "fox", **fields: Any) -> Path:
    """A training job without a save."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_bytes(config(name=name, **fields))
    return folder


def save(folder: Path, step: int | None, side: str = "", name: str = "fox") -> Path:
    """A save that appears whole."""
    file = folder / (f"{name}{side}.safetensors" if step is None else f"{name}_{step:09d}{side}.safetensors")
    part = folder.parent / "part.safetensors"
    lora(part, step, seed=(step or 0) + len(side))
    part.replace(file)
    return file


@pytest.fixture
def service(store: Store, worker: Worker, tmp_path: Path) -> JobService:
    (tmp_path / "data").mkdir()
    return services(tmp_path, store, worker)


@pytest.fixture
def watcher(service: JobService, store: Store, worker: Worker) -> Watcher:
    """Not started: a test calls render_next itself."""
    return watcher_of(service, store, worker, settle=0)


def watch(service: JobService, watcher: Watcher, name: str = "fox", existing: bool = False) -> str:
    job_id = service.imported_jobs.import_folder(name, LOCAL_ACCESS).id
    watcher.begin(job_id, existing, LOCAL_ACCESS)
    return job_id


def render_all(watcher: Watcher, worker: Worker, store: Store) -> list[tuple[str, int]]:
    """Renders what there is to render, and returns the (column, row) of each clip, in order."""
    made = []
    while (comparison := watcher.render_next()) is not None:
        assert worker.wait(comparison, PATIENCE)
        job = store.job(comparison)
        newest = max(job.cells, key=lambda cell: cell.generation)
        made.append((newest.column_label, newest.row))
        assert job.status == "succeeded" and len(job.clips) == len(job.generations)
    return made


def columns(job: Job) -> list[str]:
    return list(dict.fromkeys(cell.column_label for cell in sorted(job.cells, key=lambda cell: cell.column)))


def test_new_saves_become_columns_newest_first(
    service: JobService, watcher: Watcher, worker: Worker, store: Store, tmp_path: Path
) -> None:
    folder = write_job(tmp_path / "loras" / "fox", previews=False)  # three saves that are there before
    job_id = watch(service, watcher)
    worker.start()
    assert render_all(watcher, worker, store) == []
    save(folder, 1000)
    save(folder, 1500)
    assert render_all(watcher, worker, store) == [
        ("step 1500", 0),
        ("step 1500", 1),
        ("step 1000", 0),
        ("step 1000", 1),
    ]
    save(folder, 1250)
    assert len(render_all(watcher, worker, store)) == 2
    state = watcher.state(job_id, LOCAL_ACCESS)
    assert (state.rendered, state.waiting, state.problem) == (3, 0, None) and state.comparison is not None
    job = store.job(state.comparison)
    assert columns(job) == ["step 1000", "step 1250", "step 1500"]
    assert [(cell.column, cell.row) for cell in job.cells] == [(column, row) for row in (0, 1) for column in range(3)]
    for cell in job.cells:
        generation = job.generations[cell.generation]
        assert generation.loras[0].path == f"fox/fox_{cell.column_label.removeprefix('step '):0>9}.safetensors"
        assert (generation.seed, generation.num_frames) == ((7, 9)[cell.row], 9)
        assert generation.recipe == "preview"
    assert len(job.request["compare"]["columns"]["values"]) == 3
    assert [value["seed"] for value in job.request["compare"]["rows"]["values"]] == [7, 9]


def test_the_saves_that_are_there_if_asked(
    service: JobService, watcher: Watcher, worker: Worker, store: Store, tmp_path: Path
) -> None:
    write_job(tmp_path / "loras" / "fox", previews=False)
    watch(service, watcher, existing=True)
    worker.start()
    render_all(watcher, worker, store)
    (job,) = store.recent(10)
    assert columns(job) == ["step 250", "step 500", "final"]


def test_only_in_idle_time_and_a_visitor_goes_first_at_the_next_clips_end(
    service: JobService, watcher: Watcher, worker: Worker, store: Store, render: FakeRender, tmp_path: Path
) -> None:
    folder = write_config(tmp_path / "loras" / "fox")
    watch(service, watcher)
    save(folder, 100)
    waiting = service.submit(body(1), GUEST)
    assert watcher.render_next() is None
    service.cancel(waiting.id, GUEST)
    gate = render.gate(7, 1)
    worker.start()
    comparison = watcher.render_next()
    assert comparison is not None
    gate.await_arrival()
    visitors = service.submit(body(2), GUEST)
    assert watcher.render_next() is None
    gate.open()
    assert worker.wait(comparison, PATIENCE)
    assert len(store.job(comparison).clips) == 1  # of two samples: the visitor's request comes between
    assert worker.wait(visitors.id, PATIENCE)
    assert watcher.render_next() == comparison
    assert worker.wait(comparison, PATIENCE)
    assert [seed for seed, phase, step in render.seen if phase == "decode"] == [7, 2, 9]


def test_two_watched_jobs_take_turns(
    service: JobService, watcher: Watcher, worker: Worker, store: Store, tmp_path: Path
) -> None:
    folders = [write_config(tmp_path / "loras" / name, name) for name in ("fox", "owl")]
    for folder in folders:
        watch(service, watcher, folder.name)
        for step in (100, 200):
            save(folder, step, name=folder.name)
    worker.start()
    turns = []
    while (comparison := watcher.render_next()) is not None:
        assert worker.wait(comparison, PATIENCE)
        turns.append(comparison)
    assert len(turns) == 8 and len(set(turns)) == 2
    assert all(first != second for first, second in pairwise(turns))


def test_a_pair_is_complete_when_both_halves_are(
    service: JobService, watcher: Watcher, worker: Worker, store: Store, tmp_path: Path
) -> None:
    folder = write_config(tmp_path / "loras" / "fox", model=PAIR)
    watch(service, watcher)
    worker.start()
    save(folder, 100, "_high_noise")
    assert render_all(watcher, worker, store) == []
    save(folder, 100, "_low_noise")
    assert render_all(watcher, worker, store) == [("step 100", 0), ("step 100", 1)]
    (job,) = store.recent(10)
    assert {use.slot for use in job.generations[0].loras} == {"high", "low"}


def test_a_file_is_whole_when_its_header_fits_and_it_stays_as_it_is(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "fox")
    whole = save(folder, 100).read_bytes()
    file, now = folder / "fox_000000100.safetensors", [0.0]
    saves = CompleteSaves(4, lambda: now[0])

    def complete() -> list[str]:
        return [save_label(each) for each in saves.of(read_folder(folder), ("transformer",))]

    assert complete() == []
    now[0] = 4
    assert complete() == ["step 100"]
    for content in (whole[:5], whole[:-1], whole + b"x", bytes(len(whole))):  # cut off, longer, allocated but empty
        file.write_bytes(content)
        assert complete() == []
        now[0] += 4
        assert complete() == []
    file.write_bytes(whole)
    assert complete() == []
    now[0] += 4
    assert complete() == ["step 100"]


def test_a_save_that_cannot_be_rendered_is_named_and_skipped(
    service: JobService, watcher: Watcher, worker: Worker, store: Store, tmp_path: Path
) -> None:
    sample = {**SAMPLE, "samples": [{"prompt": "a fox", "ctrl_img": "/home/me/first.png"}]}
    folder = write_config(tmp_path / "loras" / "fox", model=I2V, sample=sample)
    with pytest.raises(JobNotWatchable):  # its sample needs a first frame
        watch(service, watcher)
    shutil.rmtree(folder)
    folder = write_config(tmp_path / "loras" / "fox")
    job_id = watch(service, watcher)
    worker.start()
    write_lora(folder / "fox_000000100.safetensors", width=128, seed=1)
    assert watcher.render_next() is None
    state = watcher.state(job_id, LOCAL_ACCESS)
    assert state.problem is not None and state.problem.startswith("step 100: ") and state.waiting == 0
    save(folder, 200)
    assert len(render_all(watcher, worker, store)) == 2


def test_a_full_comparison_is_followed_by_another(
    service: JobService, watcher: Watcher, worker: Worker, store: Store, tmp_path: Path
) -> None:
    samples = [{"prompt": f"fox {number}", "seed": number} for number in range(33)]  # two columns are more than 64
    folder = write_config(tmp_path / "loras" / "fox", sample={**SAMPLE, "num_frames": 1, "samples": samples})
    watch(service, watcher)
    worker.start()
    turns = []
    for step in (100, 200):
        save(folder, step)
        turns.append(watcher.render_next() or "")
        assert worker.wait(turns[-1], PATIENCE)
    assert len(set(turns)) == 2
    assert [columns(job) for job in store.recent(10)] == [["step 200"], ["step 100"]]
    assert comparison_for(store.recent(10), "step 100", 33) == store.job(turns[0])
    assert comparison_for(store.recent(10), "step 300", 33) is None
    assert comparison_for(store.recent(10), "step 300", 32) is not None


def test_nothing_is_rendered_without_disk_space_or_after_a_cancellation(
    service: JobService, worker: Worker, store: Store, tmp_path: Path
) -> None:
    folder = write_config(tmp_path / "loras" / "fox")
    problem = DiskFull("The disk is full.")
    full = [True]
    watcher = Watcher(
        store, service.imported_jobs, service.plan, lambda: problem if full[0] else None, worker.wake, CompleteSaves(0)
    )
    job_id = watch(service, watcher)
    save(folder, 100)
    watcher.start(0.005)
    worker.start()
    state = watcher.state(job_id, LOCAL_ACCESS)
    assert (state.problem, state.comparison, state.waiting) == ("The disk is full.", None, 1)
    full[0] = False
    wait_until(lambda: watcher.state(job_id, LOCAL_ACCESS).rendered == 1)
    assert watcher.stop(PATIENCE)
    comparison = watcher.state(job_id, LOCAL_ACCESS).comparison
    assert comparison is not None and worker.wait(comparison, PATIENCE)
    assert worker.stop()
    save(folder, 200)
    assert watcher.render_next() == comparison
    service.cancel(comparison, LOCAL_ACCESS)
    assert watcher.render_next() is None
    assert "canceled" in (watcher.state(job_id, LOCAL_ACCESS).problem or "")
    service.retry(comparison, LOCAL_ACCESS)
    assert store.job(comparison).status == "in_queue"


def test_the_saves_of_a_deleted_comparison_are_not_rendered_again(
    service: JobService, watcher: Watcher, worker: Worker, store: Store, tmp_path: Path
) -> None:
    folder = write_config(tmp_path / "loras" / "fox")
    job_id = watch(service, watcher)
    worker.start()
    save(folder, 100)
    render_all(watcher, worker, store)
    comparison = watcher.state(job_id, LOCAL_ACCESS).comparison
    assert comparison is not None
    service.delete_entry(comparison, LOCAL_ACCESS)
    assert render_all(watcher, worker, store) == []
    save(folder, 200)
    render_all(watcher, worker, store)
    another = watcher.state(job_id, LOCAL_ACCESS).comparison
    assert another != comparison and columns(store.job(another or "")) == ["step 200"]
    watcher.end(job_id, LOCAL_ACCESS)
    save(folder, 300)
    assert watcher.render_next() is None


def test_who_and_what_is_refused(service: JobService, watcher: Watcher, tmp_path: Path) -> None:
    write_config(tmp_path / "loras" / "fox")
    job_id = service.imported_jobs.import_folder("fox", LOCAL_ACCESS).id
    for call in (
        lambda: watcher.begin(job_id, False, GUEST),
        lambda: watcher.state(job_id, GUEST),
        lambda: watcher.end(job_id, GUEST),
    ):
        with pytest.raises(OwnerOnly):
            call()
    for missing in (lambda: watcher.state(job_id, LOCAL_ACCESS), lambda: watcher.end(job_id, LOCAL_ACCESS)):
        with pytest.raises(NotWatched):
            missing()
    with pytest.raises(PreviewNotFound):
        watcher.begin("0" * 32, False, LOCAL_ACCESS)
    alone = service.imported_jobs.import_config(config())
    with pytest.raises(JobNotWatchable):
        watcher.begin(alone.id, False, LOCAL_ACCESS)


def test_a_drawn_seed_is_fixed() -> None:
    assert fixed_seed("a" * 32, 0) == fixed_seed("a" * 32, 0) != fixed_seed("a" * 32, 1)
    assert 0 <= fixed_seed("b" * 32, 5) < 2**31


# A process that is killed


@contextmanager
def watching(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "tests.jobs.watch_program", str(folder)], cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def seen(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """What the database holds; nothing while there is no such table yet."""
    with closing(sqlite3.connect(folder / "data" / "jobs.sqlite", timeout=PATIENCE)) as database:
        try:
            return database.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []


def finished_columns(folder: Path) -> dict[str, int]:
    """By column, how many of its clips are finished."""
    rows = seen(
        folder,
        """
        SELECT json_extract(cell.value, '$.column_label'), count(clips.clip_index)
        FROM jobs, json_each(jobs.cells) AS cell
        LEFT JOIN clips ON clips.job_id = jobs.id AND clips.clip_index = json_extract(cell.value, '$.generation')
        GROUP BY 1
        """,
    )
    return {str(column): int(clips) for column, clips in rows}


@pytest.mark.slow
def test_six_saves_one_slowly_and_a_kill_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    folder = write_config(tmp_path / "loras" / "fox")
    ready = tmp_path / "ready" / "fox"
    ready.mkdir(parents=True)
    files = {step: save(ready, step) for step in (100, 200, 300, 400, 500, 600)}

    def write(step: int) -> None:
        shutil.copy(files[step], folder)

    slow = folder / files[300].name
    content = files[300].read_bytes()
    with watching(tmp_path) as process:
        wait_until(lambda: seen(tmp_path, "SELECT 1 FROM watches"), state=process.poll)
        write(100)
        wait_until(lambda: finished_columns(tmp_path).get("step 100") == 2, state=lambda: finished_columns(tmp_path))
        write(200)
        slow.write_bytes(content[: len(content) // 2])
        write(400)
        wait_until(lambda: finished_columns(tmp_path) == {"step 100": 2, "step 200": 2, "step 400": 2})
        (tmp_path / "hold").touch()
        write(500)
        wait_until(lambda: seen(tmp_path, "SELECT 1 FROM jobs WHERE status = 'in_progress'"))
    (tmp_path / "hold").unlink()
    with slow.open("ab") as file:
        file.write(content[len(content) // 2 :])
    write(600)
    with watching(tmp_path):
        wanted = {f"step {step}": 2 for step in files}
        wait_until(lambda: finished_columns(tmp_path) == wanted, state=lambda: finished_columns(tmp_path))
        wait_until(lambda: seen(tmp_path, "SELECT status FROM jobs") == [("succeeded",)])
    ((request, generations, failures),) = seen(tmp_path, "SELECT request, generations, failures FROM jobs")
    assert failures == "{}" and len(json.loads(request)["compare"]["columns"]["values"]) == 6
    hashes = {f"fox/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files.values()}
    used = [generation["loras"][0] for generation in json.loads(generations)]
    assert len(used) == 12 and all(use["sha256"] == hashes[use["path"]] for use in used)

"""A comparison in the queue: one job of cells. Cells that fail, cancel, retry, restart, and what each file carries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.fakes import PATIENCE, FakeImages, FakeRender, fake_service, fake_write_video
from tests.golden_cases import CHECKPOINTS
from tests.jobs.helpers import body, until_made
from tests.jobs.test_fetcher import Services
from tests.lora_files import write_lora
from tests.web_files import lora_bytes, serving
from wan_ui.access import LOCAL_ACCESS
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.errors import (
    CheckpointNotFound,
    DiskFull,
    InvalidRequest,
    LoraNotFound,
    OutOfMemory,
    RequestNotFound,
    VideoEncodingFailed,
    WanUIError,
)
from wan_ui.job import Job
from wan_ui.jobs.schema import MIGRATIONS
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.provenance.restoring import Environment
from wan_ui.request import parse, resolve

if TYPE_CHECKING:
    from wan_ui.media.image import ImageStore


def grid(columns: Any = None, rows: Any = None, **fields: Any) -> dict[str, Any]:
    """A request to compare; `columns` and `rows` as (field, values)."""
    axes = {"columns": columns, "rows": rows}
    compare = {name: {"field": axis[0], "values": axis[1]} for name, axis in axes.items() if axis is not None}
    return {**body(1, **fields), "compare": {**compare, "baseline": fields.get("loras") is not None}}


def seeds(*values: int, **fields: Any) -> dict[str, Any]:
    return grid(("seed", list(values)), **fields)


@pytest.fixture
def lora_service(store: Store, worker: Worker, tmp_path: Path) -> JobService:
    """A job service with real files, style.safetensors among them, that fit the tiny checkpoints."""
    folder = tmp_path / "loras"
    write_lora(folder / "style.safetensors")
    for half in ("high", "low"):
        write_lora(folder / f"job_000000250_{half}_noise.safetensors", seed=1)
    images, configs = cast("ImageStore", FakeImages()), Checkpoints(CHECKPOINTS).transformer_config
    environment = Environment(transformer_config=configs)
    return JobService(Library(folder), images, store, worker, tmp_path, environment=environment)


def ended(service: JobService, worker: Worker, job: Job) -> Job:
    assert worker.wait(job.id, PATIENCE), f"still {service.job(job.id, LOCAL_ACCESS).status}"
    return service.job(job.id, LOCAL_ACCESS)


def rendered(render: FakeRender) -> list[int]:
    return list(dict.fromkeys(seed for seed, _, _ in render.seen))


def code(job: Job) -> str | None:
    return None if job.error is None else job.error["code"]


# What is queued


def test_one_job_one_position_and_every_cell(service: JobService) -> None:
    first = service.submit(grid(("seed", [5, 6, 7]), ("sample_steps", [1, 2])), LOCAL_ACCESS)
    second = service.submit(body(9), LOCAL_ACCESS)
    assert (first.position, second.position, len(service.queue(LOCAL_ACCESS))) == (1, 2, 2)
    assert [(cell.column, cell.row, cell.column_label, cell.row_label) for cell in first.cells[2:4]] == [
        (2, 0, "seed 7", "steps 1"),
        (0, 1, "seed 5", "steps 2"),
    ]
    assert len(first.generations) == 6 and sorted(cell.generation for cell in first.cells) == list(range(6))
    for cell in first.cells:
        (alone,) = resolve(parse(cell.request), store_image=str)
        assert first.generations[cell.generation] == alone
        assert not alone.first_step_change
    assert service.job(first.id, LOCAL_ACCESS).cells == first.cells
    assert service.job(first.id, LOCAL_ACCESS).request["compare"]["columns"] == {"field": "seed", "values": [5, 6, 7]}


def test_a_grid_of_one_and_of_sixty_four(service: JobService, worker: Worker, render: FakeRender) -> None:
    worker.start()
    one = ended(service, worker, service.submit(seeds(3), LOCAL_ACCESS))
    assert (one.status, len(one.cells), len(one.clips)) == ("succeeded", 1, 1)
    none = ended(service, worker, service.submit(seeds(), LOCAL_ACCESS))
    assert (none.status, len(none.cells), none.cells[0].column_label) == ("succeeded", 1, "")
    many = service.submit(grid(("seed", list(range(8))), ("sample_steps", list(range(1, 9)))), LOCAL_ACCESS)
    many = ended(service, worker, many)
    assert (many.status, len(many.cells), len(many.clips)) == ("succeeded", 64, 64)
    with pytest.raises(InvalidRequest, match="more than 64"):
        service.submit(grid(("seed", list(range(13))), ("sample_steps", list(range(1, 6)))), LOCAL_ACCESS)


def test_cells_that_are_the_same_video_share_one_file(lora_service: JobService, worker: Worker) -> None:
    worker.start()
    job = ended(
        lora_service,
        worker,
        lora_service.submit(grid(("scale", [0, 1, 1]), loras=[{"path": "style.safetensors"}]), LOCAL_ACCESS),
    )
    assert [cell.column_label for cell in job.cells] == ["no LoRA", "scale 0", "scale 1", "scale 1"]
    assert [cell.generation for cell in job.cells] == [0, 0, 1, 1]
    assert (job.status, len(job.clips), len({clip.file for clip in job.clips})) == ("succeeded", 2, 2)


def test_the_file_carries_the_cells_own_request(service: JobService, worker: Worker, tmp_path: Path) -> None:
    worker.start()
    job = ended(service, worker, service.submit(seeds(4, 5, trigger_word="sks"), LOCAL_ACCESS))
    for cell in job.cells:
        clip = job.clips[cell.generation]
        inside = json.loads((tmp_path / clip.file).read_text())["metadata"]
        assert "compare" not in inside["request"] and inside["request"]["trigger_word"] == "sks"
        assert inside["request"]["prompts"] == [{**job.request["prompts"][0], "seed": 4 + cell.column}]
        again = ended(service, worker, service.submit(inside["request"], LOCAL_ACCESS))
        assert again.generations == (job.generations[cell.generation],)


def test_a_random_seed_is_one_for_the_whole_grid(service: JobService) -> None:
    job = service.submit(
        {**body(-1), "compare": {"columns": {"field": "sample_steps", "values": [1, 2, 3]}}}, LOCAL_ACCESS
    )
    assert len({one.seed for one in job.generations}) == 1 and job.generations[0].seed != -1
    assert {cell.request["prompts"][0]["seed"] for cell in job.cells} == {job.generations[0].seed}


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (grid(("scale", [0.5, 7]), loras=[{"path": "style.safetensors"}]), "7"),
        (seeds(1, 2, -1), "-1"),
        (grid(("sample_steps", [1, 2]), ("guidance_scale", [1, 99])), "99"),
        (grid(("recipe", ["reference", "fast"])), "fast"),
        (grid(("num_frames", [5, 5000])), "5000"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_runs(
    service: JobService, request_: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named) as refusal:
        service.submit(request_, LOCAL_ACCESS)
    assert refusal.value.details["fields"][0]["loc"].startswith("compare.")
    assert service.recent(9, LOCAL_ACCESS) == ()


@pytest.mark.parametrize("model", ["wan21_1b", "wan22_14b_t2v"])
def test_a_missing_file_on_an_axis_is_refused_by_name(lora_service: JobService, model: str) -> None:
    style: Any = "style.safetensors" if model == "wan21_1b" else {"high": "style.safetensors"}
    with pytest.raises(LoraNotFound, match="gone.safetensors"):
        lora_service.submit(grid(("lora", [style, "gone.safetensors"]), model=model), LOCAL_ACCESS)
    assert lora_service.recent(9, LOCAL_ACCESS) == ()


def test_a_half_named_alone_brings_its_partner(lora_service: JobService) -> None:
    half = "job_000000250_high_noise.safetensors"
    job = lora_service.submit(grid(("lora", [half]), model="wan22_14b_t2v"), LOCAL_ACCESS)
    assert [(use.slot, use.path, bool(use.sha256)) for use in job.generations[0].loras] == [
        ("high", half, True),
        ("low", half.replace("high", "low"), True),
    ]
    assert job.cells[0].column_label == "job_000000250"
    with pytest.raises(InvalidRequest, match="style.safetensors: the file states neither high nor low"):
        lora_service.submit(grid(("lora", ["style.safetensors"]), model="wan22_14b_t2v"), LOCAL_ACCESS)


def test_progress_says_which_cell(service: JobService, worker: Worker, render: FakeRender, store: Store) -> None:
    gate = render.gate(6, 2)
    job = service.submit(grid(("seed", [5, 5, 6]), None), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    until_made(store, job.id, 1)
    progress, running = service.progress(job.id), service.running(job.id, LOCAL_ACCESS)
    assert progress is not None and running is not None
    assert (progress.phase, progress.step, progress.note) == ("denoise", 1, "cell 3 of 3")
    assert (running.index, running.of, running.progress) == (1, 2, progress)
    gate.open()
    ended(service, worker, job)
    assert service.running("f" * 32, LOCAL_ACCESS) is None


# A failed cell is marked


def test_a_failed_cell_is_marked_and_the_rest_goes_on(service: JobService, worker: Worker, render: FakeRender) -> None:
    render.errors[2] = VideoEncodingFailed("The encoder broke.")
    render.errors[4] = KeyError("/secret")
    worker.start()
    job = ended(service, worker, service.submit(grid(("seed", [1, 2, 3, 4]), ("sample_steps", [2])), LOCAL_ACCESS))
    assert (job.status, [clip.seed for clip in job.clips]) == ("failed", [1, 3])
    assert {index: error["code"] for index, error in job.failures.items()} == {
        1: "VIDEO_ENCODING_FAILED",
        3: "RENDER_FAILED",
    }
    assert job.error is not None and code(job) == "CELLS_FAILED"
    assert job.error["message"] == (
        "2 of 4 cells failed; seed 2, steps 2: The encoder broke. The others are kept, and a retry renders only what "
        "failed."
    )
    assert [(cell["column"], cell["row"], cell["error"]["code"]) for cell in job.error["details"]["cells"]] == [
        (1, 0, "VIDEO_ENCODING_FAILED"),
        (3, 0, "RENDER_FAILED"),
    ]
    assert "secret" not in json.dumps(job.error)


class ReportingOutOfMemory(FakeRender):
    """Out of memory while a model loads, or while a seed denoises."""

    def __init__(self, phase: str, seed: int) -> None:
        super().__init__()
        self.phase, self.seed = phase, seed

    def __call__(self, generation: Any, on_progress: Any) -> Any:
        def report(progress: Any) -> None:
            on_progress(progress)
            if generation.seed == self.seed and progress.phase == self.phase:
                raise OutOfMemory("The GPU ran out of memory.")

        return super().__call__(generation, report)


@pytest.mark.parametrize(
    ("phase", "error", "made"), [("loading", "OUT_OF_MEMORY", [1]), ("denoise", "CELLS_FAILED", [1, 3])]
)
def test_out_of_memory_while_loading_ends_the_job_and_later_only_its_cell(
    store: Store, tmp_path: Path, phase: str, error: str, made: list[int]
) -> None:
    render = ReportingOutOfMemory(phase, 2)
    worker = Worker(store, render, tmp_path / "clips", fake_write_video)
    service = fake_service(store, worker, tmp_path)
    worker.start()
    job = ended(service, worker, service.submit(seeds(1, 2, 3), LOCAL_ACCESS))
    assert (job.status, code(job), [clip.seed for clip in job.clips]) == ("failed", error, made)
    assert worker.stop()


@pytest.mark.parametrize("error", [CheckpointNotFound("There is no checkpoint."), DiskFull("There is no disk space.")])
def test_what_would_hit_every_cell_ends_the_job_at_once(
    service: JobService, worker: Worker, render: FakeRender, error: WanUIError
) -> None:
    render.errors[2] = error
    worker.start()
    job = ended(service, worker, service.submit(seeds(1, 2, 3), LOCAL_ACCESS))
    assert (job.status, job.error, len(job.clips), job.failures) == ("failed", error.body(), 1, {})
    assert rendered(render) == [1, 2]


# Cancel and retry


def test_cancel_after_two_cells_keeps_them_and_a_retry_makes_the_others(
    service: JobService, worker: Worker, render: FakeRender, tmp_path: Path
) -> None:
    gate = render.gate(3, 1)
    job = service.submit(seeds(1, 2, 3, 4), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    service.cancel(job.id, LOCAL_ACCESS)
    gate.open()
    job = ended(service, worker, job)
    assert (job.status, job.error, [clip.seed for clip in job.clips]) == ("canceled", None, [1, 2])
    assert all(service.clip_path(job.id, clip.index, LOCAL_ACCESS).is_file() for clip in job.clips)
    kept = job.clips
    render.seen.clear()
    job = ended(service, worker, service.retry(job.id, LOCAL_ACCESS))
    assert (job.status, job.clips[:2], [clip.seed for clip in job.clips]) == ("succeeded", kept, [1, 2, 3, 4])
    assert rendered(render) == [3, 4]
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 4


def test_a_retry_renders_only_what_failed(service: JobService, worker: Worker, render: FakeRender) -> None:
    render.errors[2] = VideoEncodingFailed("The encoder broke.")
    worker.start()
    job = ended(service, worker, service.submit(seeds(1, 2, 3), LOCAL_ACCESS))
    assert code(job) == "CELLS_FAILED"
    again = ended(service, worker, service.retry(job.id, LOCAL_ACCESS))
    assert (code(again), again.clips) == ("CELLS_FAILED", job.clips)
    render.errors.clear()
    render.seen.clear()
    job = ended(service, worker, service.retry(job.id, LOCAL_ACCESS))
    assert (job.status, job.error, job.failures, rendered(render)) == ("succeeded", None, {}, [2])


def test_a_retry_goes_to_the_end_of_the_line(service: JobService, worker: Worker, render: FakeRender) -> None:
    first = service.submit(seeds(1, 2), LOCAL_ACCESS)
    service.cancel(first.id, LOCAL_ACCESS)
    others = [service.submit(body(seed), LOCAL_ACCESS) for seed in (5, 6)]
    again = service.retry(first.id, LOCAL_ACCESS)
    assert (again.status, again.position, again.cancel_requested, again.finished_at) == ("in_queue", 3, False, None)
    assert [job.id for job in service.queue(LOCAL_ACCESS)] == [*(job.id for job in others), first.id]
    assert service.retry(first.id, LOCAL_ACCESS) == again  # it waits already
    last = service.submit(body(7), LOCAL_ACCESS)
    assert last.position == 4
    worker.start()
    ended(service, worker, last)
    assert rendered(render) == [5, 6, 1, 2, 7]
    done = service.job(first.id, LOCAL_ACCESS)
    assert service.retry(first.id, LOCAL_ACCESS) == done and done.status == "succeeded"


def test_a_retry_of_what_is_not_there(service: JobService) -> None:
    with pytest.raises(RequestNotFound):
        service.retry("f" * 32, LOCAL_ACCESS)


def test_an_ordinary_job_can_be_retried_too(service: JobService, worker: Worker, render: FakeRender) -> None:
    render.errors[2] = OutOfMemory("Not enough GPU memory.")
    worker.start()
    job = ended(service, worker, service.submit(body(1, 2, 3), LOCAL_ACCESS))
    assert (code(job), [clip.seed for clip in job.clips]) == ("OUT_OF_MEMORY", [1])
    render.errors.clear()
    job = ended(service, worker, service.retry(job.id, LOCAL_ACCESS))
    assert (job.status, job.error, [clip.seed for clip in job.clips]) == ("succeeded", None, [1, 2, 3])


# The stop


def test_a_stop_keeps_cells_and_marks(store: Store, render: FakeRender, tmp_path: Path) -> None:
    render.errors[2] = VideoEncodingFailed("The encoder broke.")
    worker = Worker(store, render, tmp_path / "clips", fake_write_video)
    service = fake_service(store, worker, tmp_path)
    gate = render.gate(3, 1)
    job = service.submit(seeds(1, 2, 3), LOCAL_ACCESS)
    worker.start()
    gate.await_arrival()
    until_made(store, job.id, 1)
    assert not worker.stop(timeout=0.01)
    gate.open()
    assert worker.stop()
    job = service.job(job.id, LOCAL_ACCESS)
    assert (job.status, len(job.clips), list(job.failures)) == ("in_queue", 1, [1])

    rest = FakeRender()
    again = Worker(store, rest, tmp_path / "clips", fake_write_video)
    again.start()
    job = ended(fake_service(store, again, tmp_path), again, job)
    assert (code(job), [clip.seed for clip in job.clips], rendered(rest)) == ("CELLS_FAILED", [1, 3], [3])
    assert again.stop()


# Files by address


def test_files_of_an_axis_are_fetched_while_the_job_waits(tmp_path: Path, render: FakeRender) -> None:
    services = Services(tmp_path, render)
    services.fetcher.start()
    services.worker.start()
    with serving() as file_server:
        urls = [file_server.put(f"{name}.safetensors", lora_bytes(pad=pad)) for pad, name in enumerate("aab")]
        job = services.ended(services.service.submit(grid(("lora", urls), ("seed", [1, 2]), loras=[]), LOCAL_ACCESS))
        assert (job.status, len(job.cells), len(job.generations), len(job.clips)) == ("succeeded", 8, 6, 6)
        assert {len(one.loras) for one in job.generations} == {0, 1}
        assert all(use.sha256 for one in job.generations for use in one.loras)

        gone = services.ended(
            services.service.submit(grid(("lora", [urls[0], f"{file_server.url}/gone.safetensors"])), LOCAL_ACCESS)
        )
        assert (gone.status, gone.clips, code(gone)) == ("failed", (), "FETCH_FAILED")
        file_server.put("gone.safetensors", lora_bytes(pad=9))
        again = services.ended(services.service.retry(gone.id, LOCAL_ACCESS))
        assert (again.status, len(again.clips)) == ("succeeded", 2)
    services.close()


def test_a_random_seed_outlives_the_fetch(tmp_path: Path, render: FakeRender) -> None:
    services = Services(tmp_path, render)
    with serving() as file_server:
        url = file_server.put("a.safetensors", lora_bytes())
        asked = services.service.submit(
            {**grid(("scale", [0.5, 1]), loras=[{"path": url}]), "prompts": body(-1)["prompts"]}, LOCAL_ACCESS
        )
        services.fetcher.start()
        services.worker.start()
        job = services.ended(asked)
    assert job.status == "succeeded" and {clip.seed for clip in job.clips} == {asked.generations[0].seed}
    assert [cell.column_label for cell in job.cells] == ["no LoRA", "scale 0.5", "scale 1"]
    services.close()


# The file of the list


def test_a_file_of_an_older_schema_has_jobs_without_cells(tmp_path: Path) -> None:
    old = Store(tmp_path / "jobs.sqlite", migrations=MIGRATIONS[:2])
    old.rows(
        "INSERT INTO jobs (id, status, request, generations, notes, total, created_at) "
        "VALUES (:id, 'failed', '{}', '[]', '[]', 0, '2026-01-01T00:00:00.000Z')",
        {"id": "a" * 32},
    )
    old.close()
    new = Store(tmp_path / "jobs.sqlite")
    job = new.job("a" * 32)
    assert (job.cells, job.failures) == ((), {})
    new.retry(job.id)
    assert new.claim_next() == job.id
    new.close()


def test_only_a_running_jobs_generation_can_fail(store: Store) -> None:
    job = store.add({}, ())
    store.add_failure(job.id, 0, {"code": "X"})
    assert store.job(job.id).failures == {}
    assert store.claim_next() == job.id
    for index in (10, 2):
        store.add_failure(job.id, index, {"code": f"é{index}", "details": {"x": [1, None]}})
    assert store.job(job.id).failures[10] == {"code": "é10", "details": {"x": [1, None]}}
    store.retry(job.id)  # it runs
    assert store.job(job.id).status == "in_progress"

"""The job store: order, transitions, round trips, migrations, what SQLite cannot do."""

from __future__ import annotations

import re
import sqlite3
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs.helpers import body
from wan_ui.errors import DiskFull, HostError, RequestNotFound
from wan_ui.job import ClipRecord, Job
from wan_ui.jobs.schema import MIGRATIONS
from wan_ui.jobs.store import Store, dump_generations, load_generations
from wan_ui.request import Generation, LoraUse, parse, resolve


def add(store: Store, *seeds: int) -> Job:
    request = body(*seeds)
    return store.add(request, resolve(parse(request), store_image=str))


def clip(index: int, name: str = "") -> ClipRecord:
    return ClipRecord(index, 64, 32, 5, 16, 2**63 - 1, f"clips/{name or index}.mp4", {"recipe": "reference"})


def claimed(store: Store, *seeds: int) -> str:
    job = add(store, *seeds)
    assert store.claim_next() == job.id
    return job.id


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
GENERATIONS = st.builds(
    Generation,
    model=TEXT,
    recipe=st.sampled_from(["reference", "preview"]),
    prompt=TEXT,
    neg=TEXT,
    width=st.integers(64, 4096),
    height=st.integers(64, 4096),
    num_frames=st.integers(1, 1000),
    fps=st.integers(1, 120),
    seed=st.integers(0, 2**63 - 1),
    sample_steps=st.integers(1, 150),
    guidance_scale=st.floats(0, 20),
    image=st.none() | TEXT,
    loras=st.lists(
        st.builds(LoraUse, slot=TEXT, path=TEXT, scale=st.floats(-2, 2), sha256=st.none() | TEXT), max_size=2
    ).map(tuple),
    requested_width=st.integers(64, 4096),
    requested_height=st.integers(64, 4096),
    requested_num_frames=st.integers(1, 1000),
    ignored=st.lists(TEXT, max_size=2).map(tuple),
)


@given(st.lists(GENERATIONS, max_size=3).map(tuple))
def test_generations_round_trip_exactly(generations: tuple[Generation, ...]) -> None:
    loaded = load_generations(dump_generations(generations))
    assert loaded == generations
    assert repr(loaded) == repr(generations)  # types too: a list is no tuple, 1 is not 1.0


def test_a_job_is_read_back_as_it_was_added(store: Store) -> None:
    request = {**body(3), "trigger_word": "zażółć 🦊"}
    generations = resolve(parse(request), store_image=str)
    job = store.add(request, generations, ("a note",))
    assert re.fullmatch("[0-9a-f]{32}", job.id)
    assert (job.status, job.position, job.clips, job.error) == ("in_queue", 1, (), None)
    assert (job.started_at, job.finished_at, job.attempts, job.cancel_requested) == (None, None, 0, False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job.created_at)
    assert (job.request, job.generations, job.notes) == (request, generations, ("a note",))
    assert store.job(job.id) == job


def test_positions_count_those_ahead_and_claims_go_oldest_first(store: Store) -> None:
    ids = [add(store, seed).id for seed in range(4)]
    assert [store.job(one).position for one in ids] == [1, 2, 3, 4]
    assert store.claim_next() == ids[0]
    store.request_cancel(ids[2])
    assert [store.job(one).position for one in ids] == [None, 1, None, 2]
    assert [job.id for job in store.unfinished()] == [ids[0], ids[1], ids[3]]
    assert [job.id for job in store.unfinished(2)] == [ids[0], ids[1]]
    assert store.waiting() == 2
    assert [job.id for job in store.recent(2)] == [ids[3], ids[2]]
    assert store.claim_next() == ids[1]
    assert store.claim_next() == ids[3]
    assert store.claim_next() is None


@pytest.mark.parametrize("job_id", ["", "0" * 32, "x", "'; DROP TABLE jobs; --", "\ud800" * 32])
def test_an_unknown_id_is_not_found(store: Store, job_id: str) -> None:
    with pytest.raises(RequestNotFound):
        store.job(job_id)


def test_a_clip_belongs_to_a_running_job_only(store: Store) -> None:
    job = add(store, 1, 2)
    assert not store.add_clip(job.id, clip(0))
    store.claim_next()
    assert store.add_clip(job.id, clip(1))
    assert store.add_clip(job.id, clip(0))
    assert store.finish(job.id, "succeeded") == "succeeded"
    assert not store.add_clip(job.id, clip(2))
    assert store.job(job.id).clips == (clip(0), clip(1))


def test_a_finished_job_does_not_change(store: Store) -> None:
    job_id = claimed(store, 1)
    store.finish(job_id, "failed", {"code": "X", "message": "m", "details": {}})
    ended = store.job(job_id)
    assert ended.started_at and ended.finished_at and ended.error == {"code": "X", "message": "m", "details": {}}
    store.request_cancel(job_id)
    store.requeue(job_id)
    assert store.finish(job_id, "succeeded") is None
    assert store.recover() == {}
    assert store.job(job_id) == ended


def test_a_waiting_job_does_not_finish(store: Store) -> None:
    job = add(store, 1)
    assert store.finish(job.id, "succeeded") is None
    assert store.job(job.id) == job


def test_cancel_of_a_waiting_job_is_its_end(store: Store) -> None:
    job = add(store, 1)
    store.request_cancel(job.id)
    ended = store.job(job.id)
    assert (ended.status, ended.started_at, ended.position) == ("canceled", None, None)
    assert ended.finished_at
    assert store.claim_next() is None


def test_cancel_of_a_running_job_is_a_flag_that_success_does_not_overrule(store: Store) -> None:
    job_id = claimed(store, 1)
    assert not store.cancel_requested(job_id)
    store.request_cancel(job_id)
    assert store.cancel_requested(job_id)
    assert store.job(job_id).status == "in_progress"
    assert store.finish(job_id, "succeeded") == "canceled"


def test_requeue_keeps_position_clips_and_attempts(store: Store) -> None:
    first = claimed(store, 1, 2)
    second = add(store, 3)
    store.add_clip(first, clip(0))
    store.requeue(first)
    job = store.job(first)
    assert (job.status, job.position, job.attempts, job.started_at) == ("in_queue", 1, 0, None)
    assert job.clips == (clip(0),)
    assert store.job(second.id).position == 2


def test_requeue_of_a_canceled_job_cancels_it(store: Store) -> None:
    job_id = claimed(store, 1)
    store.request_cancel(job_id)
    store.requeue(job_id)
    assert store.job(job_id).status == "canceled"
    assert store.job(job_id).finished_at


def test_recover_puts_back_twice_and_fails_the_third_time(store: Store) -> None:
    first, second = add(store, 1, 2), add(store, 3)
    for attempt in (1, 2):
        assert store.claim_next() == first.id
        assert store.recover() == {first.id: "in_queue"}
        job = store.job(first.id)
        assert (job.position, job.attempts, job.started_at, job.error) == (1, attempt, None, None)
    store.claim_next()
    store.add_clip(first.id, clip(0))
    assert store.recover() == {first.id: "failed"}
    job = store.job(first.id)
    assert job.error is not None
    assert job.error["code"] == "RENDER_FAILED"
    assert "the process ended three times while running this" in job.error["message"].lower()
    assert job.finished_at
    assert job.clips == (clip(0),)
    assert store.job(second.id).position == 1


def test_recover_keeps_a_cancel(store: Store) -> None:
    job_id = claimed(store, 1)
    store.request_cancel(job_id)
    assert store.recover() == {job_id: "canceled"}
    assert (store.job(job_id).error, bool(store.job(job_id).finished_at)) == (None, True)


def test_a_job_is_claimed_by_one_thread_only(store: Store) -> None:
    ids = [add(store, seed).id for seed in range(40)]
    start = threading.Barrier(4)
    claims: list[list[str]] = [[], [], [], []]

    def claim(mine: list[str]) -> None:
        start.wait()
        while (job_id := store.claim_next()) is not None:
            mine.append(job_id)

    threads = [threading.Thread(target=claim, args=(mine,)) for mine in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job_id for mine in claims for job_id in mine) == sorted(ids)
    assert all(mine == sorted(mine, key=ids.index) for mine in claims)


def test_the_file_is_wal_durable_and_has_a_version(store: Store, tmp_path: Path) -> None:
    add(store, 1)
    with sqlite3.connect(tmp_path / "jobs.sqlite") as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert other.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert other.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    other.close()
    with pytest.raises(sqlite3.IntegrityError):  # foreign keys are on
        store.rows(
            "INSERT INTO clips VALUES ('none', 0, 1, 1, 1, 1, 1, 'f', '{}', 'now')",
            {},
        )
    assert store.rows("PRAGMA synchronous", {})[0][0] == 2


def test_a_reopened_file_has_the_same_jobs(tmp_path: Path) -> None:
    first = Store(tmp_path / "jobs.sqlite")
    job = add(first, 1)
    first.close()
    second = Store(tmp_path / "jobs.sqlite")
    assert second.recent(5) == (job,)
    second.close()


def test_an_older_file_is_brought_up(tmp_path: Path) -> None:
    old = Store(tmp_path / "jobs.sqlite")
    job = add(old, 1)
    old.close()
    newer = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN flavour TEXT", "UPDATE jobs SET flavour = 'owner'"))
    new = Store(tmp_path / "jobs.sqlite", migrations=newer)
    assert new.job(job.id) == job
    assert new.rows("SELECT flavour FROM jobs", {})[0]["flavour"] == "owner"
    new.close()


def test_a_migration_that_breaks_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    old = Store(tmp_path / "jobs.sqlite")
    job = add(old, 1)
    old.close()
    broken = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN flavour TEXT", "UPDATE nothing SET x = 1"))
    with pytest.raises(sqlite3.OperationalError):
        Store(tmp_path / "jobs.sqlite", migrations=broken)
    again = Store(tmp_path / "jobs.sqlite")
    assert again.job(job.id) == job
    again.close()


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "jobs.sqlite", migrations=(*MIGRATIONS, ())).close()
    with pytest.raises(HostError, match="newer wan-ui"):
        Store(tmp_path / "jobs.sqlite")


def test_a_newer_file_is_left_as_it_is_and_both_versions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    Store(path, migrations=(*MIGRATIONS, ())).close()
    before, names = path.read_bytes(), sorted(each.name for each in tmp_path.iterdir())
    with pytest.raises(HostError) as refused:
        Store(path)
    assert (
        f"schema {len(MIGRATIONS) + 1}" in refused.value.message and f"knows {len(MIGRATIONS)}" in refused.value.message
    )
    assert path.read_bytes() == before and sorted(each.name for each in tmp_path.iterdir()) == names


def test_a_full_disk_is_said(store: Store) -> None:
    pages = store.rows("PRAGMA page_count", {})[0][0]
    store.rows(f"PRAGMA max_page_count = {pages}", {})
    with pytest.raises(DiskFull):
        store.add({"model": "x" * 100_000}, ())
    assert store.recent(9) == ()


def test_a_locked_file_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite", busy_seconds=0.01)
    other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HostError, match="locked"):
        add(store, 1)
    assert store.recent(9) == ()  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert add(store, 1).position == 1
    store.close()


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").write_bytes(b"no database " * 1000)
    with pytest.raises(HostError, match="damaged"):
        Store(tmp_path / "jobs.sqlite")


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be used"):
        Store(tmp_path / "none" / "jobs.sqlite")


def test_jobs_know_their_browser(store: Store) -> None:
    mine, theirs, none = (store.add({}, add(store, 1).generations, visitor=visitor) for visitor in ("a", "b", None))
    assert (mine.visitor, theirs.visitor, none.visitor) == ("a", "b", None)
    assert [job.id for job in store.recent(9, "a")] == [mine.id]
    assert [job.id for job in store.recent(1)] == [none.id]


def test_who_brought_a_file_is_kept(store: Store) -> None:
    store.record_owner("a", "lora", "x")
    store.record_owner("a", "lora", "x")
    assert store.is_owner("a", "lora", "x")
    assert not any(
        (store.is_owner("b", "lora", "x"), store.is_owner("a", "image", "x"), store.is_owner("a", "lora", "y"))
    )


def test_the_owner_of_a_thousand_files_is_kept_in_one_transaction(store: Store) -> None:
    """A transaction for each made an upload of so many take 8 s."""
    names = ["x", *(f"{number:064x}" for number in range(999))]
    store.record_owner("a", "image", "x")
    before = store.rows("SELECT total_changes() AS changes", {})[0]["changes"]
    store.record_owners("a", "image", names)
    store.record_owners("a", "image", [])
    assert all(store.is_owner("a", "image", name) for name in names)
    assert store.rows("SELECT total_changes() AS changes", {})[0]["changes"] == before + 999

"""The gallery over a real store and real files: pages, filters, search, keeping, deleting, letting go, migration."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.jobs.helpers import body
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.compare import PlannedCell
from wan_ui.errors import HostError, InvalidRequest, RequestNotFound, StillRunning, VideoNotFound
from wan_ui.identity import Identity
from wan_ui.job import ClipRecord, generation_body
from wan_ui.jobs.gallery import BROWSERS, EVERYBODY, Filter, Gallery, Retention, scope_of
from wan_ui.jobs.runner import WorkerHooks
from wan_ui.jobs.schema import MIGRATIONS
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.media import poster, video
from wan_ui.request import Generation, LoraUse, parse, resolve

ANY = Filter()
ONE, OTHER = "1" * 32, "2" * 32
FOX, OWL = "f" * 64, "0" * 64


class CountingStore(Store):
    """A store that keeps the statements that other modules execute in it."""

    asked: list[str]

    def rows(self, sql: str, values: Mapping[str, Any]) -> list[sqlite3.Row]:
        self.asked.append(sql)
        return super().rows(sql, values)


class Services:
    """Makes finished clips, each with its files, and counts the statements of what is asked."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store, self.made = folder, store, 0
        (folder / "clips").mkdir()
        self.gallery = Gallery(store, folder)

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "clips").iterdir())

    def job(
        self,
        *prompts: str,
        model: str = "wan21_1b",
        visitor: str | None = ONE,
        loras: tuple[LoraUse, ...] = (),
        metadata: dict[str, Any] | None = None,
        compared: bool = False,
        end: bool = True,
        clips: int | None = None,
        size: int = 100,
    ) -> str:
        """A job with a clip for each prompt, of which the first `clips` are made; its id."""
        seeds = range(len(prompts))
        asked = body(*seeds, model=model)
        for item, prompt in zip(asked["prompts"], prompts, strict=True):
            item["prompt"] = prompt
        generations = tuple(
            Generation(**{**vars(one), "loras": loras}) for one in resolve(parse(asked), store_image=str)
        )
        cells = tuple(PlannedCell(index, 0, f"c{index}", "", index, {}) for index in seeds) if compared else ()
        job = self.store.add(asked, generations, cells=cells, visitor=visitor)
        self.store.rows("UPDATE jobs SET status = 'in_progress' WHERE id = :id", {"id": job.id})
        for index in range(len(prompts) if clips is None else clips):
            self.clip(job.id, index, metadata, size)
        if end:
            self.store.finish(job.id, "succeeded")
        return job.id

    def clip(self, job_id: str, index: int, metadata: dict[str, Any] | None = None, size: int = 100) -> None:
        self.made += 1
        name = f"{self.made:032x}"
        for suffix in (".mp4", ".jpg", ".mkv", ".png"):
            (self.folder / "clips" / f"{name}{suffix}").write_bytes(b"x" * size)
        record = ClipRecord(index, 64, 32, 5, 16, 42, f"clips/{name}.mp4", metadata or {})
        assert self.store.add_clip(job_id, record)

    def ids(self, wanted: Filter = ANY, **given: Any) -> list[str]:
        return [entry.id for entry in self.gallery.page(given.pop("scope", EVERYBODY), wanted, **given).entries]

    def age(self, job_id: str, **ago: float) -> None:
        then = (datetime.now(UTC) - timedelta(**ago)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.store.rows("UPDATE entries SET made_at = :then WHERE job_id = :id", {"then": then, "id": job_id})


@pytest.fixture
def services(tmp_path: Path, store: Store) -> Services:
    return Services(tmp_path, store)


def test_every_page_once_and_in_order_both_ways(services: Services) -> None:
    made = [f"{services.job('a')}-0" for _ in range(7)][::-1]
    first = services.gallery.page(EVERYBODY, ANY, limit=3)
    second = services.gallery.page(EVERYBODY, ANY, first.older, 3)
    third = services.gallery.page(EVERYBODY, ANY, second.older, 3)
    assert [entry.id for page in (first, second, third) for entry in page.entries] == made
    assert (first.newer, third.older) == (None, None)
    assert services.gallery.page(EVERYBODY, ANY, third.newer, 3) == second
    assert services.gallery.page(EVERYBODY, ANY, second.newer, 3) == first


def test_a_new_clip_moves_no_page_and_the_first_is_found_again_full(services: Services) -> None:
    made = [f"{services.job('a')}-0" for _ in range(5)][::-1]
    first = services.gallery.page(EVERYBODY, ANY, limit=2)
    newest = f"{services.job('a')}-0"
    second = services.gallery.page(EVERYBODY, ANY, first.older, 2)
    assert [entry.id for entry in second.entries] == made[2:4]
    back = services.gallery.page(EVERYBODY, ANY, second.newer, 2)
    assert [entry.id for entry in back.entries] == made[:2] and back.newer is not None
    top = services.gallery.page(EVERYBODY, ANY, back.newer, 2)
    assert [entry.id for entry in top.entries] == [newest, made[0]] and top.newer is None


def test_a_page_whose_entries_were_deleted_still_leads_back(services: Services) -> None:
    made = [f"{services.job('a')}-0" for _ in range(4)]
    first = services.gallery.page(EVERYBODY, ANY, limit=2)
    for entry_id in made[:2]:
        services.gallery.delete(entry_id)
    empty = services.gallery.page(EVERYBODY, ANY, first.older, 2)
    assert empty.entries == () and empty.older is None and empty.newer is not None
    assert [e.id for e in services.gallery.page(EVERYBODY, ANY, empty.newer, 2).entries] == made[:1:-1]


@pytest.mark.parametrize("cursor", ["x", "b", "c12", "b-1", "a1 OR 1", "b" + "9" * 19])
def test_a_foreign_cursor_is_refused(services: Services, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        services.gallery.page(EVERYBODY, ANY, cursor)


def test_the_number_of_queries_does_not_grow(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "counted.sqlite")
    store.asked = []
    services = Services(tmp_path, store)
    for index in range(30):
        services.job(f"a {index}", loras=(LoraUse("single", "fox.safetensors", 1, FOX),))
        services.job("b", "c", compared=True)
    asked = store.asked
    for wanted in (ANY, Filter(words="a 1"), Filter(loras=(FOX,), model="wan21_1b", kept=True)):
        asked.clear()
        page = services.gallery.page(EVERYBODY, wanted, limit=20)
        assert len(asked) == 1
        if page.older:
            asked.clear()
            services.gallery.page(EVERYBODY, wanted, page.older, 20)
            assert len(asked) == 1
    store.close()


def test_filters(services: Services) -> None:
    high, low = LoraUse("high", "j/fox_high.safetensors", 1, FOX), LoraUse("low", "j/fox_low.safetensors", 1, OWL)
    fox = f"{services.job('a', loras=(high, low), model='wan22_14b_t2v')}-0"
    owl = f"{services.job('b', loras=(LoraUse('single', 'upload://' + '3' * 32, 1, OWL),))}-0"
    plain = f"{services.job('c', visitor=OTHER)}-0"
    assert services.ids() == [plain, owl, fox]
    assert services.ids(Filter(model="wan22_14b_t2v")) == [fox]
    assert services.ids(Filter(loras=(FOX,))) == [fox]
    assert services.ids(Filter(loras=(OWL,))) == [owl, fox]
    assert services.ids(Filter(loras=("fox_high.safetensors",))) == [fox]
    assert services.ids(Filter(job=plain[:32])) == [plain]
    assert services.ids(Filter(loras=(OWL,), model="wan21_1b")) == [owl]
    assert services.ids(Filter(loras=("fox_high.safetensors", OWL))) == [owl, fox]
    assert services.ids(Filter(model="none")) == []


def test_a_loras_name_is_what_the_render_knew_and_of_an_address_never_its_query(services: Services) -> None:
    metadata = {"lora": {"single": {"files": [{"name": "Owl.safetensors", "sha256": OWL}]}}}
    services.job("a", loras=(LoraUse("single", "upload://" + "3" * 32, 1, OWL),), metadata=metadata)
    services.job("b", loras=(LoraUse("single", "https://x.org/d/fox.safetensors?token=secret", 1, FOX),))
    choices = services.gallery.choices(EVERYBODY)
    assert [(lora.name, lora.sha256, count) for lora, count in choices.loras] == [
        ("Owl.safetensors", OWL, 1),
        ("fox.safetensors", FOX, 1),
    ]
    assert services.ids(Filter(loras=("Owl.safetensors",))) and "secret" not in str(
        services.gallery.page(EVERYBODY, ANY).entries[0].loras
    )
    assert (choices.entries, choices.kept, choices.models) == (2, 0, (("wan21_1b", 2),))


def test_a_job_with_several_prompts_has_an_entry_for_each(services: Services) -> None:
    job = services.job("a fox", "an owl")
    assert services.ids() == [f"{job}-1", f"{job}-0"]
    assert [entry.generation.prompt for entry in services.gallery.page(EVERYBODY, ANY).entries] == ["an owl", "a fox"]


def test_a_comparison_is_one_entry(services: Services) -> None:
    before = services.job("before")
    job = services.job("a fox", "an owl", "a bear", compared=True, end=False, clips=2)
    after = services.job("after")
    assert services.ids() == [f"{after}-0", job, f"{before}-0"]
    entry = services.gallery.entry(job)
    assert (entry.index, entry.cells, entry.made, entry.videos, entry.final) == (None, 3, 2, 3, False)
    services.clip(job, 2)
    services.store.finish(job, "succeeded")
    assert services.ids() == [f"{after}-0", job, f"{before}-0"]
    assert services.ids(Filter(words="owl")) == [job] == services.ids(Filter(words="bear"))


@pytest.mark.parametrize(
    "words",
    ["red FOX", "fox red", "ROTER Fuchs straße", "STRASSE", "100%", "_under", "ﬁne", "fine", "zaż", "'; DROP"],
)
def test_a_search_finds_all_of_its_words_in_any_case(services: Services, words: str) -> None:
    prompt = "A red fox; roter FUCHS, Straße 100% _under ﬁne Zażółć 🦊 [x]"
    found = f"{services.job(prompt)}-0"
    services.job("an owl 1000 under")
    assert services.ids(Filter(words=words)) == ([] if "DROP" in words else [found])
    assert services.ids(Filter(words=f"{words} bear")) == []


def test_nothing_but_blanks_searches_nothing(services: Services) -> None:
    made = f"{services.job('a')}-0"
    assert services.ids(Filter(words="  ")) == [made]


def test_each_sees_what_is_theirs(services: Services) -> None:
    mine, theirs, program = services.job("a"), services.job("b", visitor=OTHER), services.job("c", visitor=None)
    own = scope_of(Access(Identity(ONE, False), shared=False))
    assert own is not None and services.ids(scope=own) == [f"{mine}-0"]
    assert services.ids(scope=scope_of(Access(Identity(OTHER, False), shared=False))) == [f"{theirs}-0"]
    assert services.ids(scope=BROWSERS) == [f"{theirs}-0", f"{mine}-0"]
    assert services.ids() == [f"{program}-0", f"{theirs}-0", f"{mine}-0"]
    assert services.gallery.choices(own).entries == 1


def test_what_is_kept_is_marked_and_found(services: Services) -> None:
    one, two = f"{services.job('a')}-0", services.job("b", "c", compared=True)
    assert services.gallery.keep(two, True).kept
    assert services.ids(Filter(kept=True)) == [two] and services.gallery.choices(EVERYBODY).kept == 1
    assert not services.gallery.keep(two, False).kept
    assert services.ids(Filter(kept=True)) == []
    assert services.gallery.entry(one).kept is False


@pytest.mark.parametrize("entry_id", ["", "x", "0" * 32, "0" * 32 + "-0", "../" + "0" * 32, "0" * 32 + "-99999999999"])
def test_what_is_not_there(services: Services, entry_id: str) -> None:
    services.job("a")
    for ask in (services.gallery.entry, services.gallery.delete, lambda one: services.gallery.keep(one, True)):
        with pytest.raises(VideoNotFound):
            ask(entry_id)


def test_a_comparison_has_no_entry_for_a_cell(services: Services) -> None:
    job = services.job("a", "b", compared=True)
    with pytest.raises(VideoNotFound):
        services.gallery.entry(f"{job}-0")


def test_deleting_a_clip_leaves_no_file_and_no_request(services: Services) -> None:
    stays = services.job("stays")
    kept = services.files()
    job = services.job("goes")
    assert len(services.files()) == 8
    services.gallery.delete(f"{job}-0")
    assert services.files() == kept and services.ids() == [f"{stays}-0"]
    with pytest.raises(RequestNotFound):
        services.store.job(job)
    assert services.store.rows("SELECT * FROM doomed", {}) == []
    assert services.store.rows("SELECT * FROM entry_loras", {}) == []


def test_deleting_one_of_several_leaves_the_others(services: Services) -> None:
    job = services.job("a", "b", "c")
    services.gallery.delete(f"{job}-1")
    assert services.ids() == [f"{job}-2", f"{job}-0"] and len(services.files()) == 8
    assert [clip.index for clip in services.store.job(job).clips] == [0, 2]
    services.gallery.delete(f"{job}-0")
    services.gallery.delete(f"{job}-2")
    assert services.files() == []
    with pytest.raises(RequestNotFound):
        services.store.job(job)


def test_deleting_a_comparison_takes_all_of_it(services: Services) -> None:
    job = services.job("a", "b", "c", compared=True)
    services.gallery.delete(job)
    assert services.files() == [] and services.ids() == []
    with pytest.raises(RequestNotFound):
        services.store.job(job)


def test_a_request_that_ended_without_a_clip_is_deleted_by_its_id(services: Services) -> None:
    """Of one with clips the entries are deleted, and one that may still run is cancelled first."""
    made = services.job("a")
    waiting, failed = (services.job(text, end=False, clips=0) for text in ("b", "c"))
    services.store.finish(failed, "failed")
    without = [job for job in (made, waiting, failed) if services.gallery.is_request_without_clips(job)]
    assert without == [waiting, failed] and not services.gallery.is_request_without_clips("0" * 32)
    services.gallery.delete_request(failed)
    with pytest.raises(RequestNotFound):
        services.store.job(failed)
    for stays in (waiting, made):
        with pytest.raises(StillRunning):
            services.gallery.delete_request(stays)
        assert services.store.job(stays).id == stays


def test_a_request_without_clips_is_deleted_by_its_sender_alone(
    tmp_path: Path, store: Store, service: JobService
) -> None:
    job = Services(tmp_path, store).job("b", end=False, clips=0, visitor=ONE)
    store.finish(job, "canceled")
    own, other = (Access(Identity(visitor, False), shared=True) for visitor in (ONE, OTHER))
    with pytest.raises(VideoNotFound):
        service.delete_entry(job, other)
    service.delete_entry(job, own)
    with pytest.raises(RequestNotFound):
        store.job(job)


@pytest.mark.parametrize("compared", [False, True])
def test_what_runs_is_not_deleted(services: Services, compared: bool) -> None:
    job = services.job("a", "b", compared=compared, end=False, clips=1)
    entry_id = job if compared else f"{job}-0"
    with pytest.raises(StillRunning):
        services.gallery.delete(entry_id)
    assert len(services.files()) == 4 and services.ids() == [entry_id]
    services.store.finish(job, "canceled")
    services.gallery.delete(entry_id)
    assert services.files() == []


def test_a_file_that_cannot_be_removed_is_said_and_tried_again(services: Services) -> None:
    job = services.job("a")
    (clip,) = (services.folder / "clips").glob("*.mp4")
    clip.unlink()
    clip.mkdir()  # which unlink refuses, for root too
    with pytest.raises(HostError, match="cannot be removed"):
        services.gallery.delete(f"{job}-0")
    assert services.ids() == []
    clip.rmdir()
    clip.write_bytes(b"x")
    services.gallery.tidy(Retention())
    assert services.files() == []


def test_what_was_compared_with_a_preview_goes_too(
    tmp_path: Path, store: Store, worker: Worker, service: JobService
) -> None:
    services = Services(tmp_path, store)
    job, other = services.job("a", "b"), services.job("c")
    sha256 = "a" * 64
    (tmp_path / "trainer" / "previews").mkdir(parents=True)
    for name in (sha256, "b" * 64):
        (tmp_path / "trainer" / "previews" / name).write_bytes(b"a preview")
    service.imported_jobs.link(job, 0, sha256)
    service.imported_jobs.link(other, 0, sha256)
    service.imported_jobs.link(job, 1, "b" * 64)
    for name in (f"{job}-0-5-6", f"{job}-1-5-6", f"{other}-0-5-6"):
        (tmp_path / "compared" / name).mkdir(parents=True)
        (tmp_path / "compared" / name / "preview.mp4").write_bytes(b"a film")
    service.gallery.delete(f"{job}-1")
    service.gallery.delete(f"{job}-0")
    assert [path.name for path in (tmp_path / "compared").iterdir()] == [f"{other}-0-5-6"]
    assert [path.name for path in (tmp_path / "trainer" / "links").iterdir()] == [f"{other}-0"]
    assert [path.name for path in (tmp_path / "trainer" / "previews").iterdir()] == [sha256]
    service.gallery.delete(f"{other}-0")
    left = [path for path in (tmp_path / "trainer").rglob("*") if path.is_file()]
    assert left == [] and list((tmp_path / "compared").iterdir()) == []


def test_by_age_all_but_favourites_and_what_runs(services: Services) -> None:
    old, favourite, running = services.job("old"), services.job("old"), services.job("old", "b", end=False, clips=1)
    compared, recent = services.job("old", "c", compared=True), services.job("new")
    services.gallery.keep(f"{favourite}-0", True)
    failed = services.store.add(body(1), resolve(parse(body(1)), store_image=str))
    services.store.rows(
        "UPDATE jobs SET status = 'failed', finished_at = '2020-01-01T00:00:00.000Z' WHERE id = :id", {"id": failed.id}
    )
    for job in (old, favourite, running, compared):
        services.age(job, days=3)
    services.age(recent, days=1)
    services.gallery.tidy(Retention(days=2))
    assert services.ids() == [f"{recent}-0", f"{running}-0", f"{favourite}-0"]
    assert len(services.files()) == 12
    for job in (old, compared, failed.id):
        with pytest.raises(RequestNotFound):
            services.store.job(job)
    services.gallery.tidy(Retention())
    assert len(services.files()) == 12


def test_by_size_the_oldest_first_until_it_fits(services: Services) -> None:
    favourite, oldest, compared, running, newer, newest = (
        services.job("a", size=1000),
        services.job("b", size=1000),
        services.job("c", "d", compared=True, size=1000),
        services.job("e", "f", end=False, clips=1, size=1000),
        services.job("g", size=1000),
        services.job("h", size=1000),
    )
    services.gallery.keep(f"{favourite}-0", True)
    whole = 7 * 4000
    services.gallery.tidy(Retention(size=whole))
    assert len(services.ids()) == 6
    services.gallery.tidy(Retention(size=whole - 1))
    assert services.ids() == [f"{newest}-0", f"{newer}-0", f"{running}-0", compared, f"{favourite}-0"]
    services.gallery.tidy(Retention(size=whole - 4001))
    assert services.ids() == [f"{newest}-0", f"{newer}-0", f"{running}-0", f"{favourite}-0"]
    services.gallery.tidy(Retention(size=1))
    assert services.ids() == [f"{newest}-0", f"{running}-0", f"{favourite}-0"]
    assert len(services.files()) == 12 and oldest


def test_by_size_what_was_compared_counts(services: Services) -> None:
    job, newest = services.job("a"), services.job("b")
    film = services.folder / "compared" / f"{job}-0-5-6" / "preview.mp4"
    film.parent.mkdir(parents=True)
    film.write_bytes(b"x" * 10_000)
    services.gallery.tidy(Retention(size=9_000))
    assert services.ids() == [f"{newest}-0"]


def test_many_old_ones_go_at_once(services: Services) -> None:
    jobs = [services.job("a") for _ in range(12)]
    for job in jobs:
        services.age(job, days=3)
    for file in (services.folder / "clips").glob("*.jpg"):
        file.unlink()  # already gone: no failure
    services.gallery.tidy(Retention(days=1))
    assert services.ids() == [] and services.files() == []


def test_a_poster_is_made_where_it_is_missing(services: Services) -> None:
    frames = np.zeros((5, 64, 1024, 3), np.uint8)
    frames[2] = (200, 30, 30)
    job = services.job("a")
    entry = services.gallery.entry(f"{job}-0")
    path = services.folder / entry.file
    path.unlink()
    video.write(path, frames, 16, {})
    path.with_suffix(".jpg").unlink()
    assert services.gallery.poster(entry) is None
    made = services.gallery.make_poster(entry)
    assert made == services.gallery.poster(entry)
    with Image.open(made) as image:
        assert image.format == "JPEG" and max(image.size) == poster.SIDE
        pixel = image.convert("RGB").getpixel((10, 10))
    assert isinstance(pixel, tuple) and pixel[0] > 150 and pixel[1] < 80
    written = services.folder / "written.jpg"
    poster.write(written, frames)
    with Image.open(written) as image:
        assert max(image.size) == poster.SIDE
    path.unlink()
    made.unlink()
    with pytest.raises(VideoNotFound):
        services.gallery.make_poster(entry)


def test_a_broken_clip_has_no_poster(services: Services) -> None:
    entry = services.gallery.entry(f"{services.job('a')}-0")
    (services.folder / entry.file).with_suffix(".jpg").unlink()
    with pytest.raises(VideoNotFound, match="cannot be read"):
        services.gallery.make_poster(entry)


def test_clips_from_before_the_gallery_are_in_it(tmp_path: Path) -> None:
    before = next(index for index, one in enumerate(MIGRATIONS) if "CREATE TABLE entries" in one[0])
    old = Store(tmp_path / "jobs.sqlite", migrations=MIGRATIONS[:before])
    metadata = json.dumps({"lora": {"single": {"files": [{"name": "Owl.safetensors", "sha256": OWL}]}}})
    generations = [
        generation_body(replace(one, loras=(LoraUse("single", "upload://" + "3" * 32, 1, OWL),)))
        for one in resolve(parse(body(1, 2)), store_image=str)
    ]
    for number, cells in enumerate(("[]", '[{"generation": 0}]', "[]")):
        job = f"{number:032x}"
        old.rows(
            """INSERT INTO jobs (id, status, request, generations, notes, total, cells, visitor, created_at)
            VALUES (:id, 'succeeded', :request, :generations, '[]', 2, :cells, :visitor, '2026-01-01T00:00:00.000Z')""",
            {"id": job, "request": json.dumps(body(1, 2)), "generations": json.dumps(generations), "cells": cells,
             "visitor": ONE if number else None},
        )  # fmt: skip
        for index in (0, 1):
            old.rows(
                """INSERT INTO clips (job_id, clip_index, width, height, num_frames, fps, seed, file, metadata,
                created_at) VALUES (:job, :index, 64, 64, 1, 16, 1, :file, :metadata, :made)""",
                {"job": job, "index": index, "file": f"clips/{number}{index}.mp4", "metadata": metadata,
                 "made": f"2026-01-0{3 - number}T00:00:0{index}.000Z"},
            )  # fmt: skip
    old.close()
    store = Store(tmp_path / "jobs.sqlite")
    gallery = Gallery(store, tmp_path)
    page = gallery.page(EVERYBODY, ANY)
    assert [entry.id for entry in page.entries] == [
        f"{0:032x}-1",
        f"{0:032x}-0",
        f"{1:032x}",
        f"{2:032x}-1",
        f"{2:032x}-0",
    ]
    assert [entry.visitor for entry in page.entries] == [None, None, ONE, ONE, ONE]
    assert page.entries[2].made == 2 and page.entries[2].made_at == "2026-01-02T00:00:01.000Z"
    assert {lora.name for entry in page.entries for lora in entry.loras} == {"Owl.safetensors"}
    gallery.delete(f"{0:032x}-1")
    assert len(gallery.page(EVERYBODY, ANY).entries) == 4
    store.close()


def test_the_worker_tidies_at_its_start_and_after_each_job(tmp_path: Path, store: Store) -> None:
    from tests.fakes import FakeRender, fake_service, fake_write_video

    services = Services(tmp_path, store)
    old = services.job("old")
    services.age(old, days=9)
    job_services: list[JobService] = []
    worker = Worker(
        store,
        FakeRender(),
        tmp_path / "clips",
        fake_write_video,
        hooks=WorkerHooks(tidy=lambda: job_services[0].gallery.tidy(Retention(days=5, size=1))),
    )
    job_services.append(fake_service(store, worker, tmp_path))
    worker.start()
    try:
        for seed in (1, 2):
            job_services[0].submit(body(seed), LOCAL_ACCESS)
        third = job_services[0].submit(body(3), LOCAL_ACCESS)
        assert worker.wait(third.id, 10)
    finally:
        assert worker.stop()
    # Each job's end is reported before the tidying that follows, of which the last ended with the thread.
    assert services.ids() == [f"{third.id}-0"]
    assert sorted(Path(name).suffix for name in services.files()) == [".jpg", ".mp4", ".png"]

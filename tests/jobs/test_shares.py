"""Share links in a real database: made, listed, withdrawn, ended, forgotten; the token is in none of its rows."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.jobs.helpers import body
from wan_ui.access import LOCAL_ACCESS, Access
from wan_ui.errors import OwnerOnly, ShareEnded, ShareNotFound, VideoNotFound
from wan_ui.identity import Identity
from wan_ui.job import ClipRecord
from wan_ui.jobs.gallery import Gallery
from wan_ui.jobs.shares import KEEP_DAYS, TOKEN, ShareLinks
from wan_ui.jobs.store import Store
from wan_ui.request import parse, resolve

GUEST = Access(Identity("a" * 32, owner=False), shared=True)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 28, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "jobs.sqlite")
    yield store
    store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def links(store: Store, tmp_path: Path, clock: Clock) -> ShareLinks:
    return ShareLinks(store, Gallery(store, tmp_path), clock)


@pytest.fixture
def entry(store: Store) -> str:
    job = store.add(body(42), resolve(parse(body(42)), store_image=str))
    assert store.claim_next() == job.id
    store.add_clip(job.id, ClipRecord(0, 64, 64, 5, 16, 42, f"clips/{job.id}.mp4", {}))
    store.finish(job.id, "succeeded")
    return f"{job.id}-0"


def test_a_link_opens_until_its_end(links: ShareLinks, entry: str, clock: Clock) -> None:
    share, token = links.create(entry, 7, LOCAL_ACCESS)
    assert TOKEN.fullmatch(token) and share.ends_at == "2026-12-05T12:00:00.000Z"
    assert links.open(token) == share and links.all(LOCAL_ACCESS) == (share,)
    clock.now += timedelta(days=7) - timedelta(milliseconds=1)
    assert links.open(token).entry == entry
    clock.now += timedelta(milliseconds=1)
    with pytest.raises(ShareEnded):
        links.open(token)
    assert links.all(LOCAL_ACCESS) == ()


def test_a_withdrawn_link_is_closed_at_once(links: ShareLinks, entry: str) -> None:
    (kept, kept_token), (gone, token) = (links.create(entry, 7, LOCAL_ACCESS) for _ in range(2))
    links.withdraw(gone.id, LOCAL_ACCESS)
    with pytest.raises(ShareEnded):
        links.open(token)
    with pytest.raises(ShareNotFound):
        links.withdraw(gone.id, LOCAL_ACCESS)
    assert links.all(LOCAL_ACCESS) == (kept,) and links.open(kept_token) == kept


def test_only_the_owner_makes_lists_and_withdraws(links: ShareLinks, entry: str) -> None:
    share, token = links.create(entry, 7, LOCAL_ACCESS)
    with pytest.raises(OwnerOnly):
        links.create(entry, 7, GUEST)
    with pytest.raises(OwnerOnly):
        links.all(GUEST)
    with pytest.raises(OwnerOnly):
        links.withdraw(share.id, GUEST)
    assert links.open(token) == share


def test_unknown_tokens_entries_and_ids(links: ShareLinks, entry: str) -> None:
    _, token = links.create(entry, 7, LOCAL_ACCESS)
    for wrong in ("", "A" * 22, token[:-1], token + "A", token + "\n", "\udce4" * 22, hashlib.sha256(b"").hexdigest()):
        with pytest.raises(ShareNotFound):
            links.open(wrong)
    for wrong in ("", "no entry", f"{'0' * 32}-0"):
        with pytest.raises(VideoNotFound):
            links.create(wrong, 7, LOCAL_ACCESS)
    with pytest.raises(ShareNotFound):
        links.withdraw("' OR 1 --", LOCAL_ACCESS)


def test_the_database_has_the_hash_and_not_the_token(links: ShareLinks, entry: str, tmp_path: Path) -> None:
    _, token = links.create(entry, 7, LOCAL_ACCESS)
    with sqlite3.connect(tmp_path / "jobs.sqlite") as database:
        dump = "\n".join(database.iterdump())
    database.close()
    assert token not in dump and hashlib.sha256(token.encode()).hexdigest() in dump


def test_old_links_are_forgotten(links: ShareLinks, entry: str, clock: Clock) -> None:
    _, token = links.create(entry, 1, LOCAL_ACCESS)
    clock.now += timedelta(days=KEEP_DAYS + 2)
    links.create(entry, 1, LOCAL_ACCESS)
    with pytest.raises(ShareNotFound):
        links.open(token)

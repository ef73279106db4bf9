"""Share links: addresses that show one video or one comparison without the password, until they end or are withdrawn.

The token in an address has 128 random bits. Only its SHA-256 is stored, so the database does not reveal any address.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from wan_ui.access import Access
from wan_ui.errors import OwnerOnly, ShareEnded, ShareNotFound
from wan_ui.jobs.gallery import Gallery
from wan_ui.jobs.store import Store, timestamp

TOKEN_BYTES = 16  # of randomness, 22 characters
TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")
SHARE_ID = re.compile(r"[0-9a-f]{16}")
DAYS = 7
LONGEST_DAYS = 90
KEEP_DAYS = 30  # how long an ended link is remembered, so that its address says that it has ended

State = Literal["active", "ended", "withdrawn"]


@dataclass(frozen=True)
class Share:
    """A share link. `entry` is the id of its gallery entry; times are ISO 8601 in UTC ending in Z."""

    id: str
    entry: str
    created_at: str
    ends_at: str
    state: State


class ShareLinks:
    """The share links in a store. Only the owner creates, lists and withdraws them; anybody may open one.

    `clock` returns the time in UTC. Every method raises HostError when the database cannot be read or written.
    """

    def __init__(
        self, store: Store, gallery: Gallery, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._gallery = gallery
        self._clock = clock

    def may_share(self, access: Access) -> bool:
        """Whether the caller may create, list and withdraw links."""
        return access.identity.owner

    def create(self, entry_id: str, days: int, access: Access) -> tuple[Share, str]:
        """A new link to a gallery entry, and its token, which is not stored. Raises OwnerOnly, VideoNotFound."""
        self._check_owner(access)
        entry = self._gallery.entry(entry_id)
        now = self._clock()
        self._forget_old(now)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        rows = self._store.rows(
            """
            INSERT INTO shares (id, token_sha256, entry, created_at, ends_at)
            VALUES (:id, :digest, :entry, :now, :end) RETURNING *
            """,
            {
                "id": secrets.token_hex(8),
                "digest": _digest(token),
                "entry": entry.id,
                "now": timestamp(now),
                "end": timestamp(now + timedelta(days=days)),
            },
        )
        return self._share(rows[0], now), token

    def all(self, access: Access) -> tuple[Share, ...]:
        """The links that are open, newest first. Raises OwnerOnly."""
        self._check_owner(access)
        now = self._clock()
        rows = self._store.rows(
            """
            SELECT * FROM shares WHERE withdrawn_at IS NULL AND ends_at > :now ORDER BY created_at DESC, rowid DESC
            """,
            {"now": timestamp(now)},
        )
        return tuple(self._share(row, now) for row in rows)

    def withdraw(self, share_id: str, access: Access) -> None:
        """Close a link at once. Raises OwnerOnly, and ShareNotFound if no open link has this id."""
        self._check_owner(access)
        now = timestamp(self._clock())
        rows = self._store.rows(
            """
            UPDATE shares SET withdrawn_at = :now WHERE id = :id AND withdrawn_at IS NULL AND ends_at > :now
            RETURNING id
            """,
            {"id": share_id if SHARE_ID.fullmatch(share_id) else "", "now": now},
        )
        if not rows:
            raise ShareNotFound("There is no open share link with this id.")

    def open(self, token: str) -> Share:
        """The link of a token. Raises ShareNotFound for an unknown one, ShareEnded for one that is closed."""
        digest = _digest(token) if TOKEN.fullmatch(token) else ""
        rows = self._store.rows("SELECT * FROM shares WHERE token_sha256 = :digest", {"digest": digest})
        # The index finds the row by the hash; a digest says nothing about the tokens near it. Compared again in
        # constant time, so that the answer does not depend on how SQLite compares texts.
        matches = [row for row in rows if hmac.compare_digest(str(row["token_sha256"]), digest)]
        if not matches:
            raise ShareNotFound("There is no such share link.")
        share = self._share(matches[0], self._clock())
        if share.state != "active":
            raise ShareEnded("This link was withdrawn." if share.state == "withdrawn" else "This link has ended.")
        return share

    def _forget_old(self, now: datetime) -> None:
        oldest = timestamp(now - timedelta(days=KEEP_DAYS))
        self._store.rows("DELETE FROM shares WHERE min(ends_at, coalesce(withdrawn_at, ends_at)) < :oldest",
                         {"oldest": oldest})  # fmt: skip

    def _share(self, row: sqlite3.Row, now: datetime) -> Share:
        state: State = "active"
        if row["withdrawn_at"] is not None:
            state = "withdrawn"
        elif row["ends_at"] <= timestamp(now):
            state = "ended"
        return Share(row["id"], row["entry"], row["created_at"], row["ends_at"], state)

    def _check_owner(self, access: Access) -> None:
        if not self.may_share(access):
            raise OwnerOnly("Only the owner of this server may share videos by link.")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

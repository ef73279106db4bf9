"""What the database says about stored files: who sent them, and which requests and clips name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wan_ui.access import FileKind
    from wan_ui.jobs.store import Store


def is_held(store: Store, kind: FileKind, file_id: str) -> bool:
    """Whether any browser is recorded as the owner of this file."""
    values = {"kind": kind, "id": file_id}
    return bool(store.rows("SELECT 1 FROM holdings WHERE kind = :kind AND id = :id LIMIT 1", values))


def forget_owner(store: Store, visitor: str | None, kind: FileKind, file_id: str) -> bool:
    """Forget that a browser, or with None every browser, sent this file; whether another one did too."""
    store.rows(
        "DELETE FROM holdings WHERE kind = :kind AND id = :id AND (:visitor IS NULL OR visitor = :visitor)",
        {"visitor": visitor, "kind": kind, "id": file_id},
    )
    return is_held(store, kind, file_id)


def is_waited_for(store: Store, file_id: str) -> bool:
    """Whether a waiting or running job names this file by its id."""
    rows = store.rows(
        "SELECT 1 FROM jobs WHERE status IN ('in_queue', 'in_progress') AND instr(request, :id) LIMIT 1",
        {"id": file_id},
    )
    return bool(rows)


def request_texts(store: Store) -> tuple[str, ...]:
    """The requests of all jobs as text: what no request names is used by none."""
    return tuple(row["request"] for row in store.rows("SELECT request FROM jobs", {}))


def clip_files(store: Store) -> frozenset[str]:
    """The files of all clips, finished, being written or about to be removed, relative to the data folder."""
    rows = store.rows(
        "SELECT file FROM clips UNION SELECT file FROM doomed UNION SELECT writing FROM jobs WHERE writing IS NOT NULL",
        {},
    )
    return frozenset(row["file"] for row in rows)

"""The schema of the jobs database, as the migrations that make it."""

from __future__ import annotations

_NEW_CLIP = "clip.job_id = NEW.job_id AND clip.clip_index = NEW.clip_index"
_LIST_CLIP = """
    INSERT INTO entries (job_id, clip_index, visitor, model, prompt, made_at)
    SELECT jobs.id, CASE jobs.cells WHEN '[]' THEN clip.clip_index ELSE -1 END, jobs.visitor,
        json_extract(jobs.generations, '$[' || clip.clip_index || '].model'),
        CASE jobs.cells
            WHEN '[]' THEN json_extract(jobs.generations, '$[' || clip.clip_index || '].prompt')
            ELSE (SELECT group_concat(prompt, char(10)) FROM
                  (SELECT DISTINCT json_extract(one.value, '$.prompt') AS prompt
                   FROM json_each(jobs.generations) AS one))
        END,
        clip.created_at
    FROM clips AS clip JOIN jobs ON jobs.id = clip.job_id WHERE {which}
    ON CONFLICT (job_id, clip_index) DO UPDATE SET made_at = excluded.made_at
"""
# A LoRA's name as the render recorded it; otherwise the last part of its path, without a URL's query.
_LIST_LORAS = """
    INSERT OR IGNORE INTO entry_loras (entry, name, sha256)
    SELECT entry, coalesce(told, replace(path, rtrim(path, replace(path, '/', '')), '')), sha256 FROM (
        SELECT entries.seq AS entry,
            substr(json_extract(use.value, '$.path'), 1, instr(json_extract(use.value, '$.path') || '?', '?') - 1)
                AS path,
            coalesce(json_extract(use.value, '$.sha256'), '') AS sha256,
            (SELECT json_extract(file.value, '$.name')
             FROM json_each(clip.metadata, '$.lora') AS slot, json_each(slot.value, '$.files') AS file
             WHERE json_extract(file.value, '$.sha256') = json_extract(use.value, '$.sha256')) AS told
        FROM clips AS clip JOIN jobs ON jobs.id = clip.job_id
        JOIN entries ON entries.job_id = clip.job_id
            AND entries.clip_index = CASE jobs.cells WHEN '[]' THEN clip.clip_index ELSE -1 END,
        json_each(jobs.generations, '$[' || clip.clip_index || '].loras') AS use
        WHERE {which}
    )
"""

# Each entry is one schema version, applied in one transaction; `PRAGMA user_version` counts those applied.
# Entries are only ever appended: a database of an older wan-ui is migrated by the ones it lacks.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE jobs (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            status TEXT NOT NULL CHECK (status IN ('in_queue', 'in_progress', 'succeeded', 'failed', 'canceled')),
            request TEXT NOT NULL,
            generations TEXT NOT NULL,
            notes TEXT NOT NULL,
            total INTEGER NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            cancel_requested INTEGER NOT NULL DEFAULT 0,
            error TEXT,
            created_at TEXT NOT NULL,
            started_at TEXT,
            finished_at TEXT
        )
        """,
        "CREATE INDEX jobs_line ON jobs (status, seq)",
        """
        CREATE TABLE clips (
            job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            clip_index INTEGER NOT NULL,
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            num_frames INTEGER NOT NULL,
            fps INTEGER NOT NULL,
            seed INTEGER NOT NULL,
            file TEXT NOT NULL UNIQUE,
            metadata TEXT NOT NULL,
            created_at TEXT NOT NULL,
            PRIMARY KEY (job_id, clip_index)
        )
        """,
    ),
    ("ALTER TABLE jobs ADD COLUMN ready INTEGER NOT NULL DEFAULT 1",),
    (
        "ALTER TABLE jobs ADD COLUMN cells TEXT NOT NULL DEFAULT '[]'",
        # Errors by generation index, in the job's row, so that a retry clears them in the statement that requeues it.
        "ALTER TABLE jobs ADD COLUMN failures TEXT NOT NULL DEFAULT '{}'",
    ),
    (
        # The file that the next clip is being written to, so that the next start finds what a killed process left.
        "ALTER TABLE jobs ADD COLUMN writing TEXT",
    ),
    (
        # Everything that a job's position depends on: every read of the queue counts the jobs ahead of many jobs.
        "CREATE INDEX jobs_place ON jobs (status, ready DESC, seq)",
        "DROP INDEX jobs_line",
    ),
    (
        # The browser that a job came from; null for programs and for jobs from before this column existed.
        "ALTER TABLE jobs ADD COLUMN visitor TEXT",
        "CREATE INDEX jobs_visitor ON jobs (visitor, seq)",
        """
        CREATE TABLE holdings (
            visitor TEXT NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('lora', 'image')),
            id TEXT NOT NULL,
            PRIMARY KEY (visitor, kind, id)
        ) WITHOUT ROWID
        """,
    ),
    # The gallery: an entry for each clip, or one for all clips of a comparison, kept equal to the clips by triggers.
    (
        """
        CREATE TABLE entries (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            clip_index INTEGER NOT NULL, -- -1: a comparison
            visitor TEXT,
            model TEXT NOT NULL,
            prompt TEXT NOT NULL,
            kept INTEGER NOT NULL DEFAULT 0,
            made_at TEXT NOT NULL,
            UNIQUE (job_id, clip_index)
        )
        """,
        "CREATE INDEX entries_visitor ON entries (visitor, seq)",
        "CREATE INDEX entries_model ON entries (model, seq)",
        "CREATE INDEX entries_kept ON entries (seq) WHERE kept",
        "CREATE INDEX entries_made ON entries (made_at) WHERE NOT kept",
        """
        CREATE TABLE entry_loras (
            entry INTEGER NOT NULL REFERENCES entries (seq) ON DELETE CASCADE,
            name TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            PRIMARY KEY (entry, sha256, name)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX entry_loras_sha256 ON entry_loras (sha256, entry)",
        "CREATE INDEX entry_loras_name ON entry_loras (name, entry)",
        # Files of deleted clips, until they are removed from the disk.
        "CREATE TABLE doomed (file TEXT PRIMARY KEY, job_id TEXT NOT NULL, clip_index INTEGER NOT NULL) WITHOUT ROWID",
        f"{_LIST_CLIP.format(which='true ORDER BY clip.created_at, clip.clip_index')}",
        f"{_LIST_LORAS.format(which='true')}",
        f"""
        CREATE TRIGGER clip_made AFTER INSERT ON clips BEGIN
            {_LIST_CLIP.format(which=_NEW_CLIP)};
            {_LIST_LORAS.format(which=_NEW_CLIP)};
        END
        """,
        """
        CREATE TRIGGER clip_gone AFTER DELETE ON clips BEGIN
            INSERT OR REPLACE INTO doomed (file, job_id, clip_index)
            VALUES (OLD.file, OLD.job_id, OLD.clip_index);
            DELETE FROM entries WHERE job_id = OLD.job_id AND clip_index = OLD.clip_index;
            DELETE FROM entries WHERE job_id = OLD.job_id AND clip_index = -1
                AND NOT EXISTS (SELECT 1 FROM clips WHERE job_id = OLD.job_id);
            -- A request of which nothing is left goes with its last clip: its prompt is in it.
            DELETE FROM jobs WHERE id = OLD.job_id AND status IN ('succeeded', 'failed', 'canceled')
                AND NOT EXISTS (SELECT 1 FROM clips WHERE job_id = OLD.job_id);
        END
        """,
    ),
    # Judging: marks on a comparison's clips and votes on pairs of them. `visitor` is '' for programs without a browser.
    (
        """
        CREATE TABLE marks (
            job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            visitor TEXT NOT NULL,
            clip_index INTEGER NOT NULL,
            mark TEXT NOT NULL CHECK (mark IN ('favourite', 'rejected')),
            marked_at TEXT NOT NULL,
            PRIMARY KEY (job_id, visitor, clip_index)
        ) WITHOUT ROWID
        """,
        # A row without a choice is a pair that was shown and not voted on yet.
        """
        CREATE TABLE pair_votes (
            id TEXT PRIMARY KEY,
            job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            visitor TEXT NOT NULL,
            side_a INTEGER NOT NULL,
            side_b INTEGER NOT NULL,
            choice TEXT CHECK (choice IN ('a', 'b', 'tie')),
            voted_at TEXT
        ) WITHOUT ROWID
        """,
        "CREATE UNIQUE INDEX pair_votes_pair ON pair_votes (job_id, visitor, min(side_a, side_b), max(side_a, side_b))",
    ),
    # Which slot renders which clip. A clip of an earlier epoch is not stored: its slot was taken to have ended.
    (
        """
        CREATE TABLE leases (
            epoch INTEGER PRIMARY KEY AUTOINCREMENT,
            job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            clip_index INTEGER NOT NULL,
            slot TEXT NOT NULL,
            created_at TEXT NOT NULL,
            UNIQUE (job_id, clip_index)
        )
        """,
        """
        CREATE TRIGGER lease_used AFTER INSERT ON clips BEGIN
            DELETE FROM leases WHERE job_id = NEW.job_id AND clip_index = NEW.clip_index;
        END
        """,
        """
        CREATE TRIGGER leases_voided AFTER UPDATE OF status ON jobs WHEN NEW.status <> 'in_progress' BEGIN
            DELETE FROM leases WHERE job_id = NEW.id;
        END
        """,
    ),
    # The ends of jobs that the operator's address has not been notified of; see jobs.notifier.
    (
        """
        CREATE TABLE notifications (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            job_id TEXT NOT NULL,
            status TEXT NOT NULL,
            model TEXT NOT NULL,
            seconds REAL,
            ended_at REAL NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            due_at REAL NOT NULL DEFAULT 0
        )
        """,
        "CREATE INDEX notifications_due ON notifications (due_at)",
    ),
    (
        # Links that show one gallery entry without the password. An entry may be deleted before its link ends.
        """
        CREATE TABLE shares (
            id TEXT PRIMARY KEY,
            token_sha256 TEXT NOT NULL UNIQUE,
            entry TEXT NOT NULL,
            created_at TEXT NOT NULL,
            ends_at TEXT NOT NULL,
            withdrawn_at TEXT
        )
        """,
    ),
    # Watched training jobs. A standing comparison names its watch; the saves of a deleted one are not rendered again.
    (
        """
        CREATE TABLE watches (
            job_id TEXT PRIMARY KEY, -- of the imported training job
            visitor TEXT,
            started_at TEXT NOT NULL,
            skipped TEXT NOT NULL DEFAULT '[]',
            problem TEXT
        ) WITHOUT ROWID
        """,
        "ALTER TABLE jobs ADD COLUMN watch TEXT",
        "CREATE INDEX jobs_watch ON jobs (watch) WHERE watch IS NOT NULL",
        """
        CREATE TRIGGER watched_gone AFTER DELETE ON jobs WHEN OLD.watch IS NOT NULL BEGIN
            UPDATE watches SET skipped = (
                SELECT json_group_array(label) FROM (
                    SELECT saved.value AS label FROM json_each(watches.skipped) AS saved
                    UNION SELECT json_extract(cell.value, '$.column_label') FROM json_each(OLD.cells) AS cell
                )
            ) WHERE job_id = OLD.watch;
        END
        """,
    ),
    # What clips of each size took on this machine, for estimates: seconds; runs counts the clips that were measured.
    (
        """
        CREATE TABLE timings (
            device TEXT NOT NULL,
            model TEXT NOT NULL,
            variant TEXT NOT NULL,
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            num_frames INTEGER NOT NULL,
            load REAL NOT NULL,
            prepare REAL NOT NULL,
            forward REAL NOT NULL,
            decode REAL NOT NULL,
            encode REAL NOT NULL,
            runs INTEGER NOT NULL,
            PRIMARY KEY (device, model, variant, width, height, num_frames)
        ) WITHOUT ROWID
        """,
    ),
    (
        # Fair turns among visitors: the waiting job with the smallest turn is next; see Store.add. 1: a guest's job.
        "ALTER TABLE jobs ADD COLUMN turn INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN from_guest INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX jobs_turn ON jobs (status, ready DESC, turn, seq)",
        "DROP INDEX jobs_place",
    ),
)

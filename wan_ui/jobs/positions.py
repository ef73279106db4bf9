"""The order of the queue in SQL: the turns of visitors, and the position of a waiting job."""

from __future__ import annotations

# The turn of a visitor's new job: one after the visitor's last, but not before the turn that the queue has come to.
TURN = """
    max(
        coalesce((SELECT max(turn) + 1 FROM jobs
                  WHERE status IN ('in_queue', 'in_progress') AND visitor IS {visitor}), 0),
        coalesce((SELECT max(turn) FROM jobs WHERE status = 'in_progress'),
                 (SELECT min(turn) FROM jobs WHERE status = 'in_queue'), 0)
    )
"""
# A waiting job's position, counted from the end of the queue that is nearer to the jobs that are read, since SQLite
# counts by walking the index.
FROM_FRONT = """
    (SELECT count(*) FROM jobs AS ahead
     WHERE ahead.status = 'in_queue' AND ahead.ready = jobs.ready AND (ahead.turn, ahead.seq) <= (jobs.turn, jobs.seq))
    + CASE jobs.ready WHEN 1 THEN 0 ELSE
      (SELECT count(*) FROM jobs AS ahead WHERE ahead.status = 'in_queue' AND ahead.ready = 1) END
"""
FROM_END = """
    CASE jobs.ready WHEN 1 THEN (SELECT count(*) FROM jobs AS waits WHERE waits.status = 'in_queue' AND waits.ready = 1)
    ELSE (SELECT count(*) FROM jobs AS waits WHERE waits.status = 'in_queue') END
    - (SELECT count(*) FROM jobs AS behind
       WHERE behind.status = 'in_queue' AND behind.ready = jobs.ready
           AND (behind.turn, behind.seq) > (jobs.turn, jobs.seq))
"""

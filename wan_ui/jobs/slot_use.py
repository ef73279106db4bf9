"""What the dispatcher knows of its slots and of the jobs whose clips they render."""

from __future__ import annotations

from dataclasses import dataclass, field

from wan_ui.engine.split import Split
from wan_ui.job import Job
from wan_ui.jobs.leases import Lease
from wan_ui.jobs.runner import ActiveJob, Running
from wan_ui.jobs.scheduler import Unit
from wan_ui.pool.slots import Slot

ALONE = Split()


@dataclass(frozen=True)
class SlotRules:
    """`idle`: seconds after which an unused slot is emptied. `pause`: after a first failure, doubled by each further.

    After `starts` failed starts in a row on every slot the server ends; None: never, since other slots may join.
    `split`: how many slots may render one clip together while nothing else waits.
    """

    idle: float = 900.0
    pause: float = 1.0
    longest_pause: float = 60.0
    starts: int | None = 3
    split: int = 1


@dataclass(kw_only=True)
class LeasedJob(ActiveJob):
    """A job of which clips are rendered or written; `at_work` are their indices."""

    job: Job
    at_work: set[int] = field(default_factory=set)
    is_settled: bool = False


@dataclass(frozen=True)
class Task:
    """A leased clip for a slot. With `members` it renders together with these slots, as `split` says."""

    unit: Unit
    lease: Lease
    active: LeasedJob
    members: tuple[SlotUse, ...] = ()
    split: Split = ALONE


@dataclass
class SlotUse:
    """What a slot does now: its task from the assignment until its clip is handed to the writer.

    `lent_to` names the slot whose clip it helps to render. `has_helped`: it has, and its thread does not know it yet.
    `has_left`: it is not in the pool any more.
    """

    slot: Slot
    lent_to: str | None = None
    has_helped: bool = False
    task: Task | None = None
    running: Running | None = None
    model: str | None = None
    failures: int = 0
    in_a_row: int = 0
    failed_starts: int = 0
    paused_until: float = 0.0
    has_left: bool = False

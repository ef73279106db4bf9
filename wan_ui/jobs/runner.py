"""What the job service needs of whatever runs the jobs: `Worker` on one slot, `Dispatcher` on several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from wan_ui.engine.result import Progress
    from wan_ui.errors import RestartNeeded
    from wan_ui.jobs.worker import Running


class JobRunner(Protocol):
    """Renders the store's jobs; any thread may call any method."""

    @property
    def broken(self) -> RestartNeeded | None:
        """Why nothing can be rendered any more, None while it can."""
        ...

    def recover(self) -> None:
        """Requeue the jobs that a dead process left running. Only before the start."""

    def start(self) -> None:
        """Recover and start the threads."""

    def stop(self, timeout: float = 8.0) -> bool:
        """Stop, with the running jobs back in the queue; whether that took at most `timeout` seconds."""
        ...

    def wake(self) -> None:
        """Notify that a job was added, can run now, has ended or was moved."""

    def cancel(self, job_id: str) -> None:
        """Cancel a waiting job at once and a running one before its next step."""

    def running(self, job_id: str) -> Running | None:
        """What is rendered or written of a job."""
        ...

    def at_work(self) -> Running | None:
        """What is rendered or written, of whichever job."""
        ...

    def progress(self, job_id: str) -> Progress | None:
        """The latest progress of a job that runs."""
        ...

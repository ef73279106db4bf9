"""Keeps the clips of a comparison on one model of GPU, since another model's numbers may differ in their last bits."""

from __future__ import annotations


class ComparisonGpus:
    """The GPU model of each slot, as far as it is known, and the one that each comparison was begun on.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._of_slot: dict[str, str] = {}
        self._slots_with: dict[str, frozenset[str]] = {}
        self._of_job: dict[str, str] = {}

    def set_slot(self, slot: str, model: str | None) -> None:
        """A slot has a GPU of this model; None: not known, or the slot is not used any more."""
        earlier = self._of_slot.pop(slot, None)
        if earlier is not None:
            self._slots_with[earlier] -= {slot}
        if model is not None:
            self._of_slot[slot] = model
            self._slots_with[model] = self._slots_with.get(model, frozenset()) | {slot}

    def begin(self, job_id: str, model: str | None) -> None:
        """A clip of a comparison is rendered on this model; the first one decides for the rest."""
        if model is not None:
            self._of_job.setdefault(job_id, model)

    def begin_on(self, job_id: str, slot: str) -> None:
        """A clip of a comparison is given to a slot."""
        self.begin(job_id, self._of_slot.get(slot))

    def forget(self, job_id: str) -> None:
        """A comparison has ended."""
        self._of_job.pop(job_id, None)

    def preferred(self, job_id: str, slot: str) -> frozenset[str]:
        """The slots that a comparison's clip goes to in place of this one; none: this one may render it.

        They are those of the model that it was begun on, where this one has another. Where no slot has that model any
        more the comparison is finished on others, and its result says so. What is not known keeps nothing apart.
        """
        begun, own = self._of_job.get(job_id), self._of_slot.get(slot)
        if begun is None or own is None or own == begun:
            return frozenset()
        return self._slots_with.get(begun, frozenset())

"""Which waiting clip is rendered next on which slot: fair among visitors, with few loads and a bound on waiting."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, repeat

from wan_ui.job import Job
from wan_ui.jobs.comparison_gpus import ComparisonGpus
from wan_ui.render_order import high_noise_part
from wan_ui.request import Generation

UNKNOWN_SECONDS = 60.0  # of a clip, before any was rendered
MODEL, LORAS, HIGH_NOISE, PROMPT = 16, 8, 4, 2  # weights of what is loaded already; the low-noise LoRAs count 1


@dataclass(frozen=True)
class Affinity:
    """What a slot has loaded after a clip, or what a clip needs, as keys that are compared.

    `model`: the checkpoint files. `loras`: the LoRA files on the first transformer. `high_noise`: the high-noise half
    of the run, which the next run may share. `prompt`: the text embeddings. `low_loras`: the files on the second
    transformer.
    """

    model: str
    loras: str = ""
    high_noise: str = ""
    prompt: str = ""
    low_loras: str = ""

    def fit(self, loaded: Affinity | None) -> int:
        """How much of this is loaded already, 0 to 31; what costs more to load counts more than all that costs less."""
        if loaded is None or loaded.model != self.model:
            return 0
        return (
            MODEL
            + LORAS * (loaded.loras == self.loras)
            + HIGH_NOISE * (loaded.high_noise == self.high_noise)
            + PROMPT * (loaded.prompt == self.prompt)
            + (loaded.low_loras == self.low_loras)
        )


@dataclass(frozen=True)
class Unit:
    """A clip to render: generation `index` of a job.

    `cost` is proportional to its seconds among clips of the same model; the seconds are learned. `is_compared`: it is a
    cell of a comparison, which stays on one model of GPU.
    """

    job_id: str
    index: int
    visitor: str | None
    needs: Affinity
    cost: float = 1.0
    is_compared: bool = False


@dataclass(frozen=True)
class SchedulerRules:
    """`window`: how many waiting clips of a visitor are compared: `of_first_job`, and `of_each_job` of the others.

    `passes`: a clip is overtaken by at most so many later clips of its visitor for each slot, so it waits no longer
    than so many clips take. `lead`: a visitor who has a clip of the loaded model goes first while ahead of the
    others by at most so many clips, and at most `passes` times in a row for each slot.
    """

    window: int = 128
    of_first_job: int = 32
    of_each_job: int = 4
    passes: int = 8
    lead: float = 0.5


DEFAULT_RULES = SchedulerRules()


@dataclass(frozen=True)
class Assignment:
    """A clip and the slot that is to render it. `loads`: whether the slot has to load the model first."""

    unit: Unit
    slot: str
    loads: bool


@dataclass(frozen=True)
class Candidate:
    """A waiting clip and how often later ones were chosen before it."""

    unit: Unit
    passed: int = 0


@dataclass(frozen=True)
class Elsewhere:
    """What other slots hold, with the number of them: models, and high-noise halves that a further clip may share."""

    models: Mapping[str, int] = field(default_factory=dict)
    high_noise: Mapping[str, int] = field(default_factory=dict)


def units_of(job: Job) -> tuple[Unit, ...]:
    """The clips that a job lacks, in its order; a failed cell of a comparison is not rendered again."""
    finished = {clip.index for clip in job.clips} | set(job.failures)
    return tuple(
        Unit(job.id, index, job.visitor, affinity_of(generation), cost_of(generation), bool(job.cells))
        for index, generation in enumerate(job.generations)
        if index not in finished
    )


def affinity_of(generation: Generation) -> Affinity:
    """What a generation needs to be loaded. LoRAs at scale 0 are not attached."""
    used = [(use.slot, use.sha256 or use.path) for use in generation.loras if use.scale != 0]
    return Affinity(
        model=_key(generation.model, generation.base, generation.recipe, generation.speedup),
        loras=_key([use for use in used if use[0] != "low"]),
        high_noise=_key(high_noise_part(generation)),
        prompt=_key(generation.prompt, generation.neg),
        low_loras=_key([use for use in used if use[0] == "low"]),
    )


def cost_of(generation: Generation) -> float:
    """Steps × frames × pixels, in thousands of millions."""
    pixels = generation.width * generation.height * generation.num_frames
    return max(1, generation.sample_steps) * pixels / 1e9


def choose(candidates: Sequence[Candidate], loaded: Affinity | None, elsewhere: Elsewhere, passes: int) -> int:
    """The index of the candidate to render on a slot that has `loaded`; candidates come in their visitor's order.

    The first that was overtaken `passes` times goes before all. Else the best fit, and among equal ones first those
    that no other slot fits: no slot holds their model or, with the model here, their high-noise half. Cells that share
    a half so stay together while others wait. Last the order.
    """
    if candidates[0].passed >= passes:
        return 0

    def rank(index: int) -> tuple[int, bool, int, int]:
        needs = candidates[index].unit.needs
        fit = needs.fit(loaded)
        if not fit:
            taken = needs.model in elsewhere.models
        else:
            taken = not fit & HIGH_NOISE and needs.high_noise in elsewhere.high_noise
        return -(fit // HIGH_NOISE), taken, -(fit % HIGH_NOISE), index

    return min(range(len(candidates)), key=rank)


@dataclass
class _WaitingJob:
    """A job's waiting clips in their order; `passed`: how often a clip of a later job was chosen before all of them."""

    units: deque[Candidate] = field(default_factory=deque)
    passed: int = 0

    @property
    def first(self) -> Candidate:
        """The first clip, with how often it was overtaken in all."""
        first = self.units[0]
        return Candidate(first.unit, first.passed + self.passed) if self.passed else first


class _VisitorQueue:
    """The waiting jobs of one visitor, in their order."""

    def __init__(self) -> None:
        self.jobs: OrderedDict[str, _WaitingJob] = OrderedDict()
        self.models: dict[str, int] = {}

    def append(self, unit: Unit) -> None:
        """Adds a clip at the end of its job; a new job at the end."""
        self.jobs.setdefault(unit.job_id, _WaitingJob()).units.append(Candidate(unit))
        _count(self.models, unit.needs.model, 1)

    def put_first(self, unit: Unit, passed: int) -> None:
        """Adds a clip and its job in front of all."""
        self.jobs.setdefault(unit.job_id, _WaitingJob()).units.appendleft(Candidate(unit, passed))
        self.jobs.move_to_end(unit.job_id, last=False)
        _count(self.models, unit.needs.model, 1)

    def discard(self, job_id: str) -> None:
        """Removes a job's clips."""
        job = self.jobs.pop(job_id, None)
        for candidate in () if job is None else job.units:
            _count(self.models, candidate.unit.needs.model, -1)

    def without(self, held: frozenset[str]) -> _VisitorQueue:
        """The same waiting jobs without these."""
        rest = _VisitorQueue()
        rest.jobs = OrderedDict((job_id, job) for job_id, job in self.jobs.items() if job_id not in held)
        for candidate in chain.from_iterable(job.units for job in rest.jobs.values()):
            _count(rest.models, candidate.unit.needs.model, 1)
        return rest

    def window(self, rules: SchedulerRules) -> list[Candidate]:
        """The clips that may be chosen now, in order; how often one was overtaken is whole for a job's first."""
        counts = chain([rules.of_first_job], repeat(rules.of_each_job))
        parts = (
            chain([job.first], islice(job.units, 1, count))
            for job, count in zip(self.jobs.values(), counts, strict=False)
        )
        return list(islice(chain.from_iterable(parts), rules.window))

    def take(self, unit: Unit) -> None:
        """Removes a clip of the window, and counts that it overtook all before it."""
        for job_id, job in self.jobs.items():
            if job_id == unit.job_id:
                break
            job.passed += 1
        before = []
        while (candidate := job.units.popleft()).unit is not unit:
            before.append(replace(candidate, passed=candidate.passed + 1))
        job.units.extendleft(reversed(before))
        if not job.units:
            del self.jobs[unit.job_id]
        _count(self.models, unit.needs.model, -1)


class Scheduler:
    """The waiting clips of all visitors, and the seconds of rendering that each visitor was given.

    A visitor's own clips keep their order except for overtaking within the rules. Among visitors the one who was given
    the fewest seconds is next; who comes after a pause starts level with the others. Not thread-safe.
    """

    def __init__(self, slots: int = 1, rules: SchedulerRules = DEFAULT_RULES) -> None:
        self._rules = rules
        self._passes = rules.passes * max(1, slots)
        self._queues: dict[str | None, _VisitorQueue] = {}
        self._running: dict[str | None, int] = {}
        self._charged: dict[tuple[str, int], float] = {}
        self._given: dict[str | None, float] = {}
        self._rates: dict[str, float] = {}
        self._loaded: dict[str, Affinity] = {}
        self._models: dict[str, int] = {}
        self._halves: dict[str, int] = {}
        self._excluded: dict[str, frozenset[str]] = {}
        self._stages: tuple[frozenset[str], ...] = ()
        self._turns_passed: dict[str | None, int] = {}
        self.gpus = ComparisonGpus()

    def __len__(self) -> int:
        return sum(len(job.units) for queue in self._queues.values() for job in queue.jobs.values())

    def resize(self, slots: int) -> None:
        """There are so many slots now."""
        self._passes = self._rules.passes * max(1, slots)

    def exclude(self, slot: str, unit: Unit) -> None:
        """A slot cannot render clips of this model."""
        self._excluded = {**self._excluded, slot: self._excluded.get(slot, frozenset()) | {unit.needs.model}}

    def readmit(self, unit: Unit) -> None:
        """Ask all slots again for clips of this model."""
        self._excluded = {slot: models - {unit.needs.model} for slot, models in self._excluded.items()}

    def left(self, slot: str) -> None:
        """A slot is not used any more. The others are asked again for the models that they could not render."""
        self.emptied(slot)
        self.gpus.set_slot(slot, None)
        self._excluded = {}

    def can_render(self, slots: Sequence[str], unit: Unit) -> bool:
        """Whether one of these slots may render a clip, as far as is known."""
        return any(unit.needs.model not in self._excluded.get(slot, ()) for slot in slots)

    def may_take(self, slot: str, unit: Unit) -> bool:
        """Whether a slot may render a clip, or help with it: it can, and a comparison stays on one model of GPU."""
        if not self.can_render((slot,), unit):
            return False
        preferred = self.gpus.preferred(unit.job_id, slot) if unit.is_compared else frozenset()
        return not preferred or not self.can_render(tuple(preferred), unit)

    def loaded(self, slot: str) -> Affinity | None:
        """What a slot holds, as far as its clips tell."""
        return self._loaded.get(slot)

    def add(self, units: Sequence[Unit]) -> None:
        """Add a job's clips at the end of its visitor's queue."""
        for unit in units:
            if not self._is_active(unit.visitor):
                active = [self._given[who] for who in self._given if self._is_active(who)]
                self._given[unit.visitor] = max(self._given.get(unit.visitor, 0.0), min(active, default=0.0))
            self._queues.setdefault(unit.visitor, _VisitorQueue()).append(unit)

    def requeue(self, unit: Unit) -> None:
        """Put a clip that was assigned in front of its visitor's queue, as one that may not be overtaken again."""
        self._queues.setdefault(unit.visitor, _VisitorQueue()).put_first(unit, self._passes)

    def discard(self, job_id: str) -> None:
        """Remove a job's waiting clips."""
        for visitor, queue in list(self._queues.items()):
            queue.discard(job_id)
            if not queue.jobs:
                del self._queues[visitor]

    def reorder(self, job_ids: Sequence[str]) -> None:
        """Put each visitor's jobs in the order of this list, those that it lacks first."""
        order = {job_id: index for index, job_id in enumerate(job_ids)}
        for queue in self._queues.values():
            queue.jobs = OrderedDict(sorted(queue.jobs.items(), key=lambda item: order.get(item[0], -1)))

    def place(self, stages: Sequence[frozenset[str]]) -> None:
        """Parts of the queue whose order was chosen by hand.

        While a clip of one waits nothing of a later one is begun, whoever's turn it is, unless no idle slot may render
        the first.
        """
        self._stages = tuple(stages)

    def jobs(self) -> frozenset[str]:
        """The jobs with waiting clips."""
        return frozenset(job_id for queue in self._queues.values() for job_id in queue.jobs)

    def assign(self, idle: Sequence[str]) -> Assignment | None:
        """Choose the next clip and its slot among the idle ones, and remove it; None if nothing waits or is idle.

        With one idle slot its content decides among the clips of the visitor whose turn it is. With several, work is
        scarce, and the first clip goes to the slot that fits it best.
        """
        if not idle or not self._queues:
            return None
        in_place = self._in_place()
        chosen = (self._next(in_place, idle) if in_place else None) or self._next(self._queues, idle)
        if chosen is None:
            return None
        unit, slot = chosen
        visitor = unit.visitor
        self._turns_passed.pop(visitor, None)
        queue = self._queues[visitor]
        queue.take(unit)
        if not queue.jobs:
            del self._queues[visitor]
        if unit.is_compared:
            self.gpus.begin_on(unit.job_id, slot)
        assignment = Assignment(unit, slot, loads=not unit.needs.fit(self._loaded.get(slot)))
        seconds = self.estimate(unit)
        self._charged[unit.job_id, unit.index] = seconds
        self._given[visitor] += seconds
        self._running[visitor] = self._running.get(visitor, 0) + 1
        self._set_loaded(slot, unit.needs)
        return assignment

    def _in_place(self) -> dict[str | None, _VisitorQueue]:
        """The queues without the stages that come later; none where there are no such."""
        if len(self._stages) < 2:
            return {}
        waiting = self.jobs()
        later = [stage for stage in self._stages if stage & waiting][1:]
        held = frozenset[str]().union(*later)
        if not held:
            return {}
        before = {visitor: queue.without(held) for visitor, queue in self._queues.items()}
        return {visitor: queue for visitor, queue in before.items() if queue.jobs}

    def _next(self, queues: Mapping[str | None, _VisitorQueue], idle: Sequence[str]) -> tuple[Unit, str] | None:
        """A clip of these queues and the slot for it; None where no idle slot may render what could be chosen."""
        least = min(queues, key=self._served)
        visitor = self._turn(queues, least, self._loaded.get(idle[0]) if len(idle) == 1 else None)
        chosen = self._choose(queues[visitor], idle)
        if chosen is not None and visitor != least:
            self._turns_passed[least] = self._turns_passed.get(least, 0) + 1
        if chosen is None:  # what the visitor has next cannot be rendered on these slots
            others = sorted(set(queues) - {visitor}, key=lambda who: self._given[who])
            chosen = next((found for visitor in others if (found := self._choose(queues[visitor], idle))), None)
        return chosen

    def _choose(self, queue: _VisitorQueue, idle: Sequence[str]) -> tuple[Unit, str] | None:
        """A clip of a visitor and the slot for it; None where no idle slot may render what could be chosen."""
        if len(idle) == 1:
            window = [each for each in queue.window(self._rules) if self.may_take(idle[0], each.unit)]
            if not window:
                return None
            loaded = self._loaded.get(idle[0])
            return window[choose(window, loaded, Elsewhere(self._models, self._halves), self._passes)].unit, idle[0]
        first = next(iter(queue.jobs.values())).units[0].unit
        is_free = not self._excluded and not first.is_compared  # any idle slot may take it
        for unit in (first,) if is_free else (each.unit for each in queue.window(self._rules)):
            slots = [name for name in idle if self.may_take(name, unit)]
            if slots:
                fits = {name: unit.needs.fit(self._loaded.get(name)) for name in slots}
                return unit, max(slots, key=lambda name: (fits[name], name not in self._loaded))
        return None

    def ended(self, unit: Unit, seconds: float | None, is_whole: bool = True) -> None:
        """An assigned clip is not rendered any more; its `seconds`, or None if nothing is to be counted.

        Only from those of a clip that was rendered whole is learned how long others take.
        """
        charged = self._charged.pop((unit.job_id, unit.index), 0.0)
        self._given[unit.visitor] = self._given.get(unit.visitor, 0.0) - charged + (seconds or 0.0)
        self._running[unit.visitor] = max(0, self._running.get(unit.visitor, 0) - 1)
        if seconds is not None and is_whole:
            rate, earlier = seconds / unit.cost, self._rates.get(unit.needs.model)
            self._rates[unit.needs.model] = rate if earlier is None else 0.7 * earlier + 0.3 * rate

    def shares(self, slot: str, unit: Unit) -> None:
        """A slot loads what an assigned clip needs, to help with it."""
        self._set_loaded(slot, unit.needs)

    def emptied(self, slot: str) -> None:
        """A slot holds nothing any more: its process ended."""
        self._set_loaded(slot, None)

    def estimate(self, unit: Unit) -> float:
        """The expected seconds of a clip, by the rendered clips of its model, else by those of all models."""
        rate = self._rates.get(unit.needs.model)
        if rate is None and self._rates:
            rate = sum(self._rates.values()) / len(self._rates)
        return UNKNOWN_SECONDS if rate is None else rate * unit.cost

    def _is_active(self, visitor: str | None) -> bool:
        return visitor in self._queues or self._running.get(visitor, 0) > 0

    def _turn(
        self, queues: Mapping[str | None, _VisitorQueue], least: str | None, loaded: Affinity | None
    ) -> str | None:
        """The visitor whose turn it is: the `least` served, or one barely ahead who has a clip of the loaded model."""
        if loaded is None or loaded.model in queues[least].models:
            return least
        first = next(iter(queues[least].jobs.values())).units[0].unit
        near = self._given[least] + self._rules.lead * self.estimate(first)
        fitting = [
            visitor
            for visitor, queue in queues.items()
            if self._given[visitor] <= near and loaded.model in queue.models
        ]
        if not fitting or self._turns_passed.get(least, 0) >= self._passes:
            return least
        return min(fitting, key=lambda who: self._given[who])

    def _served(self, visitor: str | None) -> tuple[float, int]:
        """The seconds that a visitor was given, and the clips that are rendered now; the least is next."""
        return self._given[visitor], self._running.get(visitor, 0)

    def _set_loaded(self, slot: str, needs: Affinity | None) -> None:
        earlier = self._loaded.pop(slot, None)
        if earlier is not None:
            _count(self._models, earlier.model, -1)
            _count(self._halves, earlier.high_noise, -1)
        if needs is not None:
            self._loaded[slot] = needs
            _count(self._models, needs.model, 1)
            _count(self._halves, needs.high_noise, 1)


def _count(counts: dict[str, int], key: str, change: int) -> None:
    counts[key] = counts.get(key, 0) + change
    if not counts[key]:
        del counts[key]


def _key(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

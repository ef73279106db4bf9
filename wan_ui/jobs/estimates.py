"""How long jobs still take, computed from this machine's earlier runs and from the progress of the running clip.

A clip costs

    load (where the model is not loaded yet) + prepare + steps · forwards · forward + decode + encode

seconds, `forwards` being the predictions of one step: 2 with guidance, 1 without. Checking the checkpoint and starting
a process belong to the load, for a clip whose model is there does neither. Each of these is measured per device, model,
variant (recipe and speed-up) and size; the load per device and model. For a size that was never rendered they are
scaled from the nearest one, and the estimate is marked "about".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from wan_ui.engine.result import Phase, Progress
from wan_ui.models import MODELS, TEMPORAL_COMPRESSION
from wan_ui.render_order import high_noise_part
from wan_ui.request import Generation

PATCH = 2  # latent positions along each side of a token
NEWEST_SHARE = 0.5  # of the newest run in what is kept of a size; the first run of a size is slower than the next ones
LEARNED_STEPS = 2.0  # measured steps that count as much as what was learned from earlier runs of this very size
SCALED_STEPS = 0.5  # the same, for what was scaled from another size
DECODE_STEPS = 2.0  # steps that a decoding is taken to last on a machine that has finished no clip yet
DEFAULT_BOUNDARY = 0.9  # of a pair whose checkpoint says where its transformers change
_LOAD: tuple[Phase, ...] = ("checking", "loading")
"""The phases that make up `load`; `checking` only where a model was loaded, else it is a part of `prepare`."""
_PREPARE: tuple[Phase, ...] = ("lora", "text", "image")
"""The other phases that make up `prepare`."""


@dataclass(frozen=True)
class SizeKey:
    """What decides how long a clip takes, besides its steps: a row of the table of timings."""

    device: str
    model: str
    variant: str
    width: int
    height: int
    num_frames: int

    @property
    def pixels(self) -> int:
        """Pixels of all frames: what decoding and encoding are proportional to."""
        return self.width * self.height * self.num_frames

    @property
    def tokens(self) -> float:
        """Tokens of the transformer's input."""
        side = PATCH * (MODELS[self.model].spatial_compression if self.model in MODELS else 8)
        latent_frames = (self.num_frames - 1) // TEMPORAL_COMPRESSION + 1
        return latent_frames * (self.width / side) * (self.height / side)

    @property
    def work(self) -> float:
        """What one forward is proportional to, among all models: parameters × tokens × (1 + tokens / (6 · width)).

        A block's linear layers cost about 24 · d² operations a token and its self-attention 4 · n · d, for n tokens of
        width d: together 24 · d² · (1 + n / (6 · d)).
        """
        if self.model not in MODELS:
            return self.tokens
        model = MODELS[self.model]
        return model.parameters * self.tokens * (1 + self.tokens / (6 * model.hidden_size))


@dataclass(frozen=True)
class Timing:
    """Seconds of a clip of one size: `load` of the model (0: never measured), one `forward` of the transformer.

    `runs` is how many clips of it were measured.
    """

    load: float
    prepare: float
    forward: float
    decode: float
    encode: float
    runs: int = 1

    @property
    def is_cold(self) -> bool:
        """Whether the only clip of this size also loaded the model: first uses of everything are slower."""
        return self.runs == 1 and self.load > 0

    def after(self, newest: Timing) -> Timing:
        """What is kept once another run was measured.

        `prepare` falls at once: the first run also reads files, and hashes them, that later ones find known.
        """

        def mixed(old: float, new: float) -> float:
            return old + NEWEST_SHARE * (new - old)

        return Timing(
            load=newest.load if not self.load else self.load if not newest.load else mixed(self.load, newest.load),
            prepare=min(newest.prepare, mixed(self.prepare, newest.prepare)),
            forward=mixed(self.forward, newest.forward),
            decode=mixed(self.decode, newest.decode),
            encode=mixed(self.encode, newest.encode),
            runs=self.runs + newest.runs,
        )


@dataclass(frozen=True)
class Estimate:
    """A timing with how sure it is: `about` where it was scaled from another size or model."""

    timing: Timing
    about: bool


Known = Mapping[SizeKey, Timing]


@dataclass(frozen=True)
class RunningClip:
    """The clip that is rendered or written: its generation's index, its progress and that phase's seconds so far.

    `gpus`: how many of them denoise it together.
    """

    index: int
    progress: Progress
    seconds_in_phase: float = 0.0
    seconds_since_report: float = 0.0
    gpus: int = 1


@dataclass(frozen=True)
class JobWork:
    """A job as the estimate sees it: its generations, those that are finished or failed, and the running one.

    `loads` says whether its model is not loaded, so that the first clip that is not finished loads it. `beside` are the
    clips that other slots render meanwhile.
    """

    generations: Sequence[Generation]
    ended: frozenset[int] = frozenset()
    running: RunningClip | None = None
    loads: bool = False
    beside: Sequence[RunningClip] = ()

    @property
    def at_work(self) -> Mapping[int, RunningClip]:
        """The clips that are rendered or written, by their generations' indices."""
        clips = (*self.beside, *(() if self.running is None else (self.running,)))
        return {clip.index: clip for clip in clips}


@dataclass(frozen=True)
class Outlook:
    """How far a job is and how long it still takes, all its clips with decoding and encoding included.

    `seconds_left` is None where nothing is known, `about` marks a rough estimate. `steps_done` of `steps_total` are
    denoising steps of the whole job. `fraction` is the share of its time that has passed, 0 to 1. `clips` are the
    seconds left of each clip that is not finished, and `load` those in which a slot loads the model.
    """

    seconds_left: float | None
    about: bool
    steps_done: int
    steps_total: int
    fraction: float | None
    clips: Mapping[int, float] = field(default_factory=dict, compare=False, repr=False)
    load: float = field(default=0.0, compare=False, repr=False)


def variant(generation: Generation) -> str:
    """What else decides the speed of a forward: the recipe's arithmetic and the speed-up."""
    return f"{generation.recipe}/{generation.speedup}"


def size_key(generation: Generation, device: str) -> SizeKey:
    """The row of the table that a generation's clip belongs to."""
    size = (generation.width, generation.height, generation.num_frames)
    return SizeKey(device, generation.model, variant(generation), *size)


def forwards_per_step(generation: Generation) -> int:
    """Predictions of one step: with guidance two, the second without the prompt."""
    return 2 if generation.is_guided else 1


def high_noise_steps(generation: Generation) -> int:
    """How many steps of a pair its high-noise transformer takes; 0 for a model with one transformer.

    A step i of n is at t = 1000 · shift · σ / (1 + (shift − 1) · σ), σ = 1 − i / n, and belongs to the high-noise
    transformer while t ≥ boundary · 1000.
    """
    model = MODELS.get(generation.model)
    if model is None or not model.two_transformers:
        return 0
    if generation.switch_step is not None:
        return min(generation.switch_step, generation.sample_steps)
    chosen = generation.boundary if generation.boundary is not None else model.boundary[generation.recipe]
    boundary = chosen if isinstance(chosen, float) else DEFAULT_BOUNDARY
    shift = generation.flow_shift or model.unipc_shift or model.euler_shift
    sigmas = (1 - index / generation.sample_steps for index in range(generation.sample_steps))
    return sum(shift * sigma / (1 + (shift - 1) * sigma) >= boundary for sigma in sigmas)


def computed_steps(generations: Sequence[Generation]) -> list[int]:
    """The steps that each clip computes: those of its high-noise half are shared with an equal one before it."""
    counts, before = [], None
    for generation in generations:
        key = high_noise_part(generation)
        shared = high_noise_steps(generation) if key == before else 0
        counts.append(generation.sample_steps - shared)
        before = key
    return counts


def measured(generation: Generation, seconds: Mapping[str, float], encode: float, steps: int) -> Timing:
    """The timing of a finished clip, whose phases took so many `seconds`, `steps` steps being computed."""
    forwards = max(1, steps) * forwards_per_step(generation)
    before_load = sum(seconds.get(phase, 0.0) for phase in _LOAD)
    has_loaded = "loading" in seconds
    return Timing(
        load=before_load if has_loaded else 0.0,
        prepare=sum(seconds.get(phase, 0.0) for phase in _PREPARE) + (0.0 if has_loaded else before_load),
        forward=seconds.get("denoise", 0.0) / forwards,
        decode=seconds.get("decode", 0.0),
        encode=encode,
    )


def estimate(key: SizeKey, known: Known) -> Estimate | None:
    """The timing of a size: as measured, else scaled from the nearest one; None while nothing is known of the device.

    The nearest has the same model and variant if there is one, then the nearest number of tokens. How long the model
    loads does not depend on the size, so any clip that loaded it tells.
    """
    own, load = known.get(key), _load(key, known)
    if own is None:
        scaled = _scaled(key, known)
        return None if scaled is None else Estimate(replace(scaled, load=load), about=True)
    if own.is_cold:
        own = _warm(own, key, known)
    return Estimate(own if own.load else replace(own, load=load), about=False)


def _warm(cold: Timing, key: SizeKey, known: Known) -> Timing:
    """A cold timing without what only a first run does, as far as warm clips of the same model tell."""
    kind = (key.device, key.model, key.variant)
    others = {
        other: timing
        for other, timing in known.items()
        if (other.device, other.model, other.variant) == kind and not timing.is_cold
    }
    warm = _scaled(key, others)
    if warm is None:
        return cold
    return replace(
        cold,
        prepare=min(cold.prepare, warm.prepare),
        decode=min(cold.decode, warm.decode),
        encode=min(cold.encode, warm.encode),
    )


def _scaled(key: SizeKey, known: Known) -> Timing | None:
    """The timing of the nearest size on the same device, scaled to this one."""
    candidates = [other for other in known if other.device == key.device]
    if not candidates:
        return None

    def distance(other: SizeKey) -> tuple[bool, bool, float]:
        ratio = other.work / key.work
        return other.model != key.model, other.variant != key.variant, max(ratio, 1 / ratio)

    nearest = min(candidates, key=distance)
    timing, pixels = known[nearest], key.pixels / nearest.pixels
    return replace(
        timing,
        forward=timing.forward * key.work / nearest.work,
        decode=timing.decode * pixels,
        encode=timing.encode * pixels,
    )


def _load(key: SizeKey, known: Known) -> float:
    """Seconds in which the model of a size is loaded, from clips of any size; 0 where none loaded it."""
    same = ((other.device, other.model) == (key.device, key.model) for other in known)
    loads = [timing.load for is_same, timing in zip(same, known.values(), strict=True) if is_same and timing.load]
    return median(loads) if loads else 0.0


def outlook(work: JobWork, known: Known, device: str) -> Outlook:
    """How far a job is and how long it still takes, its clips one after another."""
    generations, running, ended = work.generations, work.running, work.ended
    steps = computed_steps(generations)
    steps_done = sum(steps[index] for index in ended)
    for index, clip in work.at_work.items():
        if index not in ended:
            steps_done += max(0, clip.progress.step - generations[index].sample_steps + steps[index])
    estimates = [estimate(size_key(generation, device), known) for generation in generations]
    paces = {index: _pace(clip, generations, estimates, steps) for index, clip in work.at_work.items()}
    pace = replace(paces[running.index], gpus=1) if running is not None else _Pace()  # of those that wait
    open_clips = [index for index in range(len(generations)) if index not in ended]
    clips: dict[int, float] = {}
    whole = load = 0.0
    for index, generation in enumerate(generations):
        timing = paces.get(index, pace).timing(estimates[index], generation)
        if timing is None:
            return Outlook(None, True, steps_done, sum(steps), None)
        # The other clips are encoded while the next one is rendered.
        tail = timing.encode if index == len(generations) - 1 else 0.0
        step = timing.forward * forwards_per_step(generation)
        cost = timing.prepare + steps[index] * step + timing.decode + tail
        whole += cost
        load = load or timing.load
        if index in ended:
            continue
        clip_at_work = work.at_work.get(index)
        if clip_at_work is None:
            clips[index] = cost
        elif work.loads and clip_at_work.progress.phase == "checking":
            clips[index] = _rest(timing.load, clip_at_work.seconds_in_phase, None) + cost
        else:
            clips[index] = _left_of_clip(clip_at_work, timing, steps[index], generation.sample_steps, step) + (
                0.0 if clip_at_work.progress.phase == "encode" else tail
            )
    left = sum(clips.values())
    if work.loads and running is None and open_clips:
        left += _load_of_first(estimates, open_clips)
    about = any(found is None or found.about for found in (estimates[index] for index in open_clips))
    whole = max(whole, left)
    return Outlook(left, about, steps_done, sum(steps), 1 - left / whole if whole else 1.0, clips, load)


def _load_of_first(estimates: Sequence[Estimate | None], open_clips: Sequence[int]) -> float:
    """Seconds in which the first clip that is not finished loads its model."""
    first = estimates[open_clips[0]]
    return 0.0 if first is None else first.timing.load


@dataclass(frozen=True)
class _Pace:
    """How fast a clip at work is on its `gpus`: `forward` seconds, and the `ratio` to what was learned of its size."""

    forward: float | None = None
    ratio: float = 1.0
    gpus: int = 1

    def timing(self, known: Estimate | None, generation: Generation) -> Timing | None:
        """A clip's timing at this pace; without any earlier run, from the steps that were measured just now."""
        if known is None:
            if self.forward is None:
                return None
            step = self.forward * forwards_per_step(generation)
            return Timing(0.0, 0.0, self.forward, DECODE_STEPS * step, 0.0)
        timing = known.timing
        return replace(
            timing,
            forward=timing.forward / self.gpus * self.ratio,
            decode=timing.decode * self.ratio,
            encode=timing.encode * self.ratio,
        )


def _pace(
    running: RunningClip, generations: Sequence[Generation], estimates: Sequence[Estimate | None], steps: Sequence[int]
) -> _Pace:
    """The pace of a running clip: what was learned and what its own steps took, by the number of those steps.

    `steps` are those that each clip computes. What was learned is of one GPU; several take so much less.
    """
    if running.progress.seconds_per_step is None:
        return _Pace(gpus=running.gpus)
    generation, learned = generations[running.index], estimates[running.index]
    now = running.progress.seconds_per_step / forwards_per_step(generation)
    if learned is None or not learned.timing.forward:
        return _Pace(forward=now)
    skipped = generation.sample_steps - steps[running.index]
    done = max(1, running.progress.step - skipped)
    share = done / (done + (SCALED_STEPS if learned.about else LEARNED_STEPS))
    expected = learned.timing.forward / running.gpus
    forward = expected + share * (now - expected)
    return _Pace(forward, forward / expected, running.gpus)


def _left_of_clip(running: RunningClip, timing: Timing, computed: int, total: int, step: float) -> float:
    """Seconds left of the running clip, its encoding left out until that runs.

    `computed` of its `total` steps are not shared with the clip before; each takes `step` seconds.
    """
    progress, passed = running.progress, running.seconds_in_phase
    match progress.phase:
        case "encode":
            return _rest(timing.encode, passed, progress.fraction)
        case "decode":
            return _rest(timing.decode, passed, progress.fraction)
        case "denoise":
            ahead = (total - max(progress.step, total - computed)) * step
            return max(0.0, ahead - min(running.seconds_since_report, step)) + timing.decode
        case "downloading":  # of which nothing is known but its own speed
            before = _rest(0.0, passed, _share_of_bytes(progress)) + timing.load + timing.prepare
        case "loading":
            before = _rest(timing.load, passed, _share_of_bytes(progress)) + timing.prepare
        case _:
            before = max(0.0, timing.prepare - passed)
    return before + computed * step + timing.decode


def _share_of_bytes(progress: Progress) -> float | None:
    return progress.bytes_done / progress.bytes_total if progress.bytes_total else None


def _rest(expected: float, passed: float, share: float | None) -> float:
    """Seconds left of a phase: what was learned, and what its present speed says, the more the further it is."""
    learned = max(0.0, expected - passed)
    if not share:
        return learned
    measured_left = passed * (1 - share) / share
    return measured_left if not expected else learned + share * (measured_left - learned)

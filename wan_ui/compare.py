"""Two axes of values over one request -> labelled cells, and the cheapest order to render them; it renders nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any, get_args

from pydantic import ValidationError

from wan_ui.errors import InvalidRequest
from wan_ui.models import MODELS, Speedup, WanModel
from wan_ui.request import (
    MOST_CELLS,
    Axis,
    AxisField,
    Compare,
    Generation,
    InferenceRequest,
    LoraItem,
    PromptItem,
    Wire,
    draw_seed,
    model_row,
)

NO_LORA = "no LoRA"
LONGEST_LABEL = 60  # characters
LONGEST_NUMBER = 40  # characters; a seed has at most 19 digits

FIELDS: tuple[AxisField, ...] = get_args(AxisField)
SPEEDUPS: tuple[Speedup, ...] = get_args(Speedup)
SCALES: Mapping[str, str | None] = {"scale": None, "scale_high": "high", "scale_low": "low"}
LORA_FIELDS = (*SCALES, "lora")
WORDS_OF_THE_SCHEMA = ("recipe", "speedup")  # fields of the request itself
ONE_PER_LINE = ("prompt", "lora")  # a prompt holds commas, and a path may
WORDS: Mapping[str, str] = {
    "scale": "scale",
    "scale_high": "high scale",
    "scale_low": "low scale",
    "seed": "seed",
    "sample_steps": "steps",
    "guidance_scale": "guidance",
    "num_frames": "frames",
    "speedup": "speed-up",
}

Value = int | float | str | Mapping[str, Any]
"""A checked axis value; a mapping is a pair of files, {"high": path, "low": path}, either of them left out, or a
prompt with what else its cells have of their own, see OF_A_PROMPT."""

OF_A_PROMPT = ("trigger_word", "seed", "sample_steps", "guidance_scale", "neg", "training_sample")
"""What a value of a prompt axis may set beside its `prompt`: nothing that changes the size of a cell."""

Pair = Callable[[str], Mapping[str, str] | None]
"""A LoRA's path to the files of its pair by slot ("high", "low"); None: its slot cannot be told."""


@dataclass(frozen=True)
class Cell:
    """One video of a grid: where it stands, from 0, what the heads of its column and row say, and its request."""

    column: int
    row: int
    column_label: str
    row_label: str
    request: InferenceRequest


@dataclass(frozen=True)
class Grid:
    """`cells` row by row; `columns` and `rows` are the labels, ("",) where there is no such axis."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Order:
    """What to render, in this order: cell i of a grid is the video of `distinct[of_cell[i]]`."""

    distinct: tuple[Generation, ...]
    of_cell: tuple[int, ...]


def _refusal(problems: Sequence[tuple[str, str]]) -> InvalidRequest:
    loc, msg = problems[0]
    return InvalidRequest(f"{loc}: {msg}", fields=[{"loc": loc, "msg": msg} for loc, msg in problems])


@dataclass(frozen=True)
class PlannedCell:
    """A cell in line: where it stands, from 0, the heads of its column and row, and which generation is its video.

    `request` is the cell's own request for this one video, in wire form without nulls.
    """

    column: int
    row: int
    column_label: str
    row_label: str
    generation: int
    request: Mapping[str, Any]


# As people write them

_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]+)?)"
_SINGLE = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_RANGE = re.compile(rf"({_NUMBER})\s*\.\.\s*({_NUMBER})(?:\s+step\s+({_NUMBER}|\.[0-9]+))?", re.IGNORECASE)


def parse_values(text: str, field: AxisField = "scale", loc: str = "values") -> tuple[int | float | str, ...]:
    """An axis's values as typed: `0, 0.5, 1`, `0.2..1.0 step 0.2`, `42..45`; prompts and LoRA paths one per line.

    Decimals are exact (0.2 three times is 0.6), a range holds its end if a step meets it, and counts down when its
    end is the smaller. Without a step, a range of whole numbers goes by 1. Nothing typed is no value.
    Raises InvalidRequest, naming `loc` and the piece, for what is no number and for more than 64 values.
    """
    if field in ONE_PER_LINE:
        found: list[int | float | str] = [line.strip() for line in text.splitlines() if line.strip()]
    elif field in WORDS_OF_THE_SCHEMA:
        found = [word for word in re.split(r"[,;\s]+", text) if word]
    else:
        found = []
        for piece in re.split(r"[,;\n]", text.replace("\N{MINUS SIGN}", "-").replace("…", "..")):
            found += map(_plain, _numbers(piece.strip(), loc))
            if len(found) > MOST_CELLS:
                break
    if len(found) > MOST_CELLS:
        raise _refusal([(loc, f"more than {MOST_CELLS} values")])
    return tuple(found)


def _numbers(piece: str, loc: str) -> list[Decimal]:
    match = _RANGE.fullmatch(piece)
    if match is None and ".." in piece:
        raise _refusal([(loc, f"{_shown(piece)} is no range; write for example 42..45 or 0.2..1.0 step 0.2")])
    if match is None:
        return [_number(word, loc) for word in piece.split()[: MOST_CELLS + 1]]
    first, last = _number(match[1], loc), _number(match[2], loc)
    whole = first == int(first) and last == int(last)
    if match[3] is None and not whole:
        raise _refusal([(loc, f"{_shown(piece)}: say the step, as in 0.2..1.0 step 0.2")])
    step = abs(_number(match[3] or "1", loc))
    if step == 0:
        raise _refusal([(loc, f"{_shown(piece)}: a step of 0 goes nowhere")])
    count = abs(last - first) // step + 1
    if count > MOST_CELLS:
        raise _refusal([(loc, f"{_shown(piece)}: more than {MOST_CELLS} values")])
    return [first + step * index * (1 if last >= first else -1) for index in range(int(count))]


def _number(word: str, loc: str) -> Decimal:
    if len(word) > LONGEST_NUMBER or not _SINGLE.fullmatch(word):
        raise _refusal([(loc, f"{_shown(word)} is no number; write for example 0, 0.5, 1 or 42..45")])
    return Decimal(word)


def _plain(number: Decimal) -> int | float:
    return int(number) if number == int(number) else float(number)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    kept = "".join(character if character.isprintable() else " " for character in text)
    return kept if len(kept) <= LONGEST_LABEL else kept[: LONGEST_LABEL - 1] + "…"


# Checkpoints of a job

_STEP = re.compile(r"_([0-9]{9})$")
_HALF = re.compile(r"[ _.-]*(high|low)[ _.-]*noise$", re.IGNORECASE)


def training_step(path: str) -> int | None:
    """The step in AI Toolkit's `<name>_<9 digits>[_high_noise].safetensors`; None: the final save, or another name."""
    match = _STEP.search(_HALF.sub("", PurePosixPath(path).stem))
    return int(match[1]) if match else None


def by_training_step(paths: Iterable[str]) -> tuple[str | dict[str, str], ...]:
    """A job's files as values of a `lora` axis: by name, then by training step, the final save last.

    Two files that differ only in `_high_noise` and `_low_noise` become {"high": path, "low": path}; a half without
    its partner is {"high": path} or {"low": path}.
    """
    saves: dict[str, dict[str, str]] = {}
    for path in sorted(set(paths)):
        pure = PurePosixPath(path)
        half = _HALF.search(pure.stem)
        save = str(pure.with_name(_HALF.sub("", pure.stem) or pure.stem))
        saves.setdefault(save, {})[half[1].lower() if half else ""] = path

    def place(save: str) -> tuple[str, bool, int]:
        step = _STEP.search(save)
        return _STEP.sub("", save), step is None, int(step[1]) if step else 0

    found: list[str | dict[str, str]] = []
    for save in sorted(saves, key=place):
        halves: dict[str, str] = {slot: saves[save][slot] for slot in ("high", "low") if slot in saves[save]}
        found += [saves[save][""]] if "" in saves[save] else []
        found += [halves] if halves else []
    return tuple(found)


# Cells


def no_pair(path: str) -> None:
    """The Pair of a place without files: both halves must be named."""
    return None


def expand(
    request: InferenceRequest,
    compare: Compare,
    pair: Pair = no_pair,
    draw: Callable[[], int] = draw_seed,
    models: Mapping[str, WanModel] = MODELS,
) -> Grid:
    """Every cell of the grid as a request of its own, each value checked against the request's own fields.

    A cell's request is what a single request for that video would be, without the measuring forward. The request's
    seed of -1 is drawn once, for
    all cells; on a seed axis it is refused, as no one could say later which seed a column had. An axis without values
    is none. In a stack, a scale or lora axis is about each slot's first entry. With `baseline`, a first column (or
    row) without LoRA is added when an axis is a scale or a LoRA; where both are, the column, its cells all being the
    same video.
    Raises InvalidRequest naming each wrong value with its axis, when two axes set the same thing, when there is
    nothing to scale, or when there are more than 64 cells; ModelNotFound.
    """
    row = model_row(request.model, models)
    problems: list[tuple[str, str]] = []
    if len(request.prompts) != 1:
        problems.append(("prompts", "a comparison takes exactly one prompt; other prompts are an axis"))
    named = {"columns": compare.columns, "rows": compare.rows}
    axes = {name: axis for name, axis in named.items() if axis is not None and axis.values}
    values = {name: _checked(name, axis, row, pair, problems) for name, axis in axes.items()}
    problems += _conflicts(axes, values, _by_slot(request.loras, row, pair), row)
    if problems:
        raise _refusal(problems)

    base = _settled(request, row, pair, draw)
    sides = {name: _side(axes.get(name), values.get(name, [])) for name in named}
    if compare.baseline:
        for name in named:
            if name in axes and axes[name].field in LORA_FIELDS:
                sides[name].insert(0, _Side(NO_LORA, None, None))
                break
    columns, rows = sides["columns"], sides["rows"]
    if len(columns) * len(rows) > MOST_CELLS:
        raise _refusal([("compare", f"{len(columns)} columns × {len(rows)} rows are more than {MOST_CELLS} cells")])
    return Grid(
        columns=tuple(side.label for side in columns),
        rows=tuple(side.label for side in rows),
        cells=tuple(
            Cell(x, y, column.label, row_side.label, _cell(base, (column, row_side)))
            for y, row_side in enumerate(rows)
            for x, column in enumerate(columns)
        ),
    )


@dataclass(frozen=True)
class _Side:
    """One column or row. `field` None: nothing changes, or, labelled NO_LORA, the LoRAs are taken off."""

    label: str
    field: AxisField | None
    value: Value | None


def _side(axis: Axis | None, values: Sequence[Value]) -> list[_Side]:
    if axis is None:
        return [_Side("", None, None)]
    return [_Side(label(axis.field, value), axis.field, value) for value in values]


def label(field: AxisField, value: Value) -> str:
    """What stands at the head of a column or row: `scale 0.5`, `seed 42`, a checkpoint's name, a prompt's start."""
    if isinstance(value, Mapping) and field == "prompt":
        return _shown(value["prompt"])
    if isinstance(value, Mapping):
        names = dict.fromkeys(_HALF.sub("", PurePosixPath(path).stem) for path in value.values())
        only = f" ({next(iter(value))} only)" if len(value) == 1 else ""
        return _shown(" + ".join(names)) + only
    if field == "lora":
        return _shown(PurePosixPath(str(value)).stem)
    return f"{WORDS[field]} {value:g}" if isinstance(value, float) and field in WORDS else _worded(field, value)


def _worded(field: AxisField, value: Value) -> str:
    return f"{WORDS[field]} {value}" if field in WORDS else _shown(value)


def _checked(name: str, axis: Axis, row: WanModel, pair: Pair, problems: list[tuple[str, str]]) -> list[Value]:
    """The axis's values as the request's field takes them; what is wrong goes to `problems`."""
    sound: list[Value] = []
    for index, value in enumerate(axis.values):
        try:
            sound.append(_value(axis.field, value, row, pair))
        except _WrongValue as wrong:
            problems.append((f"compare.{name}.values.{index}", f"{_shown(value)}: {wrong}"))
    return sound


class _WrongValue(Exception):
    """One value's fault; gathered with the others' into one InvalidRequest."""


def _value(field: AxisField, value: Any, row: WanModel, pair: Pair) -> Value:
    if value is None:
        raise _WrongValue("a value is needed")
    if field == "lora":
        return _files(value, row, pair)
    if field == "prompt" and isinstance(value, Mapping):
        return _prompt(value)
    if field in SCALES:
        checked: Value = _by_schema(LoraItem, {"path": "any"}, "network_multiplier", value)
    elif field in WORDS_OF_THE_SCHEMA:
        checked = _by_schema(InferenceRequest, {"model": row.id, "prompts": [{"prompt": "any"}]}, field, value)
    else:
        checked = _by_schema(PromptItem, {"prompt": "any"}, field, value)
    if field == "seed" and checked == -1:
        raise _WrongValue("a seed drawn at random is no value to compare; type the seeds, as in 42..45")
    return checked


def _prompt(value: Mapping[str, Any]) -> Value:
    known = ("prompt", *OF_A_PROMPT)
    for name in value:
        if name not in known:
            raise _WrongValue(f"{_shown(name)} is the same in all cells; a prompt's own may be {', '.join(known)}")
    if value.get("seed") == -1:
        raise _WrongValue("a seed drawn at random is no value to compare; give the seed, or leave it out")
    return _by_whole_schema(value)


def _by_whole_schema(value: Mapping[str, Any]) -> Value:
    try:
        return PromptItem.model_validate(value).model_dump(include=set(value), exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _WrongValue(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _by_schema(model: type[Wire], rest: Mapping[str, Any], name: str, value: Any) -> Any:
    """The value as the wire's own field takes it, so that no bound is written twice."""
    try:
        return getattr(model.model_validate({**rest, name: value}), name)
    except ValidationError as error:
        raise _WrongValue(error.errors(include_url=False, include_input=False)[0]["msg"]) from None


def _files(value: Any, row: WanModel, pair: Pair) -> Value:
    if isinstance(value, Mapping):
        halves = {slot: path for slot, path in value.items() if path is not None}
        if not row.two_transformers:
            raise _WrongValue(f"{row.label} has one transformer: give a path")
        if not halves or not set(halves) <= set(row.slots):
            raise _WrongValue('give {"high": path, "low": path}, or one of the two')
        return {slot: _by_schema(LoraItem, {}, "path", halves[slot]) for slot in row.slots if slot in halves}
    path: str = _by_schema(LoraItem, {}, "path", value)
    if not row.two_transformers:
        return path
    found = pair(path)
    if not found:
        raise _WrongValue('the file says neither high nor low: give {"high": path, "low": path}')
    return {slot: found[slot] for slot in row.slots if slot in found}


def _conflicts(
    axes: Mapping[str, Axis], values: Mapping[str, list[Value]], loras: tuple[LoraItem, ...], row: WanModel
) -> list[tuple[str, str]]:
    problems: list[tuple[str, str]] = []
    fields = [axis.field for axis in axes.values()]
    if len(fields) == 2 and (fields[0] == fields[1] or ("scale" in fields and set(fields) <= set(SCALES))):
        problems.append(("compare.rows.field", f"{fields[1]} sets what the columns' {fields[0]} sets"))
    for name, other in (("columns", "rows"), ("rows", "columns")):
        if name in axes and other in axes and axes[name].field == "prompt":
            if any(isinstance(value, Mapping) and axes[other].field in value for value in values[name]):
                problems.append((f"compare.{other}.field", f"the prompts set {axes[other].field} too"))
    slots: set[str | None] = {item.transformer for item in loras}
    for name, axis in axes.items():
        if axis.field == "lora":
            slots = {slot for value in values[name] for slot in _files_by_slot(value)}
    # Where every file was refused, that is the thing to say.
    unknown_files = any(axis.field == "lora" and not values[name] for name, axis in axes.items())
    for name, axis in axes.items():
        slot = SCALES.get(axis.field)
        if slot is not None and not row.two_transformers:
            problems.append((f"compare.{name}.field", f"{row.label} has one transformer: use scale"))
        elif axis.field in SCALES and not (slots if slot is None else slots & {slot}) and not unknown_files:
            problems.append((f"compare.{name}.field", f"there is no {slot + ' ' if slot else ''}LoRA to scale"))
    return problems


def _settled(request: InferenceRequest, row: WanModel, pair: Pair, draw: Callable[[], int]) -> InferenceRequest:
    """The request with one seed for all cells, and each slot's LoRAs named, so that a scale finds them."""
    if request.prompts[0].seed == -1:
        request = _with_prompt(request, {"seed": draw()})
    loras = _by_slot(request.loras, row, pair)
    return request.model_copy(update={"loras": loras, "compare": None, "first_step_change": False})


def _by_slot(loras: tuple[LoraItem, ...], row: WanModel, pair: Pair) -> tuple[LoraItem, ...]:
    """A file that holds both halves of a pair stands once for each slot that no other entry names."""
    if not row.two_transformers:
        return loras
    named = {item.transformer for item in loras}
    found: list[LoraItem] = []
    for item in loras:
        halves = pair(item.path) or {}
        slots = [s for s in row.slots if s == item.transformer or (s not in named and halves.get(s) == item.path)]
        found += [item.model_copy(update={"transformer": slot}) for slot in slots] or [item]
    return tuple(found)


def _with_prompt(request: InferenceRequest, update: Mapping[str, Any]) -> InferenceRequest:
    return request.model_copy(update={"prompts": (request.prompts[0].model_copy(update=dict(update)),)})


def _cell(base: InferenceRequest, sides: tuple[_Side, _Side]) -> InferenceRequest:
    if any(side.label == NO_LORA and side.field is None for side in sides):
        sides = _without_lora(sides)
        base = base.model_copy(update={"loras": ()})
    # The files first: a scale on the other axis is theirs.
    for side in sorted(sides, key=lambda side: side.field != "lora"):
        if side.field is not None and side.value is not None:
            base = _applied(base, side.field, side.value)
    return base


def _without_lora(sides: tuple[_Side, _Side]) -> tuple[_Side, _Side]:
    first, second = (_Side(side.label, None, None) if side.field in LORA_FIELDS else side for side in sides)
    return first, second


def _applied(request: InferenceRequest, field: AxisField, value: Value) -> InferenceRequest:
    if field in WORDS_OF_THE_SCHEMA:
        return request.model_copy(update={field: value})
    if field == "lora":
        return request.model_copy(update={"loras": _attached(request.loras, value)})
    if field in SCALES:
        slot = SCALES[field]
        first, rest = _first_of_each_slot(request.loras)
        scaled = [
            item.model_copy(update={"network_multiplier": value}) if slot in (None, item.transformer) else item
            for item in first.values()
        ]
        return request.model_copy(update={"loras": (*scaled, *rest)})
    if isinstance(value, Mapping):  # a prompt with more of its own
        item = PromptItem.model_validate({**request.prompts[0].model_dump(exclude_none=True), **value})
        return request.model_copy(update={"prompts": (item,)})
    return _with_prompt(request, {field: value})


def _attached(before: tuple[LoraItem, ...], value: Value) -> tuple[LoraItem, ...]:
    """Other files in place of each slot's first, at its scale."""
    first, rest = _first_of_each_slot(before)
    attached = [
        first[slot].model_copy(update={"path": path})
        if slot in first
        else LoraItem.model_validate({"path": path, "transformer": slot})
        for slot, path in _files_by_slot(value).items()
    ]
    return (*attached, *rest)


def _files_by_slot(value: Value) -> Mapping[Any, str]:
    """The slot is None on a model with one transformer."""
    return value if isinstance(value, Mapping) else {None: str(value)}


def _first_of_each_slot(loras: tuple[LoraItem, ...]) -> tuple[dict[str | None, LoraItem], tuple[LoraItem, ...]]:
    """In a stack the axes are about each slot's first LoRA; the others stay as they are."""
    first: dict[str | None, LoraItem] = {}
    for item in loras:
        first.setdefault(item.transformer, item)
    return first, tuple(item for item in loras if item is not first[item.transformer])


# The cheapest order


def same_video(generation: Generation) -> Hashable:
    """What decides a video. A LoRA at scale 0 is not attached, and equal files under two names are one."""
    return replace(
        generation,
        loras=_wearing(generation),
        requested_width=0,
        requested_height=0,
        requested_num_frames=0,
        ignored=(),
    )


def high_noise_part(generation: Generation) -> Hashable:
    """What decides the high-noise steps of a two-transformer model: everything but the low-noise side's LoRAs.

    Two generations with the same part have the same latents and sampler state at the boundary, bit for bit.
    """
    kept = tuple(use for use in _wearing(generation) if use.slot != "low")
    return replace(
        generation,
        loras=kept,
        fps=0,
        requested_width=0,
        requested_height=0,
        requested_num_frames=0,
        ignored=(),
        vae_tiling=False,
    )


def render_order(generations: Sequence[Generation]) -> Order:
    """The distinct videos of a grid's generations, in the order that changes the costly things least often.

    Recipe and speed-up change least often: they recast the transformers, or pack their weights, which comes last since
    the exact ones have to be read again after it. Then the files of the first transformer, then their scales (a merged
    LoRA pays for each), then what else the high-noise steps depend on, and innermost the low-noise side: videos that
    differ only there are neighbours and can share their high-noise steps, which cost more than any change of a
    low-noise file. No LoRA comes first. A model with one transformer has no low-noise side.
    """
    first: dict[Hashable, Generation] = {}
    for generation in generations:
        first.setdefault(same_video(generation), generation)
    rank = _Ranks()
    placed = sorted(
        (
            (
                (rank("recipe", one.recipe), SPEEDUPS.index(one.speedup)),
                rank("files", _names(one, low=False)),
                rank("scales", _scales(one, low=False)),
                rank("high", high_noise_part(one)),
                rank("low files", _names(one, low=True)),
                rank("low scales", _scales(one, low=True)),
                index,
            ),
            one,
        )
        for index, one in enumerate(first.values())
    )
    ordered: list[Generation] = []
    for _, group in groupby(placed, key=lambda item: item[0][:4]):
        blocks = [[one for _, one in block] for _, block in groupby(group, key=lambda item: item[0][4])]
        if ordered:
            # Begin with the low-noise file that is attached already.
            attached = _names(ordered[-1], low=True)
            blocks.sort(key=lambda block: _names(block[0], low=True) != attached)
        ordered += [one for block in blocks for one in block]
    index_of = {same_video(one): index for index, one in enumerate(ordered)}
    return Order(tuple(ordered), tuple(index_of[same_video(one)] for one in generations))


def plan_cells(grid: Grid, generations: Sequence[Generation]) -> tuple[tuple[Generation, ...], tuple[PlannedCell, ...]]:
    """A grid's generations, one per cell, as what is to be rendered, in order, and the cells that show it."""
    order = render_order(generations)
    cells = tuple(
        PlannedCell(
            column=cell.column,
            row=cell.row,
            column_label=cell.column_label,
            row_label=cell.row_label,
            generation=index,
            request=cell.request.model_dump(mode="json", exclude_none=True),
        )
        for cell, index in zip(grid.cells, order.of_cell, strict=True)
    )
    return order.distinct, cells


def estimate(
    order: Order,
    seconds_per_step: Callable[[Generation], float],
    high_steps: Callable[[Generation], int] = lambda generation: 0,
) -> float:
    """The expected seconds of denoising. `high_steps`: how many of a generation's steps are high-noise ones.

    Neighbours with the same high-noise part pay for those once.
    """
    total = 0.0
    for index, one in enumerate(order.distinct):
        shared = index > 0 and high_noise_part(order.distinct[index - 1]) == high_noise_part(one)
        total += (one.sample_steps - (high_steps(one) if shared else 0)) * seconds_per_step(one)
    return total


class _Ranks:
    """Numbers for unordered things, each kind counted by itself, as they come; nothing at all is 0."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[Hashable, int]] = {}

    def __call__(self, kind: str, thing: Hashable) -> int:
        seen = self._seen.setdefault(kind, {(): 0})
        return seen.setdefault(thing, len(seen))


def _wearing(generation: Generation) -> tuple[Any, ...]:
    return tuple(replace(use, path=use.sha256 or use.path) for use in generation.loras if use.multiplier != 0)


def _side_of(generation: Generation, low: bool) -> list[Any]:
    return [use for use in _wearing(generation) if (use.slot == "low") == low]


def _names(generation: Generation, low: bool) -> tuple[tuple[str, str], ...]:
    return tuple((use.slot, use.path) for use in _side_of(generation, low))


def _scales(generation: Generation, low: bool) -> tuple[float, ...]:
    return tuple(use.multiplier for use in _side_of(generation, low))

"""A comparison: up to three axes of values over one request become labelled cells, each a request of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

from wan_ui.axes import (
    LORA_FIELDS,
    OF_THE_REQUEST,
    SCALES,
    Pair,
    Value,
    check_values,
    invalid_values,
    label,
)
from wan_ui.models import WanModel
from wan_ui.request import (
    AXES,
    MOST_CELLS,
    Axis,
    AxisField,
    AxisName,
    Compare,
    InferenceRequest,
    LoraItem,
    PromptItem,
    find_model,
    random_seed,
)

NO_LORA = "no LoRA"
_VALUE = re.compile(r"(?P<word>[a-z][a-z -]*) (?P<value>-?[0-9.]+)")
_CHECKPOINT = re.compile(r"(?P<job>.+?)[_-]?0*(?P<step>[0-9]{2,})")


@dataclass(frozen=True)
class Cell:
    """One video of a grid: its column, row and page, from 0, their labels, and its request."""

    column: int
    row: int
    column_label: str
    row_label: str
    request: InferenceRequest
    page: int = 0
    page_label: str = ""


@dataclass(frozen=True)
class Grid:
    """`cells` page by page and row by row; the others are the labels, ("",) where there is no such axis."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[Cell, ...]
    pages: tuple[str, ...] = ("",)


def short_labels(labels: Sequence[str]) -> tuple[str, list[str]]:
    """What an axis's labels have in common, and each of them without it: `scale` and `0.5`, `rings_job` and `500`.

    The label of a baseline stays. The checkpoint that a training job saved last has no step in its name: `final`.
    ("", the labels) where they have nothing in common.
    """
    changing = [label for label in labels if label != NO_LORA]
    for pattern, name, value in ((_VALUE, "word", "value"), (_CHECKPOINT, "job", "step")):
        matches = {label: pattern.fullmatch(label) for label in changing}
        common = {match[name] for match in matches.values() if match}
        if len(common) != 1 or len(changing) < 2:
            continue
        (title,) = common
        if all(match or (name == "job" and label == title) for label, match in matches.items()):
            short = {label: match[value] if match else "final" for label, match in matches.items()}
            return title, [short.get(label, label) for label in labels]
    return "", list(labels)


@dataclass(frozen=True)
class PlannedCell:
    """A cell of a queued job: its column, row and page, from 0, their labels, and the generation that it shows.

    `generation` is an index. `request` is the cell's own request for this one video, in wire form without nulls.
    """

    column: int
    row: int
    column_label: str
    row_label: str
    generation: int
    request: Mapping[str, Any]
    page: int = 0
    page_label: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the axes that the comparison has."""
        return tuple(filter(None, (self.column_label, self.row_label, self.page_label)))

    @property
    def place(self) -> dict[str, Any]:
        """Position and labels as they are stored: without the page where the comparison has no third axis."""
        place = {"column": self.column, "row": self.row}
        labels = {"column_label": self.column_label, "row_label": self.row_label}
        page = {"page": self.page, "page_label": self.page_label} if self.page_label else {}
        return {**place, **labels, **page}

    @property
    def stored(self) -> dict[str, Any]:
        """The cell as the database holds it."""
        return {**self.place, "generation": self.generation, "request": self.request}


def stacked_rows(cells: Sequence[PlannedCell]) -> dict[tuple[int, int], str]:
    """The labels of all rows by (page, row), in order: the pages of a third axis below one another."""
    labels = {(cell.page, cell.row): " · ".join(filter(None, (cell.page_label, cell.row_label))) for cell in cells}
    return dict(sorted(labels.items()))


def no_pair(path: str) -> None:
    """The Pair where no files can be read: both halves must be named."""
    return


def expand(
    request: InferenceRequest,
    compare: Compare,
    pair: Pair = no_pair,
    random_seed: Callable[[], int] = random_seed,
) -> Grid:
    """Every cell of the grid as a request of its own, each value checked against the request's own fields.

    A cell's request is what a single request for that video would be, without the measuring forward. A seed of -1 is
    replaced by one random seed for all cells; on a seed axis it is refused, since the label would not state the seed.
    An axis without values is ignored. In a stack, a scale or lora axis applies to each slot's first entry. With
    `baseline`, a first column (or row, or page) without LoRA is added when an axis is a scale or a LoRA; where several
    are, the column, whose cells are all the same video.
    Raises InvalidRequest naming each wrong value with its axis, when two axes set the same thing, when there is no
    LoRA to scale, or when there are more than 64 cells; ModelNotFound.
    """
    model = find_model(request.model)
    problems: list[tuple[str, str]] = []
    if len(request.prompts) != 1:
        problems.append(("prompts", "a comparison takes exactly one prompt; other prompts are an axis"))
    axes = compare.axes
    values = {name: check_values(name, axis, model, pair, problems) for name, axis in axes.items()}
    problems += _conflicts(axes, values, _by_slot(request.loras, model, pair), model)
    if problems:
        raise invalid_values(problems)

    base = _base(request, model, pair, random_seed)
    sides = {name: _side(axes.get(name), values.get(name, [])) for name in AXES}
    if compare.baseline:
        changing = next((name for name in axes if axes[name].field in LORA_FIELDS), None)
        if changing is not None:
            sides[changing].insert(0, _Side(NO_LORA, None, None))
    columns, rows, pages = sides["columns"], sides["rows"], sides["pages"]
    if len(columns) * len(rows) * len(pages) > MOST_CELLS:
        counts = f"{len(columns)} columns × {len(rows)} rows" + (f" × {len(pages)} pages" if "pages" in axes else "")
        raise invalid_values([("compare", f"{counts} are more than {MOST_CELLS} cells")])
    return Grid(
        columns=tuple(side.label for side in columns),
        rows=tuple(side.label for side in rows),
        cells=tuple(
            Cell(x, y, column.label, row.label, _cell(base, (column, row, page)), z, page.label)
            for z, page in enumerate(pages)
            for y, row in enumerate(rows)
            for x, column in enumerate(columns)
        ),
        pages=tuple(side.label for side in pages),
    )


@dataclass(frozen=True)
class _Side:
    """One column, row or page. `field` None: nothing changes or, labelled NO_LORA, the LoRAs are removed."""

    label: str
    field: AxisField | None
    value: Value | None


def _side(axis: Axis | None, values: Sequence[Value]) -> list[_Side]:
    if axis is None:
        return [_Side("", None, None)]
    return [_Side(label(axis.field, value), axis.field, value) for value in values]


def _conflicts(
    axes: Mapping[AxisName, Axis],
    values: Mapping[AxisName, list[Value]],
    loras: tuple[LoraItem, ...],
    model: WanModel,
) -> list[tuple[str, str]]:
    problems: list[tuple[str, str]] = []
    for (name, axis), (other, later) in combinations(axes.items(), 2):
        fields = (axis.field, later.field)
        if axis.field == later.field or ("scale" in fields and set(fields) <= set(SCALES)):
            problems.append((f"compare.{other}.field", f"{later.field} sets what the {name}' {axis.field} sets"))
    for name, other in permutations(axes, 2):
        if axes[name].field != "prompt":
            continue
        if any(isinstance(value, Mapping) and axes[other].field in value for value in values[name]):
            problems.append((f"compare.{other}.field", f"the prompts set {axes[other].field} too"))
    slots: set[str | None] = {item.transformer for item in loras}
    for name, axis in axes.items():
        if axis.field == "lora":
            slots = {slot for value in values[name] for slot in _files_by_slot(value)}
    # Where every file was refused, only that is reported.
    unknown_files = any(axis.field == "lora" and not values[name] for name, axis in axes.items())
    for name, axis in axes.items():
        slot = SCALES.get(axis.field)
        if slot is not None and not model.two_transformers:
            problems.append((f"compare.{name}.field", f"{model.label} has one transformer: use scale"))
        elif axis.field in SCALES and not (slots if slot is None else slots & {slot}) and not unknown_files:
            problems.append((f"compare.{name}.field", f"there is no {slot + ' ' if slot else ''}LoRA to scale"))
    return problems


def _base(request: InferenceRequest, model: WanModel, pair: Pair, random_seed: Callable[[], int]) -> InferenceRequest:
    """The request with one seed for all cells, and a slot for each LoRA, so that a scale finds it."""
    if request.prompts[0].seed == -1:
        request = _with_prompt(request, {"seed": random_seed()})
    loras = _by_slot(request.loras, model, pair)
    return request.model_copy(update={"loras": loras, "compare": None, "first_step_change": False})


def _by_slot(loras: tuple[LoraItem, ...], model: WanModel, pair: Pair) -> tuple[LoraItem, ...]:
    """The entries with a slot each: a combined file once for each slot that no other entry names."""
    if not model.two_transformers:
        return loras
    named = {item.transformer for item in loras}
    items: list[LoraItem] = []
    for item in loras:
        halves = pair(item.path) or {}
        slots = [s for s in model.slots if s == item.transformer or (s not in named and halves.get(s) == item.path)]
        items += [item.model_copy(update={"transformer": slot}) for slot in slots] or [item]
    return tuple(items)


def _with_prompt(request: InferenceRequest, update: Mapping[str, Any]) -> InferenceRequest:
    return request.model_copy(update={"prompts": (request.prompts[0].model_copy(update=dict(update)),)})


def _cell(base: InferenceRequest, sides: Sequence[_Side]) -> InferenceRequest:
    if any(side.label == NO_LORA and side.field is None for side in sides):
        sides = _without_lora(sides)
        base = base.model_copy(update={"loras": ()})
    # The files first: a scale on another axis applies to them.
    for side in sorted(sides, key=lambda side: side.field != "lora"):
        if side.field is not None and side.value is not None:
            base = _applied(base, side.field, side.value)
    return base


def _without_lora(sides: Sequence[_Side]) -> list[_Side]:
    return [_Side(side.label, None, None) if side.field in LORA_FIELDS else side for side in sides]


def _applied(request: InferenceRequest, field: AxisField, value: Value) -> InferenceRequest:
    if field in OF_THE_REQUEST:
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
    if isinstance(value, Mapping):  # a prompt with further fields
        item = PromptItem.model_validate(
            {**request.prompts[0].model_dump(exclude_none=True, exclude_unset=True), **value}
        )
        return request.model_copy(update={"prompts": (item,)})
    return _with_prompt(request, {field: value})


def _attached(before: tuple[LoraItem, ...], value: Value) -> tuple[LoraItem, ...]:
    """Other files in place of each slot's first one, at the same scale."""
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
    """Each slot's first LoRA, which the axes apply to, and the others of a stack."""
    first: dict[str | None, LoraItem] = {}
    for item in loras:
        first.setdefault(item.transformer, item)
    return first, tuple(item for item in loras if item is not first[item.transformer])

"""The axes of a comparison: values as people type them, checked by the request's own schema, with their labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, get_args

from pydantic import ValidationError

from wan_ui import field_errors
from wan_ui.errors import InvalidRequest
from wan_ui.models import WanModel
from wan_ui.request import (
    MOST_CELLS,
    Axis,
    AxisField,
    BaseFiles,
    InferenceRequest,
    LoraItem,
    PromptItem,
    RampItem,
    Wire,
)
from wan_ui.scale import Ramp, scale_words
from wan_ui.text import one_line

LONGEST_LABEL = 60  # characters
LONGEST_NUMBER = 40  # characters; a seed has at most 19 digits

FIELDS: tuple[AxisField, ...] = get_args(AxisField)
SCALES: Mapping[str, str | None] = {"scale": None, "scale_high": "high", "scale_low": "low"}
LORA_FIELDS = (*SCALES, "lora")
WORDS_OF_THE_SCHEMA = ("recipe", "speedup")  # fields of the request itself, whose values are single words
OF_THE_REQUEST = (*WORDS_OF_THE_SCHEMA, "base")  # fields of the request itself
ONE_PER_LINE = ("prompt", "lora", "base")  # a prompt holds commas, and a path may hold them
WORDS: Mapping[str, str] = {
    "scale": "scale",
    "scale_high": "high scale",
    "scale_low": "low scale",
    "seed": "seed",
    "sample_steps": "steps",
    "guidance_scale": "guidance",
    "num_frames": "frames",
    "speedup": "speed-up",
    "base": "base",
    "flow_shift": "shift",
    "switch_step": "high steps",
    "guidance_scale_2": "low guidance",
}

Value = int | float | str | tuple[float, ...] | RampItem | Mapping[str, Any] | BaseFiles
"""A checked axis value. A mapping is a pair of files, {"high": path, "low": path} or one of the two, or a prompt with
further fields of its cells, see OF_A_PROMPT. A tuple or a RampItem is a scale that changes over the steps."""

OF_A_PROMPT = ("trigger_word", "seed", "sample_steps", "guidance_scale", "neg", "training_sample")
"""The fields that a value of a prompt axis may set beside `prompt`: none of them changes the size of a cell."""

Pair = Callable[[str], Mapping[str, str] | None]
"""A LoRA's path to the files of its pair by slot ("high", "low"); None: its slot is not known."""


def invalid_values(problems: Sequence[tuple[str, str]]) -> InvalidRequest:
    """The error for wrong fields, each a (loc, message)."""
    loc, msg = problems[0]
    return InvalidRequest(f"{loc}: {msg}", fields=[{"loc": loc, "msg": msg} for loc, msg in problems])


# Values as people type them

_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]+)?)"
_SINGLE = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_RANGE = re.compile(rf"({_NUMBER})\s*\.\.\s*({_NUMBER})(?:\s+step\s+({_NUMBER}|\.[0-9]+))?", re.IGNORECASE)


def parse_values(text: str, field: AxisField = "scale", loc: str = "values") -> tuple[int | float | str, ...]:
    """The values of typed text: `0, 0.5, 1`, `0.2..1.0 step 0.2`, `42..45`; prompts and LoRA paths one per line.

    Decimals are exact (0.2 three times is 0.6), a range includes its end if a step meets it, and counts down when its
    end is the smaller. Without a step, a range of whole numbers goes by 1. Empty text has no values.
    Raises InvalidRequest, naming `loc` and the text, for what is not a number and for more than 64 values.
    """
    if field in ONE_PER_LINE:
        values: list[int | float | str] = [line.strip() for line in text.splitlines() if line.strip()]
    elif field in WORDS_OF_THE_SCHEMA:
        values = [word for word in re.split(r"[,;\s]+", text) if word]
    else:
        values = []
        for piece in re.split(r"[,;\n]", text.replace("\N{MINUS SIGN}", "-").replace("…", "..")):
            values += map(_plain, _numbers(piece.strip(), loc))
            if len(values) > MOST_CELLS:
                break
    if len(values) > MOST_CELLS:
        raise invalid_values([(loc, f"more than {MOST_CELLS} values")])
    return tuple(values)


def _numbers(piece: str, loc: str) -> list[Decimal]:
    match = _RANGE.fullmatch(piece)
    if match is None and ".." in piece:
        raise invalid_values([(loc, f"{_shown(piece)} is not a range. Example: 42..45 or 0.2..1.0 step 0.2")])
    if match is None:
        return [_number(word, loc) for word in piece.split()[: MOST_CELLS + 1]]
    first, last = _number(match[1], loc), _number(match[2], loc)
    whole = first == int(first) and last == int(last)
    if match[3] is None and not whole:
        raise invalid_values([(loc, f"{_shown(piece)}: give the step, as in 0.2..1.0 step 0.2")])
    step = abs(_number(match[3] or "1", loc))
    if step == 0:
        raise invalid_values([(loc, f"{_shown(piece)}: the step must not be 0")])
    count = abs(last - first) // step + 1
    if count > MOST_CELLS:
        raise invalid_values([(loc, f"{_shown(piece)}: more than {MOST_CELLS} values")])
    return [first + step * index * (1 if last >= first else -1) for index in range(int(count))]


def _number(word: str, loc: str) -> Decimal:
    if len(word) > LONGEST_NUMBER or not _SINGLE.fullmatch(word):
        raise invalid_values([(loc, f"{_shown(word)} is not a number. Example: 0, 0.5, 1 or 42..45")])
    return Decimal(word)


def _plain(number: Decimal) -> int | float:
    return int(number) if number == int(number) else float(number)


def _shown(value: Any) -> str:
    return one_line(value if isinstance(value, str) else repr(value), LONGEST_LABEL)


# Checkpoints of a training job

_STEP = re.compile(r"_([0-9]{9})$")
_HALF = re.compile(r"[ _.-]*(high|low)[ _.-]*noise$", re.IGNORECASE)


def by_training_step(paths: Iterable[str]) -> tuple[str | dict[str, str], ...]:
    """A job's checkpoints as values of a `lora` axis: by name, then by training step, the final one last.

    Two files that differ only in `_high_noise` and `_low_noise` become {"high": path, "low": path}; a half without
    its partner is {"high": path} or {"low": path}.
    """
    checkpoints: dict[str, dict[str, str]] = {}
    for path in sorted(set(paths)):
        pure = PurePosixPath(path)
        half = _HALF.search(pure.stem)
        name = str(pure.with_name(_HALF.sub("", pure.stem) or pure.stem))
        checkpoints.setdefault(name, {})[half[1].lower() if half else ""] = path

    def order(name: str) -> tuple[str, bool, int]:
        step = _STEP.search(name)
        return _STEP.sub("", name), step is None, int(step[1]) if step else 0

    values: list[str | dict[str, str]] = []
    for name in sorted(checkpoints, key=order):
        files = checkpoints[name]
        halves: dict[str, str] = {slot: files[slot] for slot in ("high", "low") if slot in files}
        values += [files[""]] if "" in files else []
        values += [halves] if halves else []
    return tuple(values)


# Values


def label(field: AxisField, value: Value) -> str:
    """The label of a column or row: `scale 0.5`, `seed 42`, a checkpoint's name, a prompt's start."""
    if isinstance(value, Mapping) and field == "prompt":
        return _shown(value["prompt"])
    if isinstance(value, Mapping):
        names = dict.fromkeys(_HALF.sub("", PurePosixPath(path).stem) for path in value.values())
        only = f" ({next(iter(value))} only)" if len(value) == 1 else ""
        return _shown(" + ".join(names)) + only
    if isinstance(value, tuple | RampItem):
        changing = Ramp(value.start, value.end) if isinstance(value, RampItem) else value
        return _shown(f"{WORDS[field]} {scale_words(changing)}")
    if isinstance(value, BaseFiles):
        return _shown(PurePosixPath(value.named[0][1]).stem if value.named else "auto")
    if field == "lora":
        return _shown(PurePosixPath(str(value)).stem)
    return f"{WORDS[field]} {value:g}" if isinstance(value, float) and field in WORDS else _worded(field, value)


def _worded(field: AxisField, value: Value) -> str:
    return f"{WORDS[field]} {value}" if field in WORDS else _shown(value)


def check_values(name: str, axis: Axis, model: WanModel, pair: Pair, problems: list[tuple[str, str]]) -> list[Value]:
    """The axis's values as the request's field takes them; (loc, message) of wrong ones go to `problems`."""
    values: list[Value] = []
    for index, value in enumerate(axis.values):
        try:
            values.append(_value(axis.field, value, model, pair))
        except _WrongValue as wrong:
            problems.append((f"compare.{name}.values.{index}", f"{_shown(value)}: {wrong}"))
    return values


class _WrongValue(Exception):
    """What is wrong with one value; collected with the others into one InvalidRequest."""


def _value(field: AxisField, value: Any, model: WanModel, pair: Pair) -> Value:
    if value is None:
        raise _WrongValue("a value is needed")
    if field == "lora":
        return _files(value, model, pair)
    if field == "prompt" and isinstance(value, Mapping):
        return _prompt(value)
    if field == "base":
        return _base(value, model)
    if field in SCALES:
        checked: Value = _by_schema(LoraItem, {"path": "any"}, "network_multiplier", value)
    elif field in WORDS_OF_THE_SCHEMA:
        checked = _by_schema(InferenceRequest, {"model": model.id, "prompts": [{"prompt": "any"}]}, field, value)
    else:
        checked = _by_schema(PromptItem, {"prompt": "any"}, field, value)
    if field == "seed" and checked == -1:
        raise _WrongValue("-1 (a random seed) cannot be compared; type the seeds, as in 42..45")
    return checked


def _base(value: Any, model: WanModel) -> Value:
    """A value of a base axis: the two words, a transformer's file by its name, or names by component."""
    names = {"transformer": value} if isinstance(value, str) and value not in ("auto", "folder") else value
    rest = {"model": model.id, "prompts": [{"prompt": "any"}]}
    checked: Value = _by_schema(InferenceRequest, rest, "base", names)
    return checked


def _prompt(value: Mapping[str, Any]) -> Value:
    known = ("prompt", *OF_A_PROMPT)
    for name in value:
        if name not in known:
            raise _WrongValue(f"{_shown(name)} is the same in all cells; a prompt may set {', '.join(known)}")
    if value.get("seed") == -1:
        raise _WrongValue("-1 (a random seed) cannot be compared; give the seed, or leave it out")
    return _by_whole_schema(value)


def _by_whole_schema(value: Mapping[str, Any]) -> Value:
    try:
        return PromptItem.model_validate(value).model_dump(include=set(value), exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _WrongValue(f"{'.'.join(map(str, first['loc']))}: {field_errors.message(first)}") from None


def _by_schema(schema: type[Wire], rest: Mapping[str, Any], name: str, value: Any) -> Any:
    """The value as the request's own field takes it, so that no bound is written twice."""
    try:
        return getattr(schema.model_validate({**rest, name: value}), name)
    except ValidationError as error:
        raise _WrongValue(field_errors.message(error.errors(include_url=False, include_input=False)[0])) from None


def _files(value: Any, model: WanModel, pair: Pair) -> Value:
    if isinstance(value, Mapping):
        given = {slot: path for slot, path in value.items() if path is not None}
        if not model.two_transformers:
            raise _WrongValue(f"{model.label} has one transformer: give a path")
        if not given or not set(given) <= set(model.slots):
            raise _WrongValue('give {"high": path, "low": path}, or one of the two')
        return {slot: _by_schema(LoraItem, {}, "path", given[slot]) for slot in model.slots if slot in given}
    path: str = _by_schema(LoraItem, {}, "path", value)
    if not model.two_transformers:
        return path
    halves = pair(path)
    if not halves:
        raise _WrongValue('the file states neither high nor low: give {"high": path, "low": path}')
    return {slot: halves[slot] for slot in model.slots if slot in halves}

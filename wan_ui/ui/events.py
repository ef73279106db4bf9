"""Options that the page's events share, the type of a handler's answer, and error messages as toasts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
from markupsafe import escape

from wan_ui.errors import WanUIError
from wan_ui.ui.texts import translated

Update = dict[Any, Any]
"""What a handler changes, by component; outputs it leaves out stay as they are."""

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
POLL: dict[str, Any] = {**QUIET, "queue": False}
EDIT: dict[str, Any] = {**QUIET, "concurrency_limit": None}

AFTER_OPENING: dict[str, Any] = {"js": "(...values) => window.wanUi.afterOpening(values)"}
"""Of an event that fills the Compare tab: it waits in the browser until the page's opening has filled it."""
LOAD: dict[str, Any] = {**QUIET, **AFTER_OPENING}


def fingerprint(value: Any) -> Any:
    """A part of the page as a `seen` component keeps it: its hash where it is long, since every look sends it."""
    if isinstance(value, (dict, list)):
        value = json.dumps(value, sort_keys=True)
    if isinstance(value, str) and len(value) > 64:
        return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return value


def unseen(wanted: Mapping[str, Any], seen: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts that differ from those that a page shows by its `seen`, and its `seen` once it shows them."""
    known = seen if isinstance(seen, Mapping) else {}
    fingerprints = {name: fingerprint(value) for name, value in wanted.items()}
    changed = {name: value for name, value in wanted.items() if (name, fingerprints[name]) not in known.items()}
    return changed, {**known, **fingerprints}


def submitting(message: Any) -> dict[str, Any]:
    """Options of an event that submits a job: its progress is shown at `message`, where it says what is wrong."""
    return {**QUIET, "show_progress": "minimal", "show_progress_on": [message], "concurrency_limit": 8}


def filled(form: str) -> dict[str, Any]:
    """Options of an event that runs in the browser alone: tells page.js that a form now holds its stored values."""
    return {**POLL, "fn": None, "js": f"() => window.wanUi.filled({json.dumps(form)})"}


def opened() -> dict[str, Any]:
    """An event in the browser alone: the last answer of the page's opening is there, which may be an old one."""
    script = "() => { window.wanUi.openingEnded(); document.dispatchEvent(new Event('wan-ui-answered')); }"
    return {**POLL, "fn": None, "js": script}


def answered() -> dict[str, Any]:
    """An event in the browser alone: the server has answered a press, see pressed.js."""
    return {**POLL, "fn": None, "js": "() => window.wanUi.answered()"}


def run_after(event: Any, options: Mapping[str, Any]) -> None:
    """Runs an event with these options after another, whether that succeeds or fails: Gradio's `then` needs success."""
    event.then(**options)
    event.failure(**options)


def tell_answered(press: Any, event: str, detail: str = "") -> None:
    """Tells the browser that a press is answered, or has failed, by an event of its document."""
    script = f"() => document.dispatchEvent(new CustomEvent({json.dumps(event)}, {{ detail: {json.dumps(detail)} }}))"
    run_after(press, {**POLL, "fn": None, "js": script})


def looked_again() -> dict[str, Any]:
    """An event in the browser alone: the page's first look is answered, maybe with what is older than the last one."""
    script = "() => { window.wanUi.lookAnswered(); document.dispatchEvent(new Event('wan-ui-answered')); }"
    return {**POLL, "fn": None, "js": script}


def look_ended() -> dict[str, Any]:
    """An event in the browser alone: the page has its answer to the last look, see look.js."""
    return {**POLL, "fn": None, "js": "() => document.dispatchEvent(new Event('wan-ui-looked'))"}


def error_toast(error: WanUIError) -> gr.Error:
    """The error as a toast, to be raised. Gradio renders markup in toasts, so the message is escaped here."""
    return gr.Error(str(escape(translated(error.message))), print_exception=False)

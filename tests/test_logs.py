"""The log's lines: one an event, with the facts that its call gave, whole whatever stands in them."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from wan_ui import logs
from wan_ui.config import LogFormat


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root, ours, hook = logging.getLogger(), logging.getLogger("wan_ui"), threading.excepthook
    handlers, level, our_level = list(root.handlers), root.level, ours.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], threading.excepthook = handlers, hook
    root.setLevel(level)
    ours.setLevel(our_level)


def said(kind: LogFormat, *, error: bool = False, **facts: Any) -> str:
    stream = io.StringIO()
    logs.begin(kind, stream)
    log = logging.getLogger("wan_ui.jobs.worker")
    if error:
        try:
            raise KeyError("what\nwas it")
        except KeyError:
            log.exception("it broke", extra=facts)
    else:
        log.info("started\nanew", extra=facts)
    return stream.getvalue()


def test_json_is_one_object_a_line_with_the_request_id() -> None:
    (line,) = said("json", request_id="ab" * 16, seconds=1.5).splitlines()
    event = json.loads(line)
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "info",
        "logger": "wan_ui.jobs.worker",
        "event": "started\nanew",
        "request_id": "ab" * 16,
        "seconds": 1.5,
    }


def test_a_trace_stays_in_its_line() -> None:
    (line,) = said("json", error=True, request_id="x").splitlines()
    event = json.loads(line)
    assert (event["level"], event["event"], event["request_id"]) == ("error", "it broke", "x")
    assert "KeyError" in event["trace"]


def test_text_is_for_the_eye_and_quotes_what_would_not_be_one_value() -> None:
    (line,) = said("text", request_id="x", why="two words\nand more", none="").splitlines()
    assert line.endswith(r' INFO    started\nanew request_id=x why="two words\nand more" none=""')
    assert "Traceback" in said("text", error=True)


def test_what_is_no_terminal_gets_json() -> None:
    assert json.loads(said("auto"))["event"] == "started\nanew"


def test_a_thread_that_ends_by_an_error_is_in_the_log() -> None:
    stream = io.StringIO()
    logs.begin("json", stream)

    def broken() -> None:
        raise ValueError("no")

    thread = threading.Thread(target=broken, name="a-thread")
    thread.start()
    thread.join()
    event = json.loads(stream.getvalue())
    assert (event["level"], event["thread_name"]) == ("critical", "a-thread")
    assert "ValueError: no" in event["trace"]


def test_a_web_servers_log_goes_the_same_way() -> None:
    server = logging.getLogger("uvicorn.error")
    stream = io.StringIO()
    logging.getLogger("uvicorn").addHandler(logging.NullHandler())
    logs.begin("json", stream)
    logs.adopt_server()
    server.error("it failed")
    assert json.loads(stream.getvalue())["logger"] == "uvicorn.error"

"""Logging: one event per line on standard error, as JSON or as text.

An event is a logging call whose `extra` holds its facts, such as the `request_id` of the job it is about.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

from wan_ui.config import LogFormat

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_SERVERS = ("uvicorn", "uvicorn.error", "uvicorn.access")


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a logging call's `extra`; not those that a library adds to all records, as Ray does."""
    return {name: value for name, value in vars(record).items() if name not in _OWN and not name.startswith("_")}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonLines(logging.Formatter):
    """`{"time", "level", "logger", "event", …facts, "trace"}`, a trace only where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one JSON object on one line."""
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **facts(record),
        }
        if record.exc_info:
            event["trace"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str, ensure_ascii=False)


class TextLines(logging.Formatter):
    """`time LEVEL event key=value …`, and a trace on the lines after it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; a line break in the event is written as two characters."""
        pairs = "".join(f" {name}={_value(value)}" for name, value in facts(record).items())
        event = record.getMessage().replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname:<7} {event}{pairs}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _value(value: Any) -> str:
    text = str(value)
    return text if text and not set(text) & set(' "=\n') else json.dumps(text, ensure_ascii=False)


def begin(kind: LogFormat, stream: TextIO | None = None) -> None:
    """Sends all logs of this process to `stream`, standard error by default; also errors that end a thread.

    "auto" is text for a terminal and JSON for anything else.
    """
    stream = stream or sys.stderr
    as_json = kind == "json" or (kind == "auto" and not stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("wan_ui").setLevel(logging.INFO)
    logging.captureWarnings(True)
    threading.excepthook = _log_end_of_thread


def adopt_server() -> None:
    """Sends the web server's own log the same way; to be called once it has started."""
    for name in _SERVERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_type is SystemExit or ended.exc_value is None:
        return
    name = ended.thread.name if ended.thread is not None else "unknown"
    about = (ended.exc_type, ended.exc_value, ended.exc_traceback)
    logging.getLogger(__name__).critical("a thread ended", exc_info=about, extra={"thread_name": name})

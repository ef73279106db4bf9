"""Access control and limits for the page's events: whose Gradio session it is, and how much it may keep waiting.

Gradio takes an event of any size for any session, and keeps its answer until somebody asks for it. Here a session
belongs to the browser that began it, its name is short, and a browser has few sessions and few answers that it has not
asked for.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qs

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wan_ui import large_json
from wan_ui.errors import InvalidRequest, PayloadTooLarge, RouteNotFound, TooManyRequests, WanUIError
from wan_ui.turns import counted
from wan_ui.web.asgi import HeldResponse, error_response, read_body, replay

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.identity import Identity

JOIN, RUN, DATA, HEARTBEAT = "queue/join", "run/predict", "queue/data", "heartbeat/"
_API = "/gradio_api/"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# How Gradio begins the message with an event's answer.
_COMPLETED = re.compile(rb'data: \{"msg":"process_completed","event_id":"(?P<event>[^"]{1,64})"')
MAX_DEPTH = 32  # of arrays and objects in an event
BASE_BYTES, BYTES_EACH, MOST_BYTES = 128 << 10, 16 << 10, 512 << 10  # of an event: and for each input, at most
LARGE_BYTES = 8 << 20  # of an event that carries a whole request
LARGE_EVENTS = frozenset({"on_load_text", "on_request"})
"""Handlers of events that carry a whole request: one that is pasted, and the one of a dropped video."""
LARGE_AT_ONCE, LARGE_EACH = 8, 2  # large bodies being received, of all and of one browser
IDLE_SECONDS = 120.0  # until the answers for a closed page are dropped


@dataclass(frozen=True)
class EventRule:
    """What is allowed of one event of the page: its body's bytes, and whether Gradio queues it."""

    max_bytes: int
    queued: bool


def event_rules(config: Mapping[str, Any]) -> Mapping[int, EventRule]:
    """The rules of the page's events by their number, from Gradio's configuration of the page."""
    rules = {}
    for event in config["dependencies"]:
        if event["backend_fn"]:
            is_large = event["api_name"] in LARGE_EVENTS
            most = LARGE_BYTES if is_large else min(BASE_BYTES + BYTES_EACH * len(event["inputs"]), MOST_BYTES)
            rules[event["id"]] = EventRule(most, event["queue"] is not False)
    return rules


@dataclass(frozen=True)
class EventLimits:
    """Limits on one browser: Gradio sessions, answers it has not asked for and their bytes, streams of a session.

    `sessions_of_all` counts those of all browsers, `streams_of_guests` the open streams of all but the owner, and
    `at_once` is how many unqueued events of one browser are handled at a time.
    """

    sessions: int = 16
    sessions_of_all: int = 1000
    undelivered: int = 24
    undelivered_bytes: int = 16 << 20
    streams: int = 6
    streams_of_guests: int = 400
    at_once: int = 32


@dataclass
class _Session:
    """A Gradio session: whose it is, its open streams, and the bytes of each event whose answer was not sent yet."""

    browser: str | None
    owner: bool
    used: float
    streams: int = 0
    undelivered: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Event:
    """The parts of an event's body that are checked here."""

    session: str
    number: int


Forget = Callable[[str, bool], Awaitable[None]]
"""Drops what Gradio keeps for a session: its events and answers and, with True, the page's state too."""


class GradioEvents:
    """ASGI middleware inside Auth and GradioRoutes. To be used from the event loop alone.

    `access` returns the access of the request that is being answered. `clock` returns seconds. The owner's sessions
    are recorded too, but only guests are limited in number.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Callable[[], Access],
        rules: Mapping[int, EventRule],
        forget: Forget,
        limits: EventLimits = EventLimits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._access = access
        self._rules = rules
        self._forget = forget
        self._limits = limits
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._large: Counter[str | None] = Counter()
        self._running: Counter[str | None] = Counter()
        self._numbers = itertools.count()
        self._parsing = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        route = scope["path"].removeprefix(_API) if scope["type"] == "http" else ""
        if scope["type"] != "http" or not scope["path"].startswith(_API):
            return await self._app(scope, receive, send)
        identity = self._access().identity
        try:
            if scope["method"] == "POST" and route in (JOIN, RUN):
                return await self._event(route, identity, scope, receive, send)
            if route == DATA or route.startswith(HEARTBEAT):
                return await self._stream(_session_named(route, scope), identity, scope, receive, send)
        except WanUIError as error:
            return await error_response(error)(scope, receive, send)
        await self._app(scope, receive, send)

    # Events

    async def _event(self, route: str, identity: Identity, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(identity, scope, receive)
        event = await self._parse_large(body) if len(body) > MOST_BYTES else _parse(body)
        session = await self._use(event.session, identity)
        rule = self._rules.get(event.number)
        if rule is None or rule.queued is not (route == JOIN):
            raise RouteNotFound("The page has no such event. Reload it.")
        if len(body) > rule.max_bytes:
            raise PayloadTooLarge(
                f"This event of the page may have at most {rule.max_bytes} bytes.", limit=rule.max_bytes
            )
        receive = replay(body, receive)
        if route == RUN:
            return await self._run(identity, scope, receive, send)
        self._check_undelivered(identity, len(body))
        response, reserved = HeldResponse(), f"reserved-{next(self._numbers)}"
        session.undelivered[reserved] = len(body)  # already now: other events may come before this one has its id
        try:
            await self._app(scope, receive, response)
            if response.status == 200:
                session.undelivered[str(json.loads(response.body)["event_id"])] = len(body)
        finally:
            session.undelivered.pop(reserved, None)
        await response.release(send)

    async def _body(self, identity: Identity, scope: Scope, receive: Receive) -> bytes:
        """The body of an event; one of more than MOST_BYTES only while few such bodies are being received."""
        pieces = _Pieces(receive)
        try:
            return await read_body(pieces.receive, "An event of the page", MOST_BYTES)
        except PayloadTooLarge:
            browser = identity.visitor
            if self._large[browser] >= LARGE_EACH or self._large.total() >= LARGE_AT_ONCE:
                raise TooManyRequests(
                    "Several large requests are being received. Try again in a few seconds."
                ) from None
        with counted(self._large, browser):
            return await read_body(pieces.again().receive, "An event of the page", LARGE_BYTES)

    async def _parse_large(self, body: bytes) -> _Event:
        """What `_parse` returns, one body at a time and with as long a rest: others take turns with its thread."""
        async with self._parsing:
            begun = self._clock()
            try:
                return await anyio.to_thread.run_sync(_parse, body)
            finally:
                await anyio.sleep(self._clock() - begun)

    async def _run(self, identity: Identity, scope: Scope, receive: Receive, send: Send) -> None:
        """An event that Gradio handles at once, beside its queue."""
        if not identity.owner and self._running[identity.visitor] >= self._limits.at_once:
            raise TooManyRequests("This browser has many requests under way. Try again in a few seconds.")
        with counted(self._running, identity.visitor):
            await self._app(scope, receive, send)

    def _check_undelivered(self, identity: Identity, size: int) -> None:
        """Raises TooManyRequests for a guest who has not asked for the answers to many events."""
        if identity.owner:
            return
        waiting = [size for session in self._of(identity) for size in session.undelivered.values()]
        if len(waiting) >= self._limits.undelivered or sum(waiting) + size > self._limits.undelivered_bytes:
            raise TooManyRequests("This browser has not fetched the answers to its last requests. Reload the page.")

    # Sessions

    def _of(self, identity: Identity) -> list[_Session]:
        return [session for session in self._sessions.values() if session.browser == identity.visitor]

    async def _use(self, name: str | None, identity: Identity) -> _Session:
        """The session of this name; a new one belongs to the browser that sends it.

        Raises InvalidRequest for a wrong name, RouteNotFound for another browser's, TooManyRequests.
        """
        if name is None or not _NAME.fullmatch(name):
            raise InvalidRequest(
                "session_hash: 1 to 64 letters, digits, - and _.", fields=[{"loc": "session_hash", "msg": "not a name"}]
            )
        await self._drop_idle()
        session = self._sessions.get(name)
        if session is None:
            await self._make_room(identity)
            session = self._sessions[name] = _Session(identity.visitor, identity.owner, self._clock())
        elif session.browser != identity.visitor and not identity.owner:
            raise RouteNotFound("There is no such session. Reload the page.")
        session.used = self._clock()
        self._sessions.move_to_end(name)
        return session

    async def _make_room(self, identity: Identity) -> None:
        mine = {name for name, each in self._sessions.items() if each.browser == identity.visitor and not each.owner}
        if not identity.owner and len(mine) >= self._limits.sessions:
            closed = [name for name in self._sessions if name in mine and not self._sessions[name].streams]
            if not closed:
                raise TooManyRequests("This browser has many pages of this server open. Close some of them.")
            await self._end(closed[0], with_state=True)
        if len(self._sessions) >= self._limits.sessions_of_all:
            closed = [name for name, each in self._sessions.items() if not each.streams]
            if not closed:
                raise TooManyRequests("Many pages of this server are open. Try again later.")
            await self._end(closed[0], with_state=True)

    async def _drop_idle(self) -> None:
        """Drops the answers for sessions without a stream that nobody has used for a while."""
        oldest = self._clock() - IDLE_SECONDS
        idle = []
        for name, session in self._sessions.items():
            if session.used > oldest:
                break  # they are in the order of their last use
            if session.undelivered and not session.streams:
                idle.append(name)
        for name in idle:
            self._sessions[name].undelivered.clear()
            await self._forget(name, False)

    async def _end(self, name: str, with_state: bool) -> None:
        self._sessions.pop(name, None)
        await self._forget(name, with_state)

    # Streams

    async def _stream(self, name: str | None, identity: Identity, scope: Scope, receive: Receive, send: Send) -> None:
        session = await self._use(name, identity)
        if not identity.owner:
            guests = sum(each.streams for each in self._sessions.values() if not each.owner)
            if session.streams >= self._limits.streams or guests >= self._limits.streams_of_guests:
                raise TooManyRequests("Many pages of this server are open. Close some of them.")

        async def sent(message: Message) -> None:
            await send(message)
            completed = _COMPLETED.match(message.get("body", b""))
            if completed is not None:  # only now: a client that reads nothing keeps `send` waiting
                session.undelivered.pop(completed["event"].decode("ascii", "replace"), None)

        session.streams += 1
        try:
            await self._app(scope, receive, sent)
        finally:
            session.streams -= 1
            session.used = self._clock()


class _Pieces:
    """A receive whose messages can be received again."""

    def __init__(self, receive: Receive, before: tuple[Message, ...] = ()) -> None:
        self._receive = receive
        self._before = list(before)
        self._given: list[Message] = []

    async def receive(self) -> Message:
        """The next message."""
        message = self._before.pop(0) if self._before else await self._receive()
        self._given.append(message)
        return message

    def again(self) -> _Pieces:
        """The same messages from the first one."""
        return _Pieces(self._receive, (*self._given, *self._before))


def _session_named(route: str, scope: Scope) -> str | None:
    """The session that a stream's address names; None without one, or with several."""
    if route != DATA:
        return route.removeprefix(HEARTBEAT)
    try:
        # Gradio takes the last of several, an empty one too.
        fields = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True, max_num_fields=10)
    except ValueError:  # more fields than that
        return None
    names = fields.get("session_hash", [])
    return names[0] if len(names) == 1 else None


def _parse(body: bytes) -> _Event:
    """Raises InvalidRequest for a body that is not an event as the page sends it."""
    try:
        if len(body) > large_json.PIECE:
            fields = large_json.decode(body, _refuse_constant)
        else:
            fields = json.loads(body.decode(), parse_constant=_refuse_constant)
        if b"\\u" in body:
            json.dumps(fields, ensure_ascii=False).encode("utf-8")  # raises for half of a surrogate pair
    except (ValueError, RecursionError):
        raise _invalid("body", "not the JSON of an event") from None
    if not isinstance(fields, dict) or _depth(fields) > MAX_DEPTH:
        raise _invalid("body", "not an event")
    event_id, number = fields.get("event_id"), fields.get("fn_index")
    if not isinstance(fields.get("session_hash"), str):
        raise _invalid("session_hash", "must be a text")
    if event_id is not None and not (isinstance(event_id, str) and _NAME.fullmatch(event_id)):
        raise _invalid("event_id", "must be a text of at most 64 letters")
    if not isinstance(number, int) or isinstance(number, bool):
        raise _invalid("fn_index", "must be a whole number")
    if not isinstance(fields.get("data"), list):
        raise _invalid("data", "must be a list")
    trigger = fields.get("trigger_id")
    if trigger is not None and (not isinstance(trigger, int) or isinstance(trigger, bool)):
        raise _invalid("trigger_id", "must be a whole number")
    if fields.get("batched") or fields.get("simple_format") or fields.get("oauth_token") is not None:
        raise _invalid("body", "not an event of this page")
    return _Event(fields["session_hash"], number)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _depth(value: Any) -> int:
    """How deep arrays and objects are nested, counted without recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            break
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
    return depth


def _invalid(loc: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{loc}: {problem}.", fields=[{"loc": loc, "msg": problem}])

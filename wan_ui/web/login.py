"""Passwords, the pages to sign in and out, and limits on wrong passwords and on sign-ins."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from wan_ui.errors import LoginFailed, LoginLocked
from wan_ui.language import choices, current_language, tag, text_of, translate

TRIES = 5  # wrong passwords of one visitor before it has to wait
TRY_SECONDS = 60.0  # until it has one more try
TRIES_OF_ALL = 20  # of all visitors together: an attacker may send no cookie and so be a new visitor each time
TRY_SECONDS_OF_ALL = 15.0
_MAX_VISITORS = 1000
MAX_SIGN_INS = 60  # a minute


@dataclass(frozen=True)
class Login:
    """The one name and password of this server."""

    user: str
    password: str = field(repr=False)

    def fits(self, user: str | None, password: str) -> bool:
        """Whether both match, compared in constant time. `user` None: the password alone."""
        is_password = _same(password, self.password)
        return is_password if user is None else _same(user, self.user) & is_password


def _same(one: str, other: str) -> bool:
    hashes = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (one, other)]
    return hmac.compare_digest(*hashes)


@dataclass
class _Tries:
    """A token bucket: the tries that were left at a time."""

    left: float
    at: float


class LoginThrottle:
    """Limits wrong passwords by token buckets, one for each visitor and one for all of them together.

    To be asked about wrong passwords only: whoever knows the right one must get in, however many others guess.
    `clock` returns seconds. To be used from one thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of_all = _Tries(TRIES_OF_ALL, clock())
        self._of_visitor: OrderedDict[str | None, _Tries] = OrderedDict()

    def check(self, visitor: str | None) -> None:
        """Raises LoginLocked while the visitor, or everybody, has no try left."""
        now = self._clock()
        mine = self._of_visitor.get(visitor, _Tries(TRIES, now))
        wait = max(_wait(mine, TRIES, TRY_SECONDS, now), _wait(self._of_all, TRIES_OF_ALL, TRY_SECONDS_OF_ALL, now))
        if wait > 0:
            seconds = math.ceil(wait)
            raise LoginLocked(f"Too many wrong passwords. Try again in {seconds} s.", seconds=seconds)

    def failed(self, visitor: str | None) -> LoginFailed:
        """Counts a wrong password; returns the error to answer with."""
        now = self._clock()
        self._of_visitor[visitor] = mine = self._of_visitor.get(visitor, _Tries(TRIES, now))
        self._of_visitor.move_to_end(visitor)
        while len(self._of_visitor) > _MAX_VISITORS:
            self._of_visitor.popitem(last=False)
        for tries, capacity, seconds in (
            (mine, TRIES, TRY_SECONDS),
            (self._of_all, TRIES_OF_ALL, TRY_SECONDS_OF_ALL),
        ):
            tries.left, tries.at = _left(tries, capacity, seconds, now) - 1, now
        return LoginFailed("Wrong name or password.")

    def passed(self, visitor: str | None) -> None:
        """Gives a visitor all its tries back; the bucket of all visitors stays as it is."""
        self._of_visitor.pop(visitor, None)


class SignInRate:
    """Limits successful sign-ins, each of which makes a new guest, to so many a minute. `clock` returns seconds."""

    def __init__(self, per_minute: int = MAX_SIGN_INS, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._most = per_minute
        self._bucket = _Tries(per_minute, clock())

    def take(self) -> None:
        """Counts a sign-in. Raises LoginLocked if there were too many in the last minute."""
        now, seconds = self._clock(), 60 / self._most
        wait = _wait(self._bucket, self._most, seconds, now)
        if wait > 0:
            raise LoginLocked(
                f"Many browsers have just signed in. Try again in {math.ceil(wait)} s.", seconds=math.ceil(wait)
            )
        self._bucket.left, self._bucket.at = _left(self._bucket, self._most, seconds, now) - 1, now


def _left(tries: _Tries, capacity: int, seconds: float, now: float) -> float:
    return min(capacity, tries.left + (now - tries.at) / seconds)


def _wait(tries: _Tries, capacity: int, seconds: float, now: float) -> float:
    """Seconds until one try is left."""
    return max(0.0, 1 - _left(tries, capacity, seconds, now)) * seconds


def credentials(header: str) -> tuple[str | None, str] | None:
    """Name and password of an Authorization header: Basic, or Bearer with the password alone. None for others."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer" and value:
        return None, value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if colon else None


_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
_TEMPLATES.globals |= {"text_of": text_of, "lang": lambda: tag(current_language.get()), "languages": choices}


def page(user: str, error: str = "", query: str = "", seconds: int = 0) -> str:
    """The sign-in page. `error` is why the last try failed; `query` is the query string of the page to open next.

    `seconds`: how long no further password is tried; the button counts down.
    """
    return _TEMPLATES.get_template("sign_in.html").render(
        user=user, error=translate(current_language.get(), error), query=query, seconds=seconds
    )


def sign_out_page(is_owner: bool) -> str:
    """The page to sign out on; the owner can sign everybody out there too."""
    return _TEMPLATES.get_template("sign_out.html").render(is_owner=is_owner)

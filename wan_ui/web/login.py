"""Names, passwords and the page that asks for them, with a brake on guessing; it knows no cookie and no route."""

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
from html import escape

from wan_ui.errors import LoginFailed, LoginLocked

TRIES = 5  # wrong ones of one visitor, before it waits
TRY_SECONDS = 60.0  # until it may try once more
TRIES_OF_ALL = 20  # wrong ones of all visitors together: a guesser may come as a new one each time
TRY_SECONDS_OF_ALL = 15.0
_MOST_VISITORS = 1000


@dataclass(frozen=True)
class Login:
    """The one name and password of this server."""

    user: str
    password: str = field(repr=False)

    def fits(self, user: str | None, password: str) -> bool:
        """Whether they are these, found out in the same time however much of them is right. No name: any."""
        right = _same(password, self.password)
        return right if user is None else _same(user, self.user) & right


def _same(one: str, other: str) -> bool:
    hashes = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (one, other)]
    return hmac.compare_digest(*hashes)


@dataclass
class _Tries:
    """Tries that are left, as a bucket that fills with time."""

    left: float
    at: float


class LoginThrottle:
    """Counts wrong passwords, by visitor and in all; after some, each further try has to be waited for.

    `clock` gives seconds. To be used from one thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of_all = _Tries(TRIES_OF_ALL, clock())
        self._of: OrderedDict[str | None, _Tries] = OrderedDict()

    def check(self, visitor: str | None) -> None:
        """Raises LoginLocked while the visitor, or everybody, has to wait."""
        now = self._clock()
        mine = self._of.get(visitor, _Tries(TRIES, now))
        wait = max(_wait(mine, TRIES, TRY_SECONDS, now), _wait(self._of_all, TRIES_OF_ALL, TRY_SECONDS_OF_ALL, now))
        if wait > 0:
            seconds = math.ceil(wait)
            raise LoginLocked(f"Too many wrong passwords. Try again in {seconds} s.", seconds=seconds)

    def failed(self, visitor: str | None) -> LoginFailed:
        """Counts a wrong password; what to say."""
        now = self._clock()
        self._of[visitor] = mine = self._of.get(visitor, _Tries(TRIES, now))
        self._of.move_to_end(visitor)
        while len(self._of) > _MOST_VISITORS:
            self._of.popitem(last=False)
        for tries, most, seconds in (
            (mine, TRIES, TRY_SECONDS),
            (self._of_all, TRIES_OF_ALL, TRY_SECONDS_OF_ALL),
        ):
            tries.left, tries.at = _left(tries, most, seconds, now) - 1, now
        return LoginFailed("Wrong name or password.")

    def passed(self, visitor: str | None) -> None:
        """Forgets a visitor's wrong tries; those of all stay counted."""
        self._of.pop(visitor, None)


def _left(tries: _Tries, most: int, seconds: float, now: float) -> float:
    return min(most, tries.left + (now - tries.at) / seconds)


def _wait(tries: _Tries, most: int, seconds: float, now: float) -> float:
    """Seconds until there is a whole try."""
    return max(0.0, 1 - _left(tries, most, seconds, now)) * seconds


def credentials(header: str) -> tuple[str | None, str] | None:
    """Name and password of an Authorization header: Basic, or Bearer with the password alone. None for any other."""
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


_COUNT_DOWN = """<script>
const button = document.querySelector('button'), end = Date.now() + SECONDS * 1000;
const count = () => {
  const left = Math.ceil((end - Date.now()) / 1000);
  button.disabled = left > 0;
  button.textContent = left > 0 ? `Try again in ${left} s` : 'Sign in';
  if (left > 0) setTimeout(count, 250);
  else document.querySelector('.wrong').remove();
};
count();
</script>
"""


def page(user: str, said: str = "", query: str = "", seconds: int = 0) -> str:
    """The page that asks for the password. `said`: what is wrong; `query`: what to open after it.

    `seconds` until a password is looked at again: the button counts them down.
    """
    wrong = f'<p class="wrong" role="alert">{escape(said)}</p>' if said else ""
    counting = _COUNT_DOWN.replace("SECONDS", str(seconds)) if seconds else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>wan-ui: sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">
<style>
:root {{ color-scheme: light dark; --line: #d4d4d8; --ink: #18181b; --soft: #63636b;
  --paper: #fff; --ground: #f7f7f7; --accent: #4450c8; --accent-ink: #fff; --bad: #b42318; --bad-ground: #fdf1ef; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --line: #3f3f46; --ink: #fafafa; --soft: #a1a1aa; --paper: #1b1b1f; --ground: #111113;
    --accent: #9aa4ff; --accent-ink: #14142b; --bad: #ff9d92; --bad-ground: #33201e; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
form {{ width: min(340px, calc(100vw - 32px)); padding: 28px; background: var(--paper); border: 1px solid var(--line);
  border-radius: 12px; }}
h1 {{ margin: 0 0 4px; font-size: 20px; }}
form > p {{ margin: 0 0 20px; color: var(--soft); }}
form > p.wrong {{ padding: 9px 12px; color: var(--bad); background: var(--bad-ground); border-radius: 8px; }}
label {{ display: block; margin: 0 0 16px; font-size: 14px; font-weight: 500; }}
input {{ display: block; width: 100%; margin-top: 6px; padding: 9px 11px; font-size: 16px; font-weight: 400;
  line-height: 1.4; color: inherit; background: transparent; border: 1px solid var(--line); border-radius: 8px; }}
button {{ width: 100%; margin-top: 6px; padding: 10px; font: inherit; font-weight: 600; color: var(--accent-ink);
  background: var(--accent); border: 0; border-radius: 8px; cursor: pointer; font-variant-numeric: tabular-nums; }}
button:hover:not(:disabled) {{ filter: brightness(1.08); }}
button:disabled {{ color: var(--soft); background: var(--ground); cursor: default;
  box-shadow: inset 0 0 0 1px var(--line); }}
input:focus {{ outline: none; border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }}
button:focus-visible {{ outline: 2px solid var(--accent); outline-offset: 2px; }}
</style></head>
<body><form method="post" action="login">
<h1>wan-ui</h1>
<p>Sign in with the name and password you were given.</p>
{wrong}
<input type="hidden" name="query" value="{escape(query, quote=True)}">
<label>Name <input name="user" value="{escape(user, quote=True)}" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required autofocus></label>
<button>Sign in</button>
</form>{counting}</body></html>
"""

"""Checks tokens and session cookies, and counts wrong tokens.

Starlette's SessionMiddleware needs another package (itsdangerous) and has one path for all cookies;
behind a proxy the path is the prefix that comes with the request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

from trt_afdet.errors import InvalidValueError

SESSION = 30 * 86400  # Seconds that a browser stays signed in.
SHORTEST_TOKEN = 12
ATTEMPTS = 10  # Wrong tokens that an address may send within WINDOW seconds.
WINDOW = 60.0


def new_token() -> str:
    return secrets.token_urlsafe(24)


class Access:
    """See the module; without a token everybody is let in. A bad token: InvalidValueError."""

    def __init__(self, token: str | None, clock: Callable[[], float] = time.time) -> None:
        if token is not None and not re.fullmatch(rf"[ -~]{{{SHORTEST_TOKEN},}}", token):
            what = f"the token of the web page must have at least {SHORTEST_TOKEN} ASCII characters"
            raise InvalidValueError(what, hint="leave it out and one is made")
        self.required = token is not None
        self.cookie = "trt_afdet"
        self._token = (token or "").encode()
        self._clock = clock
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def token_is_right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token)

    def blocked(self, address: str) -> bool:
        """Whether an address has sent too many wrong tokens lately."""
        now = self._clock()
        recent = [t for t in self._wrong.get(address, ()) if 0 <= now - t < WINDOW]
        return len(recent) >= ATTEMPTS

    def note_wrong(self, address: str) -> None:
        times = self._wrong.setdefault(address, [])
        times.append(self._clock())
        del times[:-ATTEMPTS]
        self._wrong.move_to_end(address)
        while len(self._wrong) > 1024:
            self._wrong.popitem(last=False)

    def new_cookie(self, path: str = "/", *, secure: bool = False) -> str:
        """``Set-Cookie`` for a browser that has sent the token; ``path`` as it sees the page.

        It is signed with the token, so it outlives a restart and ends with a change of token.
        """
        expires = f"{int(self._clock()) + SESSION:x}"
        value = f"{expires}.{self._sign(expires)}"
        where = f"Path={path}; Max-Age={SESSION}"
        return f"{self.cookie}={value}; {where}; HttpOnly; SameSite=Strict{'; Secure' * secure}"

    def cookie_is_right(self, header: str) -> bool:
        """Whether a request's ``Cookie`` header holds a valid session."""
        try:
            morsel = SimpleCookie(header).get(self.cookie)
        except CookieError:
            return False
        expires, _, signature = (morsel.value if morsel is not None else "").partition(".")
        signed = hmac.compare_digest(signature.encode(), self._sign(expires).encode())
        return signed and int(expires, 16) > self._clock()

    def _sign(self, expires: str) -> str:
        return hmac.new(self._token, f"session {expires}".encode(), hashlib.sha256).hexdigest()

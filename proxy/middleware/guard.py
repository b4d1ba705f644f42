"""What no handler should have to think of: framing tricks, foreign hosts and origins, spellings of paths.

Where the listener is open because it is on loopback only, a web page that a person visits must not be able to
use it through the person's browser: the ``Host`` must be one of ours (DNS rebinding), and a request that a
browser marks with a foreign ``Origin`` is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.core.addresses import OUTPUTS_PREFIX
from proxy.core.errors import BadRequest, Forbidden, HotplateError, NotFound
from proxy.routes.exchange import Exchange

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

API_PREFIX = "/v1"
"""One client's base URL ends with it and another's does not, so ``/v1/x``, ``/v1/v1/x`` and ``/x`` are one."""


PROFILE_MARK = "/@"
"""``/@name/v1/x`` is ``/v1/x`` by the policies of that name: clients that cannot send headers have a base URL."""


class Guard:
    """Checks every request before it is routed, and routes every spelling of a path as one."""

    def __init__(
        self, app: ASGIApp, *, only_names: Collection[str] | None, has_profile: Callable[[str], bool] = lambda _: False
    ) -> None:
        """``only_names``: host names that may be asked, or ``None`` when callers are told apart by credentials."""
        self._app = app
        self._has_profile = has_profile
        self._only_names = frozenset(only_names) if only_names is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, raw, profile = scope["path"], scope.get("raw_path") or scope["path"].encode(), None
        if path.startswith(PROFILE_MARK) and raw.startswith(PROFILE_MARK.encode()):
            profile, _, path = path[len(PROFILE_MARK) :].partition("/")
            path, raw = "/" + path, b"/" + raw.partition(b"/")[2].partition(b"/")[2]
        try:
            self._check(scope)
            if profile is not None and not self._has_profile(profile):
                raise NotFound("no policy of this proxy has the name that the base URL gives")
        except HotplateError as error:
            await Exchange(scope, receive, send).respond_error(error)
            return
        while path.startswith(API_PREFIX + "/"):
            path = path[len(API_PREFIX) :]
        while raw.startswith(b"/v1/"):
            raw = raw[3:]
        await self._app({**scope, "path": path, "raw_path": raw, "hotplate.profile": profile}, receive, send)

    def _check(self, scope: Scope) -> None:
        host = origin = None
        hosts = lengths = encodings = credentials = 0
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1")
                hosts += 1
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"content-length":
                lengths += 1
            elif name == b"transfer-encoding":
                encodings += 1
            elif name == b"authorization":
                credentials += 1
        if lengths + encodings > 1:
            raise BadRequest("the length of the body is given twice")
        if credentials > 1:
            raise BadRequest("there are two credentials")
        if hosts > 1 or (hosts == 0 and scope.get("http_version") == "1.1"):
            raise BadRequest("a request names one host")  # RFC 9112 section 3.2
        path = scope["path"]
        if not path.isprintable() and any(mark < " " or mark == "\x7f" for mark in path):
            # No address here has one, and the router takes "/predictions\n" for "/predictions".
            raise NotFound("The requested resource could not be found.")
        if self._only_names is None or path.startswith(OUTPUTS_PREFIX):
            return
        if _host_name(f"//{host}") not in self._only_names:
            raise Forbidden("this address is not one of this proxy's own; set public.base_url or auth.tokens")
        if origin is not None and _host_name(origin) not in self._only_names:
            raise Forbidden("pages of other sites may not use this proxy; set auth.tokens")


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None

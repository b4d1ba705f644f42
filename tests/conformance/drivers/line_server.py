"""What the Python drivers share: requests come as JSON lines, answers go as JSON lines.

Nothing but answers goes to standard output: whatever a client prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        base_url: of the API, without ``/v1``.
        args: the case's arguments.
    """

    base_url: str
    token: str
    args: dict[str, Any] = field(default_factory=dict)


class Unsupported(Exception):
    """This client cannot do the case at all; the text says why."""


Case = Callable[[Ask], dict[str, Any]]
Explain = Callable[[BaseException], dict[str, Any]]


def serve(cases: Mapping[str, Case], explain: Explain) -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(answer(cases, explain, request)) + "\n")
        answers.flush()


def answer(cases: Mapping[str, Case], explain: Explain, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request."""
    case = cases.get(request["case"])
    if case is None:
        return {"unsupported": "unknown case"}
    try:
        result = case(Ask(request["base_url"], request["token"], request.get("args", {})))
        return {"ok": True, "result": result}
    except Unsupported as reason:
        return {"unsupported": str(reason)}
    except Exception as error:
        said: dict[str, Any] = {"type": type(error).__name__, "status": None, "retry_after": None}
        return {"ok": False, "error": {**said, "message": str(error)[:2000], **explain(error)}}


CASES = (
    *("run", "run_async", "create_and_poll", "create_wait", "stream", "list", "pages", "get", "cancel", "cancel_id"),
    *("deadline", "file_input", "output_as_input", "webhook", "validate_webhook", "error"),
    *("account", "models_get", "models_list", "models_search", "versions", "version_get"),
    *("collections", "collection_get", "hardware", "deployments_list", "deployment_get", "trainings_list"),
    *("files_list", "files_get", "files_create", "files_delete"),
)
"""What a driver may be asked."""


def only(reason: str, **cases: Case) -> dict[str, Case]:
    """The cases of a client that has few of them; ``reason`` says why it has no others."""
    return {**dict.fromkeys(CASES, cannot(reason)), **cases}


def cannot(reason: str) -> Case:
    """A case that the client has no way to do."""

    def refuse(ask: Ask) -> dict[str, Any]:
        raise Unsupported(reason)

    return refuse


def describe(content: bytes, kind: str) -> dict[str, Any]:
    """A file that was read, in the form that all drivers use."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "kind": kind}


def replace_files(value: Any, read: Callable[[Any], dict[str, Any] | None]) -> Any:
    """``value`` with each file replaced by what ``read`` says of it, and everything else as it is."""
    described = read(value)
    if described is not None:
        return described
    if isinstance(value, Mapping):
        return {name: replace_files(each, read) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [replace_files(each, read) for each in value]
    return value


def fetch_address(value: Any, get: Callable[[str], bytes]) -> dict[str, Any] | None:
    """A file that the client leaves as its address: the user fetches it as everybody would."""
    if isinstance(value, str) and value.startswith("https:"):
        return describe(get(value), "str")
    return None


def join_logs(events: Iterable[tuple[str, Any]]) -> list[list[Any]]:
    """Events in order, those of the logs joined into one at the end."""
    kept: list[list[Any]] = []
    logs = ""
    for event, data in events:
        if event == "logs":
            logs += data
        else:
            kept.append([event, data])
    return [*kept, ["logs", logs]] if logs else kept


def aim_names(places: Mapping[str, list[Any]]) -> None:
    """Let host names lead to ports of this machine, for clients that cannot be aimed in another way.

    The client is left alone; what is replaced is the machine's name resolution. Some libraries take only the address
    from it and keep their port, so asynchronous connections to that address go to the right port, too.

    Args:
        places: ``[address, port]`` by host name.
    """
    ports = {address: port for address, port in places.values()}

    def resolve(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in places:
            host, port = places[name]
        return _getaddrinfo(host, port, *args, **options)

    async def connect(loop: Any, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        if port == HTTPS_PORT:
            port = ports.get(host, port)
        return await _create_connection(loop, factory, host, port, **options)

    socket.getaddrinfo = resolve
    asyncio.BaseEventLoop.create_connection = connect  # type: ignore[method-assign]


HTTPS_PORT = 443

_getaddrinfo = socket.getaddrinfo
_create_connection = asyncio.BaseEventLoop.create_connection

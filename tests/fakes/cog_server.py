"""A Cog server's double on loopback: both dialects' answers, word for word, and faults on demand.

What a run does is in its prompt: ``raise``, ``crash``, ``reset``, ``null``, ``empty``, ``nonsense``, ``short``,
``invalid``, ``hold…`` (until released; canceled when asked), ``deaf…`` (until released, whatever is asked). Anything
else succeeds at once. What was seen to work like this is in the dialects' tables of ``proxy/upstreams/cog_wire.py``.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

Dialect = Literal["coglet", "fastapi"]

OPENAPI: dict[str, Any] = {
    "openapi": "3.0.2",
    "info": {"title": "Cog", "version": "0.1.0"},
    "paths": {},
    "components": {
        "schemas": {
            "Input": {
                "type": "object",
                "title": "Input",
                "required": ["prompt"],
                "properties": {
                    "prompt": {"type": "string", "title": "Prompt", "x-order": 0},
                    "seed": {"type": "integer", "title": "Seed", "x-order": 1, "nullable": True},
                },
            },
            "Output": {"type": "string", "title": "Output"},
        }
    },
}

COGLET_BUSY = {"error": "At capacity - all prediction slots busy", "status": "failed"}
FASTAPI_BUSY = {"detail": "Already running a prediction"}
NOT_SET_UP = "Setup has not finished yet. Wait until it has finished, or GET /health-check for status."


@dataclass(eq=False)
class FakeCog:
    """One server. Set its fields at any time.

    Attributes:
        status: what its health check says while no run fills it.
        passing_409s: as many more predictions are answered 409 although there is room (coglet, just after a run).
        foreign_runs: slots that somebody else's runs take.
        asked: ids of every prediction POST; ``taken``: those that ran; ``canceled``: those that were asked to end.
        answers: HTTP status of each answer to a prediction POST.
        wishes: by prompt, where webhooks were asked for and of which events; sending them is the test's affair.
    """

    dialect: Dialect = "coglet"
    slots: int = 1
    status: str = "READY"
    setup_logs: str = "setup line\n"
    openapi: dict[str, Any] | None = field(default_factory=lambda: dict(OPENAPI))
    passing_409s: int = 0
    foreign_runs: int = 0
    is_mute: bool = False
    asked: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    canceled: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)
    wishes: dict[str, tuple[str | None, list[str]]] = field(default_factory=dict)
    port: int = 0
    starts: int = 0
    _running: dict[str, asyncio.Event] = field(default_factory=dict)
    _ends: dict[str, asyncio.Event] = field(default_factory=dict)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> int:
        return len(self._running)

    # -- what a test does to it --------------------------------------------------------------------

    async def start(self) -> None:
        """Listen; again on the same port after ``kill``, as a new start of the model."""
        self.starts += 1
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """As ``kill -9`` would: nothing listens any more, and every connection is reset."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._running.clear()
        for writer in list(self._writers):
            _reset(writer)

    def release(self, prompt: str) -> None:
        """Let held runs of that prompt succeed."""
        self._end(prompt).set()

    # -- the wire ----------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(lengths[0].split(b":")[1])) if lengths else b""
            if method == "POST" and path == "/predictions":
                self.headers.append(head)
                await self._predict(json.loads(body), reader, writer)
            else:
                await self._answer(method, path, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, method: str, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/health-check":
            if self.is_mute:
                await asyncio.sleep(60)
            await _send(writer, 200, self._health())
        elif path == "/openapi.json":
            if self.openapi is None:
                await _send(writer, 503, {"error": "OpenAPI schema not available"})
            else:
                await _send(writer, 200, self.openapi)
        elif method == "POST" and path.endswith("/cancel"):
            run_id = path.split("/")[2]
            is_known = run_id in self._running
            if is_known:
                self.canceled.append(run_id)
                self._running[run_id].set()
            await _send(writer, 200 if is_known else 404, {})
        else:
            await _send(writer, 404, b"")

    def _health(self) -> dict[str, Any]:
        is_full = self.status == "READY" and len(self._running) + self.foreign_runs >= self.slots
        health: dict[str, Any] = {"status": "BUSY" if is_full else self.status, "setup": {}}
        if self.status != "STARTING" or self.dialect == "coglet":
            health["setup"] = {"started_at": f"2026-11-23T10:00:{self.starts:02}.000000+00:00", "logs": self.setup_logs}
        if self.dialect == "coglet":
            health["version"] = {"coglet": "0.23.1", "python_sdk": "0.23.1", "python": "3.11.7"}
        return health

    async def _predict(self, call: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        run_id, prompt = call["id"], call["input"].get("prompt", "")
        self.asked.append(run_id)
        self.wishes[prompt] = call.get("webhook"), call.get("webhook_events_filter", [])
        refusal = self._refusal(prompt)
        if refusal is not None:
            self.answers.append(refusal[0])
            await _send(writer, *refusal)
            return
        wants_end = asyncio.Event()
        self._running[run_id] = wants_end
        self.taken.append(run_id)
        self.prompts.append(prompt)
        try:
            status, answer = await self._run(run_id, prompt, wants_end, reader)
        finally:
            self._running.pop(run_id, None)
        if answer == "reset":
            _reset(writer)
        elif answer == "short":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        else:
            self.answers.append(status)
            await _send(writer, status, answer)
            if status == 500:
                self.kill()  # cog 0.16 exits

    def _refusal(self, prompt: str) -> tuple[int, Any] | None:
        if self.status in ("STARTING", "SETUP_FAILED"):
            return 503, {"error": NOT_SET_UP, "status": "failed"}
        is_full = len(self._running) + self.foreign_runs >= self.slots
        if self.passing_409s > 0 or is_full or self.status == "UNHEALTHY":
            self.passing_409s = max(0, self.passing_409s - 1)
            return 409, COGLET_BUSY if self.dialect == "coglet" else FASTAPI_BUSY
        if prompt == "invalid":
            too_small = "5 is less than the minimum of 16.0"
            complaint = {"loc": ["body", "input", "seed"], "msg": too_small, "type": "value_error"}
            missing = {"loc": ["body", "input", "prompt"], "msg": "Field required", "type": "value_error.missing"}
            return 422, {"detail": [complaint, missing]}
        return None

    async def _run(
        self, run_id: str, prompt: str, wants_end: asyncio.Event, reader: asyncio.StreamReader
    ) -> tuple[int, Any]:
        if prompt.startswith(("hold", "deaf")):
            ends = [asyncio.create_task(self._end(prompt).wait())]
            if prompt.startswith("hold"):
                ends.append(asyncio.create_task(wants_end.wait()))
                if self.dialect == "coglet":
                    ends.append(asyncio.create_task(_gone(reader)))
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
            if not self._end(prompt).is_set():
                return 200, self._result(run_id, "canceled")
        match prompt:
            case "raise":
                return 200, self._result(run_id, "failed", error="ValueError: boom")
            case "crash" if self.dialect == "coglet":
                self.status = "UNHEALTHY"
                return 200, {"error": "Worker crashed", "id": run_id, "logs": "", "metrics": {}, "status": "failed"}
            case "crash":
                return 500, b"Internal Server Error"
            case "reset" | "short":
                return 0, prompt
            case "nonsense":
                return 200, b"<html>"
            case "null":
                return 200, self._result(run_id, "succeeded", output=None)
            case "empty":
                return 200, self._result(run_id, "succeeded", output=[])
            case _:
                return 200, self._result(run_id, "succeeded", output=f"data:text/plain,{prompt}%20{self.port}")

    def _result(self, run_id: str, status: str, *, output: Any = None, error: str | None = None) -> dict[str, Any]:
        if self.dialect == "coglet":
            result = {"id": run_id, "metrics": {"predict_time": 0.01}, "status": status}
            if error:
                return {**result, "logs": "", "error": f"Prediction failed: Prediction failed: {error}"}
            return {**result, "logs": "a line\n", "output": output}
        return {
            "input": {"prompt": "", "seed": None},
            "output": output,
            "id": run_id,
            "version": None,
            "created_at": None,
            "started_at": "2026-11-23T23:30:23.893266+00:00",
            "completed_at": "2026-11-23T23:30:23.894592+00:00",
            "logs": "a line\n",
            "error": error,
            "status": status,
            "metrics": None if status == "canceled" else {"predict_time": 0.01},
        }

    def _end(self, prompt: str) -> asyncio.Event:
        return self._ends.setdefault(prompt, asyncio.Event())


async def _gone(reader: asyncio.StreamReader) -> None:
    """Until the caller closes its side."""
    while await reader.read(1024):
        pass


async def _send(writer: asyncio.StreamWriter, status: int, body: Any) -> None:
    if writer.is_closing():
        return
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = b"text/plain" if isinstance(body, bytes) else b"application/json"
    head = b"HTTP/1.1 %d X\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (status, kind, len(content))
    writer.write(head + content)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def until(condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = 30.0) -> None:
    """Wait for what no event tells: a state inside the object under test, or of another process."""
    async with asyncio.timeout(timeout_s):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def cog_servers(*servers: FakeCog) -> AsyncIterator[list[FakeCog]]:
    """Run doubles on free ports of loopback."""
    for server in servers:
        await server.start()
    try:
        yield list(servers)
    finally:
        for server in servers:
            server.kill()
        await asyncio.sleep(0)

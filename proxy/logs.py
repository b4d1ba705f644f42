"""One JSON line per request, and structured lines for what else happens; all to standard error.

Tokens, prompts and output URLs never go into a line: an input shows as the first digits of its key.
"""

from __future__ import annotations

import atexit
import logging
import queue
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson
import structlog


@dataclass(slots=True)
class Note:
    """What a handler tells the access log and the metrics about its request.

    Attributes:
        outcome: ``hit``, ``coalesced``, ``warm_miss``, ``cold_miss``, ``miss`` (not ended), ``bypass``, ``relay``,
            ``own``, ``output``, ``stream``, ``admin`` or ``other``.
        saved_s: compute seconds that a hit did not spend.
        is_quiet: no line is to be written: there are very many such requests, and none is a client's.
        is_passed_on: another process of this proxy answers, and it names, counts and logs the request.
    """

    outcome: str = "other"
    upstream: str | None = None
    key: str | None = None
    error: str | None = None
    saved_s: float = 0.0
    is_quiet: bool = False
    is_passed_on: bool = False


QUEUED_LINES = 10_000
"""Most request lines that wait to be written; beyond, they are dropped and counted, never waited for."""


class RequestLog:
    """Request lines, queued as values by the event loop, formatted and written by a thread of their own.

    A reader of the log that does not read (a full pipe) then stops the thread and not the proxy.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """``stream``: where JSON lines go; ``None`` writes nothing."""
        self._queue: queue.SimpleQueue[tuple[float, dict[str, Any]] | None] = queue.SimpleQueue()
        self._stream = stream
        self.dropped_total = 0
        if stream is not None:
            self._thread = threading.Thread(target=self._write_all, name="request-log", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def write(self, at: float, values: dict[str, Any]) -> None:
        """One line; ``at`` in epoch seconds, ``values`` JSON values by name. Never waits."""
        if self._stream is None:
            return
        if self._queue.qsize() >= QUEUED_LINES:
            self.dropped_total += 1
            return
        self._queue.put((at, values))

    def close(self) -> None:
        """Write what is queued, for a second at most."""
        if self._stream is not None:
            self._queue.put(None)
            self._thread.join(1.0)

    def _write_all(self) -> None:
        assert self._stream is not None
        while (line := self._queue.get()) is not None:
            at, values = line
            time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            text = orjson.dumps({"event": "request", **values, "level": "info", "timestamp": time}).decode()
            try:
                self._stream.write(text + "\n")
                if self._queue.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                return  # nobody reads any more; lines from here on are dropped


def configure(level: str, form: str, stream: TextIO | None = None) -> RequestLog:
    """Set up structlog, and the standard library's loggers (uvicorn, aiohttp) to speak through it.

    Args:
        level: least level that is written, e.g. ``"info"``.
        form: ``"auto"`` (console on a terminal, else JSON), ``"json"`` or ``"console"``.
        stream: where to; default standard error.

    Returns:
        Where requests are to be written.
    """
    out = stream or sys.stderr
    is_console = form == "console" or (form == "auto" and out.isatty())
    least = getattr(logging, level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        # Plain tracebacks: the pretty ones print local variables, and those hold tokens and prompts.
        structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if is_console
        else structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=str).decode())
    )
    errors: list[structlog.typing.Processor] = [] if is_console else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *errors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *errors, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(least, logging.WARNING))
    return RequestLog(out if least <= logging.INFO else None)

"""One JSON line per request, and structured lines for what else happens; all to standard error.

Tokens, prompts and output URLs never go into a line: an input shows as the first digits of its key.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import TextIO

import orjson
import structlog


@dataclass(slots=True)
class Note:
    """What a handler tells the access log and the metrics about its request.

    Attributes:
        outcome: ``hit``, ``coalesced``, ``warm_miss``, ``cold_miss``, ``miss`` (not ended), ``bypass``, ``relay``,
            ``own``, ``output``, ``admin`` or ``other``.
        saved_s: compute seconds that a hit did not spend.
    """

    outcome: str = "other"
    upstream: str | None = None
    key: str | None = None
    error: str | None = None
    saved_s: float = 0.0


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Set up structlog, and the standard library's loggers (uvicorn, aiohttp) to speak through it.

    Args:
        level: least level that is written, e.g. ``"info"``.
        form: ``"auto"`` (console on a terminal, else JSON), ``"json"`` or ``"console"``.
        stream: where to; default standard error.
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
        structlog.dev.ConsoleRenderer(colors=out.isatty())
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

"""Between the supervisor and the processes that it starts: standard input one way, standard output the other.

::

    to the child      first line   ``Start``: its role, sockets and settings (with secrets, so never as arguments)
                      then         ``["workers", [...]]``, ``["reload"]``, ``["drain"]``, ``["stop"]``, ``["force"]``
                      the end      the supervisor is gone, however that came: the child ends within ``LAST_S``
    from the child    first line   ``["ready"]``, or ``["failed", kind, text]``

Children take no signals: whoever stops a service or presses Ctrl-C often signals all of its processes at once, and the
core must outlive the edges.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from proxy.settings import Settings

LAST_S = 1.5
"""What a child has to end in an orderly way once its supervisor is gone."""

Role = Literal["core", "edge"]

_input = io.FileIO(0, closefd=False)
"""Without the lock of ``sys.stdin``, which a thread that reads would hold when the interpreter ends."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a child is told first.

    Attributes:
        lane: its share of the serials in ids.
        base_url: see ``Addresses``; likewise ``admin_url``.
        core_path: the Unix socket on which the core answers what edges pass on.
        channel_path: the one on which it tells them what changes.
        sockets: descriptors of the listening sockets that are the child's, by name.
        settings: JSON values of all settings.
        source: from where they were read, see ``Settings.source``.
        is_again: the child takes the place of one that has ended.
    """

    role: Role
    lane: int
    base_url: str
    admin_url: str
    core_path: str
    channel_path: str
    sockets: dict[str, int]
    settings: dict[str, Any]
    source: tuple[str | None, dict[str, Any]] | None = None
    is_again: bool = False

    def line(self) -> bytes:
        """As it goes to the child."""
        return command(asdict(self))


def command(document: Any) -> bytes:
    """One line to a child or from it."""
    return orjson.dumps(document) + b"\n"


def read_start() -> Start:
    """In a child: what it is told."""
    return Start(**orjson.loads(_input.readline()))


def report(*words: str) -> None:
    """In a child: tell the supervisor, once; what is printed later goes to the log, for nobody reads it."""
    sys.stdout.buffer.write(command(list(words)))
    sys.stdout.buffer.flush()
    os.dup2(2, 1)


def ignore_signals() -> None:
    """In a child: leave signals to the supervisor."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def follow(commands: dict[str, Callable[..., None]]) -> None:
    """In a child: call the command of each line on the event loop; at the end ``force``, and then end whatever happens.

    A thread of its own reads, so that an event loop which hangs does not keep a child alive.
    """
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in _input:
            name, *arguments = orjson.loads(line)
            _call(loop, commands.get(name, _nothing), *arguments)
        _call(loop, commands["force"])
        time.sleep(LAST_S)
        os._exit(1)

    threading.Thread(target=read, name="lifeline", daemon=True).start()


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        return  # the loop is closed: the child is ending already


def _nothing(*arguments: Any) -> None:
    """For a command that this role has no use for."""


def hand_over(settings: Settings) -> dict[str, Any]:
    """All settings as JSON values, secrets included."""
    values = _plain(settings)
    assert isinstance(values, dict)
    return values


def take_over(values: dict[str, Any], source: tuple[str | None, dict[str, Any]] | None = None) -> Settings:
    """The settings that were handed over, whatever files and environment say by now; ``source``: see ``Start``."""

    class Given(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings,)

    settings = Given(**values)
    if source is not None:
        settings._come_from(Path(source[0]) if source[0] is not None else None, source[1])
    return settings


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return str(value) if isinstance(value, Path) else value

"""``python -m proxy.worker``: one process of a proxy of several, started by ``supervisor`` and by nobody else.

The *core* is the whole proxy but for its public listener: what edges pass on comes to it over a Unix socket. An *edge*
has the public listener, and the core behind it. ``lifeline`` says how they hear of their end.
"""

from __future__ import annotations

import asyncio
import socket

import structlog
import uvloop

from proxy import logs, tls
from proxy.app import build_application
from proxy.edge import build_edge
from proxy.lifeline import Start, follow, ignore_signals, read_start, report, take_over
from proxy.logs import RequestLog
from proxy.services import Services
from proxy.serving import Listener, Stopping, keep_certificate, listen, tls_files
from proxy.settings import Settings, SettingsError
from storage.errors import StorageError

_log = structlog.get_logger("hotplate.worker")


def main() -> None:
    """Be what the first line of standard input says."""
    ignore_signals()
    start = read_start()
    settings = take_over(start.settings, start.source)
    log = logs.configure(settings.log.level, settings.log.format)
    run = run_core if start.role == "core" else run_edge
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(start, settings, log))
    except (SettingsError, StorageError) as error:
        report("failed", type(error).__name__, str(error))


async def run_core(start: Start, settings: Settings, log: RequestLog) -> None:
    """Run the core until the supervisor says stop.

    Raises:
        SettingsError, StorageError: see ``build_application``.
    """
    stopping = Stopping()
    application = await build_application(settings, start.base_url, log, start.admin_url)

    def workers(known: list[dict[str, object]]) -> None:
        application.operations.workers = list(known)

    follow(
        {
            "workers": workers,
            "reload": application.services.reload.reload_soon,
            "drain": application.drain,
            "stop": stopping.ask,
            "force": stopping.force,
        }
    )
    drain_timeout_s = settings.limits.drain_timeout_s
    sockets = _sockets(start)
    try:
        if start.is_again:
            await take_policies_over(application.services)
        await application.services.channel.serve(sockets["channel"])
        await listen(
            [
                Listener(application.public, sockets["core"], settings.limits, None, drain_timeout_s, is_inner=True),
                Listener(application.admin, sockets["admin"], settings.limits),
            ],
            [],
            stopping,
            lambda: report("ready"),
            application.drain,
        )
    finally:
        await application.aclose(0.0 if stopping.is_forced else drain_timeout_s)


async def take_policies_over(services: Services) -> None:
    """Read the policies from where they came, as at any restart, before anybody is answered by those of the start.

    They may have been reloaded since, into narrower ones. Where they cannot be read nobody knows any more which held,
    and the cache is not used.
    """
    try:
        await services.reload.reload()
    except SettingsError as error:
        services.kill_switch.hold(str(error))


async def run_edge(start: Start, settings: Settings, log: RequestLog) -> None:
    """Run an edge until the supervisor says stop.

    Raises:
        SettingsError: the certificate or the data folder's secret cannot be used.
    """
    stopping = Stopping()
    follow({"stop": stopping.ask, "force": stopping.force})
    files = tls_files(settings)
    context = tls.server_context(files) if files is not None else None
    edge = await build_edge(
        settings,
        start.base_url,
        log,
        core_path=start.core_path,
        channel_path=start.channel_path,
        lane=start.lane,
    )
    limits = settings.limits
    public = Listener(edge.public, _sockets(start)["public"], limits, context, limits.drain_timeout_s)
    try:
        await listen(
            [public],
            [keep_certificate(settings, files, context), edge.keep()],
            stopping,
            lambda: report("ready"),
            lambda: None,
        )
    finally:
        await edge.aclose()


def _sockets(start: Start) -> dict[str, socket.socket]:
    found = {name: socket.socket(fileno=descriptor) for name, descriptor in start.sockets.items()}
    for one in found.values():
        one.setblocking(False)
    return found


if __name__ == "__main__":
    main()

"""The listeners: API, delivery and streams, each over plain http and perhaps over TLS, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from loadtests.fake_model.api import make_api
from loadtests.fake_model.delivery import make_delivery
from loadtests.fake_model.faults import Listener
from loadtests.fake_model.runs import Runner
from loadtests.fake_model.sites import HOST, NAMES, Site, plain_site, tls_site
from loadtests.fake_model.streams import make_streams
from loadtests.fake_model.wire import FaultLayer, TrackedProtocol
from loadtests.fake_model.world import Options, World


@dataclass(frozen=True, slots=True)
class Binding:
    """Where one site listens; 0 picks a free port."""

    port: int = 0
    delivery_port: int = 0
    stream_port: int = 0


@dataclass(frozen=True, slots=True)
class Tls:
    """The second site: its certificate (PEM), and whether it goes by the real service's names."""

    cert: Path
    key: Path
    binding: Binding = Binding()
    has_names: bool = False


class _Server(uvicorn.Server):
    """Leaves signals to ``serve``, which stops all listeners."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _ByName:
    """On the site that goes by names, the name decides, whichever of its ports a client came in by: a client whose
    name resolution is overridden often has one address and port for all of them."""

    def __init__(self, apps: dict[str, ASGIApp], usual: ASGIApp) -> None:
        self._apps = {NAMES[kind]: app for kind, app in apps.items()}
        self._usual = usual

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope.get("headers", ())).get(b"host", b"").decode("latin-1").partition(":")[0]
        await self._apps.get(host, self._usual)(scope, receive, send)


async def serve(options: Options, binding: Binding, tls: Tls | None, *, is_tied_to_stdin: bool) -> None:
    """Serve until SIGTERM or SIGINT, or until standard input ends when it is tied to that."""
    world = World(options)
    runner = Runner(world)
    sockets, ports = _bind(binding)
    apps = _apps(world, runner, plain_site(*ports))
    servers = [_server(app) for app in apps.values()]
    started: dict[str, int] = dict(zip(("port", "delivery_port", "stream_port"), ports, strict=True))
    if tls is not None:
        tls_sockets, ports = _bind(tls.binding)
        apps = _apps(world, runner, tls_site(*ports, has_names=tls.has_names))
        if tls.has_names:
            apps = {kind: _ByName(apps, app) for kind, app in apps.items()}
        sockets += tls_sockets
        servers += [_server(app, tls) for app in apps.values()]
        started |= dict(zip(("tls_port", "tls_delivery_port", "tls_stream_port"), ports, strict=True))

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if is_tied_to_stdin:
        loop.add_reader(sys.stdin.fileno(), stop)
    print(json.dumps({**started, "pid": os.getpid()}), flush=True)
    await asyncio.gather(*(server.serve([each]) for server, each in zip(servers, sockets, strict=True)))


def _apps(world: World, runner: Runner, site: Site) -> dict[str, ASGIApp]:
    world.sites.append(site)
    apps: dict[Listener, ASGIApp] = {
        "api": make_api(world, runner, site),
        "delivery": make_delivery(world),
        "stream": make_streams(world, site),
    }
    return {kind: FaultLayer(app, world, kind) for kind, app in apps.items()}


def _bind(binding: Binding) -> tuple[list[socket.socket], list[int]]:
    sockets = [_listen(port) for port in (binding.port, binding.delivery_port, binding.stream_port)]
    return sockets, [each.getsockname()[1] for each in sockets]


def _listen(port: int) -> socket.socket:
    listener = socket.create_server((HOST, port), backlog=2048)
    listener.setblocking(False)
    return listener


def _server(app: ASGIApp, tls: Tls | None = None) -> _Server:
    config = uvicorn.Config(
        app,
        http=TrackedProtocol,
        loop="asyncio",
        lifespan="off",
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=75,
        server_header=False,
        ssl_certfile=tls.cert if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    return _Server(config)

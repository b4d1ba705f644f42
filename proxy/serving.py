"""The running process: two listeners on one event loop, signals, draining, certificates that renew.

Order of a stop: readiness says no; listeners close; requests in flight get ``drain_timeout_s``; flights end or
are cancelled upstream; children end; the store is closed. A second signal cuts the waiting short.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from proxy import tls
from proxy.app import Application, build_application
from proxy.data_dir import make_data_dir
from proxy.logs import RequestLog
from proxy.protocol import BoundedHttpProtocol
from proxy.settings import LimitSettings, Settings, SettingsError
from proxy.system import affordable_connections

KEEP_ALIVE_S = 75
"""Longer than the idle time of usual proxies and CDNs, so that they, not we, close idle connections."""

BACKLOG = 2048
RENEWAL_CHECK_MAX_S = 3600.0
RENEWAL_CHECK_MIN_S = 60.0

_log = structlog.get_logger("hotplate.serving")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the process listens, once it does.

    Attributes:
        base_url: the public address, without ``/v1``.
        public_url: the public listener as reached from this machine.
        admin_url: the admin listener as reached from this machine.
        tls: the certificate files in use, if any.
    """

    base_url: str
    public_url: str
    admin_url: str
    tls: tls.TlsFiles | None


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: one process, two servers, one decision to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def tls_files(settings: Settings) -> tls.TlsFiles | None:
    """The certificate files that the settings call for; made or renewed where Hotplate makes them itself.

    Raises:
        SettingsError: they cannot be used; says which file and why.
    """
    try:
        if settings.tls.mode == "files":
            assert settings.tls.cert_file is not None
            assert settings.tls.key_file is not None
            return tls.given_files(settings.tls.cert_file, settings.tls.key_file)
        if settings.tls.mode == "local-ca":
            files = tls.LocalAuthority(settings.data_dir / "tls", settings.tls.names).ensure()
            if files.new_authority:
                _log.warning("new_certificate_authority", detail=files.new_authority, ca_file=str(files.ca_file))
            return files
    except tls.TlsError as error:
        raise SettingsError(f"tls: {error}") from error
    return None


def _bind(host: str, port: int, what: str) -> socket.socket:
    """A listening socket.

    Raises:
        SettingsError: the address cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        raise SettingsError(f"{what}: cannot listen on {host} port {port}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def _url(scheme: str, host: str, listener: socket.socket) -> str:
    """How this machine reaches a listener; an address that means "all" is reached over loopback."""
    with contextlib.suppress(ValueError):
        if ip_address(host).is_unspecified:
            host = "localhost"
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{listener.getsockname()[1]}"


class Stopping:
    """The decision to stop, and the second one not to wait for anything."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._forced = asyncio.Event()
        self._servers: list[_Server] = []

    @property
    def is_forced(self) -> bool:
        """Whether nothing is to be waited for."""
        return self._forced.is_set()

    async def wait_until_forced(self) -> None:
        """Until somebody does not want to wait."""
        await self._forced.wait()

    async def wait(self) -> None:
        """Until somebody asks for the stop."""
        await self._asked.wait()

    def ask(self) -> None:
        """Stop; asked again, stop at once."""
        if self._asked.is_set():
            self.force()
        self._asked.set()

    def force(self) -> None:
        """Stop without waiting for what is under way."""
        self._forced.set()
        for server in self._servers:
            server.force_exit = True
        self._asked.set()

    def watch(self, servers: list[_Server]) -> None:
        """Servers that a forced stop cuts short."""
        self._servers = servers
        if self.is_forced:
            self.force()

    @contextlib.contextmanager
    def on_signals(self, reload: Callable[[], None]) -> Generator[None, None, None]:
        """SIGTERM and SIGINT ask; SIGHUP calls ``reload``."""
        loop = asyncio.get_running_loop()
        handled = []
        for number, act in ((signal.SIGTERM, self.ask), (signal.SIGINT, self.ask), (signal.SIGHUP, reload)):
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: a test stops us otherwise
                loop.add_signal_handler(number, act)
                handled.append(number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and what answers there.

    Attributes:
        drain_timeout_s: what requests in flight get when it closes.
        is_inner: another process of this proxy is the client, and names the date itself.
    """

    app: ASGIApp
    socket: socket.socket
    limits: LimitSettings
    context: ssl.SSLContext | None = None
    drain_timeout_s: float = 0.0
    is_inner: bool = False


async def listen(
    listeners: Sequence[Listener],
    helpers: Sequence[Coroutine[Any, Any, None]],
    stopping: Stopping,
    on_ready: Callable[[], None],
    on_stop: Callable[[], None],
) -> None:
    """Answer at all ``listeners`` until ``stopping``; they close one after another, each when it is drained.

    ``helpers`` run meanwhile; they are cancelled at the end. The sockets are closed when this returns.
    """
    servers = [_server(listener) for listener in listeners]
    stopping.watch(servers)
    try:
        async with asyncio.TaskGroup() as group:
            serving = [
                group.create_task(server.serve(sockets=[listener.socket]))
                for server, listener in zip(servers, listeners, strict=True)
            ]
            helping = [group.create_task(helper) for helper in helpers]
            for server in servers:
                await server.ready.wait()
            # What the start has made stays; the collector need not walk it at every full collection.
            gc.collect()
            gc.freeze()
            on_ready()
            await stopping.wait()
            on_stop()
            for server, task in zip(servers, serving, strict=True):
                server.should_exit = True
                await asyncio.wait([task])
            for helper in helping:
                helper.cancel()
    finally:
        for listener in listeners:
            listener.socket.close()


async def serve(
    settings: Settings, log: RequestLog, on_ready: Callable[[Addresses, Application], None] | None = None
) -> None:
    """Run in this one process until a signal (or cancellation) says stop; everything that was started has ended then.

    Raises:
        SettingsError: an address or a certificate cannot be used.
        StorageError: the data folder cannot be used.
    """
    public_socket, admin_socket, addresses = open_listeners(settings)
    application = await build_application(settings, addresses.base_url, log, addresses.admin_url)
    application.operations.workers = [{"role": "proxy", "pid": os.getpid(), "since": time.time(), "restarts": 0}]
    context = tls.server_context(addresses.tls) if addresses.tls is not None else None
    drain_timeout_s = settings.limits.drain_timeout_s
    stopping = Stopping()

    def ready() -> None:
        if on_ready is not None:
            on_ready(addresses, application)
        log_serving(addresses)

    try:
        with stopping.on_signals(application.services.reload.reload_soon):
            await listen(
                [
                    Listener(application.public, public_socket, settings.limits, context, drain_timeout_s),
                    Listener(application.admin, admin_socket, settings.limits),
                ],
                [keep_certificate(settings, addresses.tls, context)],
                stopping,
                ready,
                application.drain,
            )
    finally:
        await application.aclose(0.0 if stopping.is_forced else drain_timeout_s)
        _log.info("stopped")


def open_listeners(settings: Settings) -> tuple[socket.socket, socket.socket, Addresses]:
    """The public socket, the admin one, and where they are; certificates are made where Hotplate makes them.

    Raises:
        SettingsError: an address or a certificate cannot be used.
    """
    make_data_dir(settings.data_dir)
    files = tls_files(settings)
    public_socket = _bind(settings.public.host, settings.public.port, "public.port")
    admin_socket = _bind(settings.admin.host, settings.admin.port, "admin.port")
    public_url = _url(settings.scheme, settings.public.host, public_socket)
    return (
        public_socket,
        admin_socket,
        Addresses(
            base_url=settings.public.base_url or public_url,
            public_url=public_url,
            admin_url=_url("http", settings.admin.host, admin_socket),
            tls=files,
        ),
    )


def log_serving(addresses: Addresses) -> None:
    """Say that requests are answered from now on, and where."""
    _log.info("serving", base_url=addresses.base_url, public=addresses.public_url, admin=addresses.admin_url)


def _server(listener: Listener) -> _Server:
    limits = listener.limits
    config = uvicorn.Config(
        listener.app,
        loop="none",
        http=BoundedHttpProtocol.within(
            max_connections=affordable_connections(limits.max_connections),
            head_timeout_s=limits.head_timeout_s,
            body_timeout_s=limits.body_timeout_s,
            send_timeout_s=limits.send_timeout_s,
        ),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=not listener.is_inner,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(listener.drain_timeout_s)),
        backlog=BACKLOG,
    )
    config.load()
    config.ssl = listener.context
    return _Server(config)


async def keep_certificate(settings: Settings, files: tls.TlsFiles | None, context: ssl.SSLContext | None) -> None:
    """Renew the certificate in time, without a restart; a failure is logged and tried again."""
    while files is not None and context is not None:
        wait_s = tls.seconds_until_renewal(files, time.time())
        await asyncio.sleep(min(max(wait_s, RENEWAL_CHECK_MIN_S), RENEWAL_CHECK_MAX_S))
        try:
            renewed = await asyncio.to_thread(tls_files, settings)
            if renewed is not None:
                tls.reload(context, renewed)
                files = renewed
        except (SettingsError, tls.TlsError) as error:
            _log.error("certificate_not_renewed", detail=str(error))

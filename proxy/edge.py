"""An edge: the public listener in a process that answers hits and stored files, and passes everything else on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from pydantic import ByteSize
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.app import own_names
from proxy.building import TEMPLATES_SHARE, Edge, build_services
from proxy.building_upstreams import build_upstream
from proxy.core.addresses import OUTPUTS_PREFIX
from proxy.data_dir import load_secret
from proxy.engine.edge_channel import EdgeChannel
from proxy.engine.topics import ToldCounters
from proxy.logs import RequestLog
from proxy.middleware.access_log import AccessLog
from proxy.middleware.guard import Guard
from proxy.routes.edge import EdgeCreates, EdgeOutputs
from proxy.routes.exchange import Endpoint, Room
from proxy.routes.passage import TARGET, Passage
from proxy.routes.passthrough import Passthrough
from proxy.routes.predictions import Predictions
from proxy.services import Services
from proxy.settings import Settings
from proxy.upstream_settings import ReplicateUpstreamSettings, UpstreamSettings
from proxy.upstreams.base import Upstream
from proxy.upstreams.catalog import Catalog, Entry
from proxy.upstreams.egress import Egress
from proxy.upstreams.hook_desk import HookDesk
from proxy.upstreams.news_desk import NewsDesk
from proxy.upstreams.silent import DESCRIBE, NotedUpstream, ToldUpstream
from storage.opening import open_reader

ASK_TIMEOUT_S = 0.25
"""The core answers such questions from memory; what takes longer is left to it altogether."""

TELL_COUNTERS_S = 1.0


@dataclass(frozen=True, slots=True)
class EdgeApplication:
    """The public listener's application of an edge; ``keep`` holds the line to the core and runs meanwhile."""

    public: ASGIApp
    services: Services
    channel: EdgeChannel
    keep: Callable[[], Coroutine[Any, Any, None]]
    aclose: Callable[[], Awaitable[None]]


async def build_edge(
    settings: Settings, base_url: str, log: RequestLog, *, core_path: str, channel_path: str, lane: int
) -> EdgeApplication:
    """Build an edge; it vouches for nothing until its line to the core is up.

    Args:
        core_path: Unix socket on which the core answers requests.
        channel_path: Unix socket on which it tells what changes.
        lane: which of the ``settings.workers.lanes`` is this process's.

    Raises:
        SettingsError: the data folder's secret cannot be used.
    """
    secrets = load_secret(settings.data_dir)
    channel = EdgeChannel(channel_path)
    stored_share = ByteSize(int(settings.storage.memory_bytes * (1 - TEMPLATES_SHARE)))
    storage = await open_reader(settings.data_dir, settings.storage.model_copy(update={"memory_bytes": stored_share}))
    egress, desk, hook_desk = Egress(), NewsDesk(None), HookDesk(base_url, secrets)

    def silent(one: UpstreamSettings) -> Upstream:
        if isinstance(one, ReplicateUpstreamSettings):
            return NotedUpstream(build_upstream(one, settings, storage, egress, desk, hook_desk))
        return ToldUpstream(one.name, one.kind, lambda question: channel.ask(DESCRIBE, question, ASK_TIMEOUT_S))

    entries = [Entry(silent(one), one.models) for one in settings.upstream]
    edge = Edge(channel, lane)
    services = build_services(settings, base_url, secrets, storage, Catalog(entries), egress, desk, hook_desk, edge)
    counters = ToldCounters(channel, storage.counters)

    async def keep() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(channel.run())
            group.create_task(_now_and_then(counters.tell))

    async def aclose() -> None:
        for entry in entries:
            await entry.upstream.aclose()
        await egress.aclose()
        await storage.aclose()

    return EdgeApplication(edge_app(services, channel, core_path, log), services, channel, keep, aclose)


def edge_app(services: Services, channel: EdgeChannel, core_path: str, log: RequestLog) -> ASGIApp:
    """The paths at which an edge may answer itself; whatever is not here goes to the core."""
    settings = services.settings
    passage = Passage(core_path, channel.wait_until_up, settings.limits.max_waiters, settings.workers.core_wait_s)
    predictions = Predictions(services, Passthrough(services))
    creates = EdgeCreates(services, predictions, passage, lambda: channel.line)
    outputs = EdgeOutputs(services, passage)
    onward = passage.handle
    routes = [
        Route("/predictions", Endpoint({"POST": creates.create()}, onward)),
        Route("/models/{owner}/{name}/predictions", Endpoint({"POST": creates.create(in_path="model")}, onward)),
        Route(
            "/deployments/{owner}/{name}/predictions",
            Endpoint({"POST": creates.create(in_path="deployment")}, onward),
        ),
        Route(OUTPUTS_PREFIX + "{digest}/{seal}/{name}", Endpoint({"GET": outputs.get, "HEAD": outputs.get}, onward)),
    ]
    router = Router(routes, redirect_slashes=False, default=Endpoint({}, onward))
    guarded = Guard(router, only_names=own_names(services), has_profile=services.policies.has_profile)
    return _aimed(AccessLog(guarded, services.metrics, log, Room(settings.limits.max_arriving_bytes)))


def _aimed(app: ASGIApp) -> ASGIApp:
    """Keeps path and query as they came: on the way to a handler one spelling is made of all."""

    async def aim(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path, query = scope["raw_path"], scope["query_string"]
            scope[TARGET] = path + b"?" + query if query else path
        await app(scope, receive, send)

    return aim


async def _now_and_then(work: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(TELL_COUNTERS_S)
        work()

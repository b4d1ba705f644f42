"""The two listeners: what answers which path, and how everything behind them begins and ends.

``building`` makes what is behind them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import ByteSize
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from proxy.building import TEMPLATES_SHARE, build_services
from proxy.building_upstreams import build_upstream
from proxy.core.addresses import OUTPUTS_PREFIX
from proxy.core.errors import NotFound
from proxy.core.hooks import HOOKS_PATH
from proxy.data_dir import load_secret, make_data_dir
from proxy.engine.courier import GRACE_S
from proxy.logs import RequestLog
from proxy.middleware.access_log import AccessLog
from proxy.middleware.guard import LOOPBACK_NAMES, Guard
from proxy.routes.controls import Controls
from proxy.routes.directory import Directory
from proxy.routes.exchange import Endpoint, Exchange, Room
from proxy.routes.explain import Explain
from proxy.routes.files import Files
from proxy.routes.hooks import HookPosts
from proxy.routes.listing import PredictionList
from proxy.routes.models import Models, page
from proxy.routes.operations import Operations
from proxy.routes.outputs import Outputs
from proxy.routes.passthrough import Passthrough
from proxy.routes.predictions import Predictions
from proxy.routes.progress import ProgressPosts
from proxy.routes.streams import Streams
from proxy.routes.tokens import TokenDesk
from proxy.routes.webhooks import Webhooks
from proxy.services import Services
from proxy.settings import Settings
from proxy.upstreams.base import Upstream
from proxy.upstreams.catalog import Catalog, Entry
from proxy.upstreams.egress import Egress
from proxy.upstreams.environments import sweep_environments
from proxy.upstreams.hook_desk import HookDesk
from proxy.upstreams.news_desk import POSTS_PATH, NewsDesk
from proxy.upstreams.run_folder import Scratch, sweep
from storage.opening import open_storage


@dataclass(frozen=True, slots=True)
class Application:
    """The two listeners' applications and what is behind them."""

    public: ASGIApp
    admin: ASGIApp
    services: Services
    operations: Operations
    aclose: Callable[[float], Awaitable[None]]

    def drain(self) -> None:
        """Say that no traffic should come here any more."""
        self.operations.is_draining = True


async def build_application(
    settings: Settings, base_url: str, log: RequestLog, admin_url: str | None = None
) -> Application:
    """Build everything for ``settings``; ``base_url`` is the public address without ``/v1``.

    ``admin_url``: where the admin listener is reached from this machine. Without it, no model tells how its runs go.

    Raises:
        SettingsError: the data folder's secret cannot be used.
        StorageError: the store cannot be opened.
    """
    make_data_dir(settings.data_dir)
    secrets = load_secret(settings.data_dir)
    stored_share = ByteSize(int(settings.storage.memory_bytes * (1 - TEMPLATES_SHARE)))
    storage = await open_storage(settings.data_dir, settings.storage.model_copy(update={"memory_bytes": stored_share}))
    for left_behind in (settings.data_dir / "run").glob("*"):
        sweep(left_behind)
        Scratch(left_behind).sweep()
    sweep_environments(settings.data_dir / "envs")
    upstreams: list[Upstream] = []
    egress, desk, hook_desk = Egress(), NewsDesk(admin_url), HookDesk(base_url, secrets)
    try:
        entries = [
            Entry(build_upstream(one, settings, storage, egress, desk, hook_desk), one.models)
            for one in settings.upstream
        ]
        upstreams = [entry.upstream for entry in entries]
        services = build_services(settings, base_url, secrets, storage, Catalog(entries), egress, desk, hook_desk)
        await services.gatekeeper.load()
        await services.kill_switch.resume()
        await services.purging.resume()
        if settings.webhooks.enabled:
            await services.courier.resume()
        await services.books.open()
        await services.resumption.resume()
    except BaseException:
        for upstream in upstreams:
            await upstream.aclose()
        await storage.aclose()
        raise
    operations = Operations(services)

    async def aclose(drain_timeout_s: float) -> None:
        await services.channel.aclose()
        await services.coalescer.drain(drain_timeout_s)
        await services.streams.aclose()
        await services.notices.aclose()
        await services.courier.aclose(min(drain_timeout_s, GRACE_S))
        for upstream in upstreams:
            await upstream.aclose()
        await services.webhook_secrets.aclose()
        await services.gatekeeper.aclose()
        await egress.aclose()
        await services.journal.drain()
        await services.history.drain()
        await services.books.aclose()
        await storage.aclose()

    return Application(
        public=public_app(services, log),
        admin=admin_app(services, operations, log),
        services=services,
        operations=operations,
        aclose=aclose,
    )


def public_app(services: Services, log: RequestLog) -> ASGIApp:
    """The public listener. A path or method that is not here goes to the first Replicate upstream as it is."""
    passthrough = Passthrough(services)
    predictions = Predictions(services, passthrough)
    listing = PredictionList(services)
    models = Models(services, passthrough)
    directory = Directory(services, passthrough)
    outputs = Outputs(services)
    streams = Streams(services)
    files = Files(services, passthrough)
    webhooks = Webhooks(services, passthrough)
    onward = passthrough.handle
    model = "/models/{owner}/{name}"
    routes: Sequence[Route] = [
        Route("/predictions", Endpoint({"GET": listing.get, "POST": predictions.create()}, onward)),
        Route(model + "/predictions", Endpoint({"POST": predictions.create(in_path="model")}, onward)),
        Route(
            "/deployments/{owner}/{name}/predictions",
            Endpoint({"POST": predictions.create(in_path="deployment")}, onward),
        ),
        Route("/predictions/{id}", Endpoint({"GET": predictions.get}, onward)),
        Route("/predictions/{id}/cancel", Endpoint({"POST": predictions.cancel}, onward)),
        Route(
            OUTPUTS_PREFIX + "{digest}/{seal}/{name}",
            Endpoint({"GET": outputs.get, "HEAD": outputs.get, "OPTIONS": outputs.options}, outputs.refuse),
        ),
        Route("/files", Endpoint({"POST": files.create, "GET": files.list}, onward)),
        Route(
            "/files/{id}",
            Endpoint(
                {"GET": streams.or_else(files.get), "DELETE": streams.or_else(files.delete)}, streams.or_else(onward)
            ),
        ),
        Route("/files/{id}/download", Endpoint({"GET": files.download}, onward)),
        Route("/streams/{id}", Endpoint({}, streams.handle)),
        Route(model, Endpoint({"GET": models.get}, onward)),
        Route(model + "/versions", Endpoint({"GET": models.versions}, onward)),
        Route(model + "/versions/{version}", Endpoint({"GET": models.version}, onward)),
        Route("/webhooks/default/secret", Endpoint({"GET": webhooks.secret}, onward)),
        Route(HOOKS_PATH + "{token}", Endpoint({"POST": HookPosts(services.hook_desk).post}, _nowhere)),
        Route(model + "/examples", Endpoint({"GET": models.examples}, onward)),
        Route("/models", Endpoint({"GET": directory.models, "QUERY": directory.search_models}, onward)),
        Route("/search", Endpoint({"GET": directory.search}, onward)),
        Route("/collections", Endpoint({"GET": directory.fixed(lambda: page([]))}, onward)),
        Route("/trainings", Endpoint({"GET": directory.fixed(lambda: page([]))}, onward)),
        Route("/hardware", Endpoint({"GET": directory.fixed(list)}, onward)),
        Route("/deployments", Endpoint({"GET": directory.deployments}, onward)),
        Route("/deployments/{owner}/{name}", Endpoint({"GET": directory.deployment}, onward)),
        Route("/account", Endpoint({"GET": models.account}, onward)),
    ]
    router = Router(routes, redirect_slashes=False, default=Endpoint({}, onward))
    guard = Guard(router, only_names=own_names(services), has_profile=services.policies.has_profile)
    return AccessLog(guard, services.metrics, log, Room(services.settings.limits.max_arriving_bytes))


def own_names(services: Services) -> frozenset[str] | None:
    """Host names that may be asked where the listener is open to everybody on this machine."""
    auth = services.settings.auth
    is_open = auth.mode == "passthrough" and not auth.tokens
    is_open = is_open and any(not one.has_accounts for one in services.catalog.upstreams)
    is_open = is_open or (auth.mode == "open" and not auth.open_to_all)
    if not is_open:
        return None
    base = urlsplit(services.base_url).hostname
    return (
        LOOPBACK_NAMES
        | {services.settings.public.host}
        | ({base} if base else set())
        | set(services.settings.tls.names)
    )


def admin_app(services: Services, operations: Operations, log: RequestLog) -> ASGIApp:
    """The operator's listener."""
    tokens = TokenDesk(services)
    controls, explain = Controls(services), Explain(services)
    routes = [
        Route("/livez", Endpoint({"GET": operations.livez})),
        Route("/readyz", Endpoint({"GET": operations.readyz})),
        Route("/metrics", Endpoint({"GET": operations.guarded(operations.metrics)})),
        Route("/_hotplate/status", Endpoint({"GET": operations.guarded(operations.status)})),
        Route(
            "/_hotplate/tokens",
            Endpoint({"GET": operations.guarded(tokens.list), "POST": operations.guarded(tokens.add)}),
        ),
        Route("/_hotplate/tokens/{name:path}", Endpoint({"DELETE": operations.guarded(tokens.revoke)})),
        Route(
            "/_hotplate/bypass",
            Endpoint({"GET": operations.guarded(controls.bypass), "POST": operations.guarded(controls.switch)}),
        ),
        Route("/_hotplate/policies", Endpoint({"GET": operations.guarded(controls.policies)})),
        Route("/_hotplate/reload", Endpoint({"POST": operations.guarded(controls.reload)})),
        Route("/_hotplate/observed", Endpoint({"GET": operations.guarded(controls.observed)})),
        Route("/_hotplate/purge", Endpoint({"POST": operations.guarded(controls.purge)})),
        Route("/_hotplate/explain", Endpoint({"POST": operations.guarded(explain.explain)})),
        Route("/_hotplate/explain/diff", Endpoint({"POST": operations.guarded(explain.compare)})),
        Route("/_hotplate/explain/{id}", Endpoint({"GET": operations.guarded(explain.prediction)})),
        Route("/_hotplate/stats", Endpoint({"GET": operations.guarded(operations.stats)})),
        Route(POSTS_PATH + "{token}", Endpoint({"POST": ProgressPosts(services.desk).post}, _nowhere)),
    ]
    names = None
    if services.settings.admin.token is None:
        names = LOOPBACK_NAMES | {services.settings.admin.host} | _progress_names(services.settings)
    router = Router(routes, redirect_slashes=False, default=Endpoint({}, _nowhere))
    return AccessLog(Guard(router, only_names=names), None, log)


def _progress_names(settings: Settings) -> set[str]:
    """Host names under which the operator said that model servers reach the admin listener."""
    urls = [one.progress_url for one in settings.upstream if one.kind == "cog" and one.progress_url]
    return {urlsplit(url).hostname or "" for url in urls}


async def _nowhere(exchange: Exchange) -> None:
    raise NotFound("The requested resource could not be found.")

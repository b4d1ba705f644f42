"""Where concrete things are built and handed down. Everything else receives what it needs."""

from __future__ import annotations

import contextlib
import os
import secrets as entropy
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ByteSize
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from proxy.core.addresses import OUTPUTS_PREFIX, AddressBook, StreamBook
from proxy.core.errors import NotFound
from proxy.core.ids import IdMint
from proxy.core.inputs import HostNames
from proxy.core.outputs import OutputAccess
from proxy.core.sealing import Sealer
from proxy.core.secrets import SECRET_BYTES, Secrets
from proxy.engine.coalescer import Coalescer
from proxy.engine.courier import GRACE_S, Courier
from proxy.engine.credentials import Gatekeeper
from proxy.engine.file_inputs import FileInputs
from proxy.engine.handover import Handover
from proxy.engine.history import History
from proxy.engine.ingestor import IngestCounters, Ingestor
from proxy.engine.journal import Journal
from proxy.engine.listing import Listing
from proxy.engine.notices import Notices
from proxy.engine.ongoing import Ongoing
from proxy.engine.parcels import ParcelRows
from proxy.engine.predictor import Predictor
from proxy.engine.preparation import Preparation
from proxy.engine.recent import RecentPredictions
from proxy.engine.remote_files import RemoteFiles
from proxy.engine.renderer import Renderer
from proxy.engine.resumption import Resumption
from proxy.engine.rows import RowWriter
from proxy.engine.runs import Runs
from proxy.engine.spool import Spool
from proxy.engine.streams import Streams as StreamsEngine
from proxy.engine.uploads import Uploads
from proxy.engine.views import Views
from proxy.engine.webhook_secrets import WebhookSecrets
from proxy.logs import RequestLog
from proxy.metrics import Metrics
from proxy.middleware.access_log import AccessLog
from proxy.middleware.guard import LOOPBACK_NAMES, Guard
from proxy.routes.directory import Directory
from proxy.routes.exchange import Endpoint, Exchange
from proxy.routes.files import Files
from proxy.routes.listing import PredictionList
from proxy.routes.models import Models, page
from proxy.routes.operations import Operations
from proxy.routes.outputs import Outputs
from proxy.routes.passthrough import Passthrough
from proxy.routes.predictions import Predictions
from proxy.routes.progress import ProgressPosts
from proxy.routes.streams import Streams
from proxy.routes.webhooks import Webhooks
from proxy.services import Services
from proxy.settings import (
    CogUpstreamSettings,
    LocalUpstreamSettings,
    ReplicateUpstreamSettings,
    Settings,
    SettingsError,
    UpstreamSettings,
)
from proxy.upstreams.addresses import parse_origin
from proxy.upstreams.base import Outcome, Upstream
from proxy.upstreams.catalog import Catalog, Entry
from proxy.upstreams.cog import CogSpec, CogUpstream
from proxy.upstreams.egress import Egress
from proxy.upstreams.environments import sweep_environments
from proxy.upstreams.local_cog import LocalCog, LocalCogSpec
from proxy.upstreams.news_desk import POSTS_PATH, NewsDesk
from proxy.upstreams.replicate import ReplicateSpec, ReplicateUpstream
from proxy.upstreams.run_folder import Scratch, sweep
from storage.opening import Storage, open_storage

TEMPLATES_SHARE = 0.5
"""Part of ``storage.memory_bytes`` that ready answers get; the store keeps hot records and blobs in the rest."""


@dataclass(frozen=True, slots=True)
class Application:
    """The two listeners' applications and what is behind them."""

    public: ASGIApp
    admin: ASGIApp
    services: Services
    operations: Operations
    aclose: Callable[[float], Awaitable[None]]


def demo_model_dir() -> Path:
    """The demo model: carried in the wheel, or in ``deploy/`` of a checkout."""
    packaged = Path(__file__).parent / "demo-model"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "deploy" / "demo-model"


def make_data_dir(data_dir: Path) -> None:
    """Make the data folder, closed to other users, before anything makes a folder in it.

    Raises:
        SettingsError: it cannot be made.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("envs", "run"):
            (data_dir / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"data_dir: {data_dir}: {error.strerror}") from error


def load_secret(data_dir: Path) -> Secrets:
    """The server's secret, made at the first start; the file is 0600 from its creation.

    Raises:
        SettingsError: the file is there but is no secret, or cannot be read or written.
    """
    path = data_dir / "secret.key"
    try:
        if not path.exists():
            fresh = data_dir / f".secret.{os.getpid()}.{entropy.token_hex(4)}"
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(entropy.token_bytes(SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            # A link, not a rename: of two processes that start at once, one wins and both read its secret.
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
            fresh.unlink()
        return Secrets.derive(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"data_dir: {path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"data_dir: {path}: {error}; remove the file to start with an empty cache") from error


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
    egress, desk = Egress(), NewsDesk(admin_url)
    try:
        entries = [Entry(_upstream(one, settings, storage, egress, desk), one.models) for one in settings.upstream]
        upstreams = [entry.upstream for entry in entries]
        services = _services(settings, base_url, secrets, storage, Catalog(entries), egress, desk)
        if settings.webhooks.enabled:
            await services.courier.resume()
        await services.resumption.resume()
    except BaseException:
        for upstream in upstreams:
            await upstream.aclose()
        await storage.aclose()
        raise
    operations = Operations(services)

    async def aclose(drain_timeout_s: float) -> None:
        await services.coalescer.drain(drain_timeout_s)
        await services.streams.aclose()
        await services.notices.aclose()
        await services.courier.aclose(min(drain_timeout_s, GRACE_S))
        for upstream in upstreams:
            await upstream.aclose()
        await services.webhook_secrets.aclose()
        await egress.aclose()
        await services.journal.drain()
        await services.history.drain()
        await storage.aclose()

    return Application(
        public=public_app(services, log),
        admin=admin_app(services, operations, log),
        services=services,
        operations=operations,
        aclose=aclose,
    )


def _services(
    settings: Settings,
    base_url: str,
    secrets: Secrets,
    storage: Storage,
    catalog: Catalog,
    egress: Egress,
    desk: NewsDesk,
) -> Services:
    metrics = Metrics(tuple(upstream.name for upstream in catalog.upstreams))
    metrics.export("hotplate_storage_", storage.counters.snapshot)
    spool = Spool(settings.cache.spool_bytes, time.time)
    addresses, stream_book = AddressBook(secrets), StreamBook(secrets)
    coalescer = Coalescer()
    metrics.flights.set_function(lambda: float(len(coalescer)))
    rows = RowWriter(storage.ledger)
    journal = Journal(rows)
    ongoing = Ongoing(rows, Sealer(secrets))
    history = History(storage.ledger, time.time)
    gatekeeper = Gatekeeper(
        secrets,
        [token.get_secret_value() for token in settings.auth.tokens],
        settings.auth.accept_for_s,
        time.monotonic,
    )
    webhook_secrets = WebhookSecrets(secrets, storage.notes, gatekeeper, catalog.upstreams, time.time)
    webhook_access = OutputAccess(origins=tuple(parse_origin(origin) for origin in settings.webhooks.origins))
    courier = Courier(
        ParcelRows(storage.ledger, Sealer(secrets)),
        egress,
        webhook_access,
        webhook_secrets.signing,
        settings.webhooks.timeout_s,
        metrics.observe_webhook,
        time.time,
    )
    notices = Notices(courier, base_url, time.time)
    metrics.webhooks_waiting.set_function(lambda: float(len(courier)))
    counters = IngestCounters(spooled=metrics.outputs_spooled.inc, left=metrics.outputs_left.inc)
    uploads = Uploads(storage.notes, storage.blobs, time.time)
    file_inputs = FileInputs(
        base_url=base_url,
        addresses=addresses,
        blobs=storage.blobs,
        spool=spool,
        uploads=uploads,
        remote=RemoteFiles(egress, storage.notes, _input_access(settings)),
        handover=Handover(storage.blobs, uploads),
        gatekeeper=gatekeeper,
        by_url=HostNames(settings.cache.by_url_hosts),
        hashes_remote=settings.cache.remote_inputs == "hash",
    )
    renderer = Renderer(
        base_url,
        settings.cache.output_urls,
        settings.cache.data_url_max_bytes,
        addresses,
        storage.blobs,
        spool,
        int(settings.storage.memory_bytes * TEMPLATES_SHARE),
        stream_book,
    )
    ingestor = Ingestor(storage.blobs, spool, egress, settings.cache.output_max_bytes, counters)
    mint, recent = IdMint(secrets), RecentPredictions(time.time)
    streams = StreamsEngine(
        recent=recent,
        mint=mint,
        journal=journal,
        results=storage.results,
        blobs=storage.blobs,
        ingestor=ingestor,
        renderer=renderer,
        max_listeners=settings.limits.max_waiters,
    )
    runs = Runs(
        results=storage.results,
        ingestor=ingestor,
        renderer=renderer,
        file_inputs=file_inputs,
        gatekeeper=gatekeeper,
        journal=journal,
        ongoing=ongoing,
        streams=streams,
        observe_run=lambda name, outcome: _observe(metrics, name, outcome),
        keeps_text=settings.cache.text,
        now=time.time,
    )
    preparation = Preparation(file_inputs, cache_enabled=settings.cache.enabled)
    views = Views(
        results=storage.results,
        renderer=renderer,
        mint=mint,
        recent=recent,
        journal=journal,
        history=history,
        streams=streams,
        now=time.time,
    )
    predictor = Predictor(
        preparation=preparation,
        views=views,
        runs=runs,
        coalescer=coalescer,
        renderer=renderer,
        gatekeeper=gatekeeper,
        mint=mint,
        recent=recent,
        journal=journal,
        history=history,
        ongoing=ongoing,
        notices=notices,
        now=time.time,
    )
    resumption = Resumption(
        ongoing,
        runs,
        coalescer,
        predictor,
        journal,
        {upstream.name: upstream for upstream in catalog.upstreams},
        metrics.observe_left_behind,
        time.time,
    )
    return Services(
        settings=settings,
        base_url=base_url,
        catalog=catalog,
        preparation=preparation,
        predictor=predictor,
        views=views,
        gatekeeper=gatekeeper,
        addresses=addresses,
        storage=storage,
        spool=spool,
        coalescer=coalescer,
        journal=journal,
        history=history,
        listing=Listing(history, views, gatekeeper, base_url),
        uploads=uploads,
        resumption=resumption,
        streams=streams,
        stream_book=stream_book,
        webhook_secrets=webhook_secrets,
        webhook_access=webhook_access,
        courier=courier,
        notices=notices,
        metrics=metrics,
        desk=desk,
        now=time.time,
    )


def _input_access(settings: Settings) -> dict[str, OutputAccess]:
    """By upstream, the origins that the operator named for file inputs."""
    return {
        one.name: OutputAccess(origins=tuple(parse_origin(origin) for origin in one.input_origins))
        for one in settings.upstream
    }


def _observe(metrics: Metrics, upstream: str, outcome: Outcome) -> None:
    predict_s = outcome.metrics.get("predict_time")
    seconds = predict_s if isinstance(predict_s, (int, float)) else outcome.completed_at - outcome.started_at
    metrics.observe_run(upstream, outcome.status, float(seconds), outcome.boot_s)


def _upstream(one: UpstreamSettings, settings: Settings, storage: Storage, egress: Egress, desk: NewsDesk) -> Upstream:
    if isinstance(one, ReplicateUpstreamSettings):
        return ReplicateUpstream(
            ReplicateSpec(
                name=one.name,
                base_url=one.base_url,
                deadline_s=one.deadline_s,
                output_hosts=one.output_hosts,
                output_origins=one.output_origins,
            ),
            notes=storage.notes,
            egress=egress,
        )
    if isinstance(one, CogUpstreamSettings):
        return CogUpstream(
            CogSpec(
                name=one.name,
                urls=one.urls,
                slots=one.slots,
                deadline_s=one.deadline_s,
                queue_limit=one.queue_limit,
                revision=one.revision,
                progress_url=one.progress_url,
                tells_progress=one.live_progress,
            ),
            memory=storage.notes,
            desk=desk,
        )
    return LocalCog(
        _local_spec(one),
        environments_dir=settings.data_dir / "envs",
        run_dir=settings.data_dir / "run" / one.name,
        memory=storage.notes,
        desk=desk,
    )


def _local_spec(one: LocalUpstreamSettings) -> LocalCogSpec:
    model_dir = one.path or demo_model_dir()
    if not (model_dir / "cog.yaml").is_file():
        raise SettingsError(f"upstream.{one.name}.path: {model_dir} has no cog.yaml")
    return LocalCogSpec(
        name=one.name,
        model_dir=model_dir,
        max_copies=one.max_copies,
        idle_timeout_s=one.idle_timeout_s,
        boot_deadline_s=one.boot_deadline_s,
        deadline_s=one.deadline_s,
        queue_limit=one.queue_limit,
        revision=one.revision,
        simulated_download_s=one.simulated_download_s,
        environment=tuple(sorted(one.environment.items())),
        tells_progress=one.live_progress,
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
    return AccessLog(Guard(router, only_names=_own_names(services)), services.metrics, log)


def _own_names(services: Services) -> frozenset[str] | None:
    """Host names that may be asked where the listener is open to everybody on this machine."""
    is_open = not services.settings.auth.tokens and any(not one.has_accounts for one in services.catalog.upstreams)
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
    routes = [
        Route("/livez", Endpoint({"GET": operations.livez})),
        Route("/readyz", Endpoint({"GET": operations.readyz})),
        Route("/metrics", Endpoint({"GET": operations.guarded(operations.metrics)})),
        Route("/_hotplate/status", Endpoint({"GET": operations.guarded(operations.status)})),
        Route("/_hotplate/explain", Endpoint({"POST": operations.guarded(operations.explain)})),
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

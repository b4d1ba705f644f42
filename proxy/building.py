"""Where concrete things are built and handed down. Everything else receives what it needs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from proxy.core.addresses import AddressBook, StreamBook
from proxy.core.entitlement import Groups
from proxy.core.ids import IdMint
from proxy.core.inputs import HostNames
from proxy.core.outputs import OutputAccess
from proxy.core.purging import PurgeLog
from proxy.core.sealing import Sealer
from proxy.core.secrets import Secrets
from proxy.engine.announcements import Announcements
from proxy.engine.books import Books
from proxy.engine.budgets import RunBudgets, WaitingRoom
from proxy.engine.channel import CoreChannel
from proxy.engine.coalescer import Coalescer
from proxy.engine.courier import Courier
from proxy.engine.credentials import Gatekeeper
from proxy.engine.edge_channel import EdgeChannel
from proxy.engine.explaining import Explainer
from proxy.engine.file_inputs import FileInputs
from proxy.engine.handover import Handover
from proxy.engine.history import History
from proxy.engine.ingestor import IngestCounters, Ingestor
from proxy.engine.journal import Journal
from proxy.engine.kill_switch import KillSwitch
from proxy.engine.listing import Listing
from proxy.engine.lives import Lives
from proxy.engine.lookup import Lookup
from proxy.engine.notices import Notices
from proxy.engine.observer import Observer
from proxy.engine.ongoing import Ongoing
from proxy.engine.parcels import ParcelRows
from proxy.engine.past import Past
from proxy.engine.policies import PolicyDesk, price_of
from proxy.engine.predictor import Predictor
from proxy.engine.preparation import Preparation
from proxy.engine.purging import Purging
from proxy.engine.recent import RecentPredictions
from proxy.engine.reload import Reload
from proxy.engine.remains import Remains
from proxy.engine.remote_files import RemoteFiles
from proxy.engine.renderer import Renderer
from proxy.engine.resumption import Resumption
from proxy.engine.rows import RowWriter
from proxy.engine.runs import Runs
from proxy.engine.spool import Spool
from proxy.engine.streams import Streams
from proxy.engine.topics import ToldBooks, ToldHistory, ToldMetrics, ToldRecent, announce, collect, follow, heed, share
from proxy.engine.uploads import Uploads
from proxy.engine.views import Views
from proxy.engine.webhook_secrets import WebhookSecrets
from proxy.metrics import Metrics
from proxy.services import Services
from proxy.settings import Settings
from proxy.upstreams.addresses import parse_origin
from proxy.upstreams.base import Credential, Outcome, Upstream
from proxy.upstreams.catalog import Catalog
from proxy.upstreams.egress import Egress
from proxy.upstreams.hook_desk import HookDesk
from proxy.upstreams.news_desk import NewsDesk
from proxy.upstreams.replicate import ReplicateUpstream
from storage.opening import Storage

TEMPLATES_SHARE = 0.5
"""Part of ``storage.memory_bytes`` that ready answers get; the store keeps hot records and blobs in the rest."""


@dataclass(frozen=True, slots=True)
class Edge:
    """What makes a process an edge: its line to the core, and its share of the serials in ids."""

    channel: EdgeChannel
    lane: int


def build_services(
    settings: Settings,
    base_url: str,
    secrets: Secrets,
    storage: Storage,
    catalog: Catalog,
    egress: Egress,
    desk: NewsDesk,
    hook_desk: HookDesk,
    edge: Edge | None = None,
) -> Services:
    """Everything that handlers use, in front of the upstreams of ``catalog``; ``edge``: for a process that is one."""
    names = tuple(upstream.name for upstream in catalog.upstreams)
    metrics = Metrics(names) if edge is None else ToldMetrics(edge.channel, names)
    metrics.export("hotplate_storage_", storage.counters.snapshot)
    metrics.export("hotplate_upstream_webhooks_", hook_desk.counters)
    spool = Spool(settings.cache.spool_bytes, time.time)
    addresses, stream_book = AddressBook(secrets), StreamBook(secrets)
    coalescer = Coalescer()
    metrics.flights.set_function(lambda: float(len(coalescer)))
    limits = settings.limits
    budgets = RunBudgets(
        max_runs=limits.max_runs_per_caller, per_minute=limits.new_runs_per_minute_per_caller, now=time.monotonic
    )
    waiting = WaitingRoom(max_waiters=limits.max_waiters, max_each=limits.max_waiters_per_run)
    policy_desk = PolicyDesk(settings.policy_book(), is_enabled=settings.cache.enabled)
    rows = RowWriter(storage.ledger)
    books = (
        Books(
            rows,
            lambda upstream, model: price_of(policy_desk.book, model),
            time.time,
            used_bytes=storage.used_bytes,
            storage_price=settings.money.storage_price_per_gb_month,
        )
        if edge is None
        else ToldBooks(edge.channel, storage, time.time)
    )
    metrics.export_money(tuple(upstream.name for upstream in catalog.upstreams), books.since_start)
    journal = Journal(rows)
    ongoing = Ongoing(rows, Sealer(secrets))
    purges = PurgeLog()
    remains = Remains(rows, Sealer(secrets), storage.blobs, purges)
    history = History(storage.ledger, time.time) if edge is None else ToldHistory(edge.channel, storage, time.time)
    gatekeeper = Gatekeeper(
        secrets,
        [token.get_secret_value() for token in settings.auth.tokens],
        settings.auth.accept_for_s,
        time.monotonic,
        mode=settings.auth.mode,
        stretch_s=settings.auth.auth_stale_if_error_s,
        groups=Groups.of(settings.auth.groups),
        notes=storage.notes if edge is None else None,
        wall=time.time,
        spent_today=books.spent_today,
        observe_stretched=metrics.observe_stretched,
    )
    for upstream in catalog.upstreams:
        if isinstance(upstream, ReplicateUpstream):
            upstream.on_refusal = partial(_refused, gatekeeper, upstream)
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
    mint = IdMint(secrets, 0 if edge is None else edge.lane, settings.workers.lanes)
    recent = RecentPredictions(time.time) if edge is None else ToldRecent(edge.channel, time.time)
    channel = CoreChannel()
    if edge is None:
        announce(channel, gatekeeper, storage, catalog.upstreams)
        collect(channel, recent, history, books, metrics, storage.counters)
    else:
        follow(edge.channel, gatekeeper, storage)
    streams = Streams(
        recent=recent,
        mint=mint,
        book=stream_book,
        journal=journal,
        results=storage.results,
        remains=remains,
        blobs=storage.blobs,
        ingestor=ingestor,
        renderer=renderer,
        max_listeners=limits.max_waiters,
    )
    runs = Runs(
        results=storage.results,
        ingestor=ingestor,
        renderer=renderer,
        file_inputs=file_inputs,
        gatekeeper=gatekeeper,
        journal=journal,
        ongoing=ongoing,
        remains=remains,
        streams=streams,
        purges=purges,
        observe_run=lambda name, outcome: _observe(metrics, name, outcome),
        books=books,
        now=time.time,
    )
    announcements = Announcements()
    kill_switch = KillSwitch(policy_desk, storage.notes, announcements, time.time)
    metrics.bypass.set_function(lambda: float(kill_switch.is_on))
    preparation = Preparation(file_inputs, gatekeeper, policy_desk)
    lookup = Lookup(runs, gatekeeper, renderer, time.time)
    views = Views(
        results=storage.results,
        renderer=renderer,
        mint=mint,
        recent=recent,
        journal=journal,
        history=history,
        remains=remains,
        streams=streams,
        now=time.time,
    )
    lives = Lives(
        views=views,
        coalescer=coalescer,
        recent=recent,
        journal=journal,
        ongoing=ongoing,
        history=history,
        notices=notices,
        books=books,
        now=time.time,
    )
    predictor = Predictor(
        preparation=preparation,
        lookup=lookup,
        lives=lives,
        runs=runs,
        coalescer=coalescer,
        budgets=budgets,
        waiting=waiting,
        gatekeeper=gatekeeper,
        mint=mint,
        recent=recent,
        history=history,
        books=books,
        now=time.time,
    )
    resumption = Resumption(
        ongoing,
        runs,
        coalescer,
        lives,
        journal,
        policy_desk,
        {upstream.name: upstream for upstream in catalog.upstreams},
        metrics.observe_left_behind,
        time.time,
    )
    reload = Reload(settings, policy_desk, gatekeeper, books, announcements)
    if edge is None:
        share(channel, announcements, kill_switch, reload)
    else:
        heed(edge.channel, announcements)
    return Services(
        settings=settings,
        base_url=base_url,
        catalog=catalog,
        policies=policy_desk,
        preparation=preparation,
        predictor=predictor,
        lives=lives,
        announcements=announcements,
        kill_switch=kill_switch,
        reload=reload,
        purging=Purging(storage, purges, coalescer, recent, mint, announcements, time.time),
        observer=Observer(
            preparation,
            metrics.observe_verdict,
            metrics.observe_would_save,
            lambda upstream, model: price_of(policy_desk.book, model),
            time.time,
            books.would_hit,
        ),
        explainer=Explainer(
            preparation=preparation,
            desk=policy_desk,
            storage=storage,
            coalescer=coalescer,
            gatekeeper=gatekeeper,
            now=time.time,
        ),
        past=Past(policy_desk, storage.results, mint, recent, journal, remains, time.time, catalog.upstreams),
        views=views,
        gatekeeper=gatekeeper,
        addresses=addresses,
        storage=storage,
        spool=spool,
        coalescer=coalescer,
        budgets=budgets,
        waiting=waiting,
        books=books,
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
        hook_desk=hook_desk,
        channel=channel,
        now=time.time,
    )


def _input_access(settings: Settings) -> dict[str, OutputAccess]:
    """By upstream, the origins that the operator named for file inputs."""
    return {
        one.name: OutputAccess(origins=tuple(parse_origin(origin) for origin in one.input_origins))
        for one in settings.upstream
    }


def _refused(gatekeeper: Gatekeeper, upstream: Upstream, token: str) -> None:
    gatekeeper.refuse(upstream, Credential(token))


def _observe(metrics: Metrics, upstream: str, outcome: Outcome) -> None:
    predict_s = outcome.metrics.get("predict_time")
    seconds = predict_s if isinstance(predict_s, (int, float)) else outcome.completed_at - outcome.started_at
    metrics.observe_run(upstream, outcome.status, float(seconds), outcome.boot_s)

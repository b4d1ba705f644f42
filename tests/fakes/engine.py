"""The engine put together over doubles: what ``proxy.building`` builds, without network, disk and clock."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from PIL import Image

from proxy.core.addresses import AddressBook, StreamBook, StreamName
from proxy.core.cache_control import parse_cache_control
from proxy.core.controls import Controls
from proxy.core.ids import IdMint, PredictionId
from proxy.core.inputs import HostNames
from proxy.core.outputs import OutputAccess
from proxy.core.policy import Policy, PolicyBook
from proxy.core.prices import UNPRICED, Price
from proxy.core.purging import PurgeLog
from proxy.core.sealing import Sealer
from proxy.core.secrets import Secrets
from proxy.core.webhooks import WebhookRequest, derive_secret
from proxy.engine.announcements import Announcements
from proxy.engine.books import Books
from proxy.engine.budgets import RunBudgets, WaitingRoom
from proxy.engine.coalescer import Coalescer
from proxy.engine.courier import Courier
from proxy.engine.credentials import Gatekeeper
from proxy.engine.explaining import Explainer
from proxy.engine.file_inputs import FileInputs
from proxy.engine.handover import Handover
from proxy.engine.history import History
from proxy.engine.ingestor import IngestCounters, Ingestor
from proxy.engine.journal import Journal
from proxy.engine.kill_switch import KillSwitch
from proxy.engine.lives import Lives
from proxy.engine.lookup import Lookup
from proxy.engine.notices import Notices
from proxy.engine.ongoing import Ongoing
from proxy.engine.parcels import ParcelRows
from proxy.engine.past import Past
from proxy.engine.policies import PolicyDesk
from proxy.engine.predictor import Hit, Predictor
from proxy.engine.preparation import Preparation
from proxy.engine.purging import Purging
from proxy.engine.recent import RecentPredictions, Running
from proxy.engine.remains import Remains
from proxy.engine.remote_files import RemoteFiles
from proxy.engine.renderer import Renderer
from proxy.engine.resumption import Resumption
from proxy.engine.rows import RowWriter
from proxy.engine.runs import Create, Runs
from proxy.engine.spool import Spool
from proxy.engine.streams import Streams
from proxy.engine.uploads import Uploads
from proxy.engine.views import Views
from proxy.engine.webhook_secrets import Place
from proxy.upstreams.base import Credential, ModelTarget, Outcome, Upstream
from storage.opening import Storage
from storage.records import JsonObject
from storage.results import ResultStore
from tests.fakes.clock import ManualClock
from tests.fakes.stores import MemoryActionCache, MemoryContentStore, MemoryKeyValue, memory_storage
from tests.fakes.upstreams import DELIVERY, FakeEgress, ScriptedUpstream
from tests.fakes.webhooks import Receiver

BASE = "https://images.example.com"
TOKEN = "r8_" + "m" * 37
OTHER_TOKEN = "r8_" + "y" * 37


def png(color: str = "red", size: int = 16) -> bytes:
    """A small real PNG."""
    body = io.BytesIO()
    Image.new("RGB", (size, size), color).save(body, "PNG")
    return body.getvalue()


class Engine:
    """Everything around a ``Predictor``; ``restarted`` gives another one over the same stores and secret."""

    def __init__(
        self,
        *,
        storage: Storage | None = None,
        clock: ManualClock | None = None,
        base_url: str = BASE,
        output_urls: Literal["auto", "url", "data"] = "auto",
        own_tokens: tuple[str, ...] = (),
        cache_enabled: bool = True,
        policies: Sequence[Policy] = (),
        spool_bytes: int = 2**20,
        output_max_bytes: int = 2**20,
        heartbeat_s: float = 15.0,
        max_waiters: int = 1000,
        max_waiters_per_run: int = 1000,
        max_runs: int = 0,
        runs_per_minute: int = 0,
        price: Price = UNPRICED,
    ) -> None:
        self._options: dict[str, Any] = {
            "base_url": base_url,
            "output_urls": output_urls,
            "own_tokens": own_tokens,
            "cache_enabled": cache_enabled,
            "policies": policies,
            "spool_bytes": spool_bytes,
            "output_max_bytes": output_max_bytes,
            "heartbeat_s": heartbeat_s,
            "max_waiters": max_waiters,
            "max_waiters_per_run": max_waiters_per_run,
            "max_runs": max_runs,
            "runs_per_minute": runs_per_minute,
            "price": price,
        }
        self.clock = clock or ManualClock()
        # No memory in front of the stores: what a test does to them is seen at once.
        self.storage = storage or memory_storage(memory_bytes=0, clock=self.clock)
        self.secrets = Secrets.derive(b"s" * 32)
        self.egress = FakeEgress()
        self.egress.serve(f"{DELIVERY}/out-0.png", png())
        self.upstream = ScriptedUpstream(self.clock)
        self.spool = Spool(spool_bytes, self.clock)
        self.addresses = AddressBook(self.secrets)
        self.stream_book = StreamBook(self.secrets)
        self.coalescer = Coalescer()
        self.budgets = RunBudgets(max_runs=max_runs, per_minute=runs_per_minute, now=self.clock)
        self.waiting = WaitingRoom(max_waiters=max_waiters, max_each=max_waiters_per_run)
        rows = RowWriter(self.storage.ledger)
        self.journal = Journal(rows)
        self.books = Books(rows, lambda upstream, model: price, self.clock)
        self.history = History(self.storage.ledger, self.clock)
        self.ongoing = Ongoing(rows, Sealer(self.secrets))
        self.purges = PurgeLog()
        self.remains = Remains(rows, Sealer(self.secrets), self.storage.blobs, self.purges)
        self.left_behind: list[tuple[str, str]] = []
        self.gatekeeper = Gatekeeper(self.secrets, own_tokens, 300.0, self.clock)
        self.recent = RecentPredictions(self.clock)
        self.runs: list[Outcome] = []
        self.spooled = self.left = 0
        self.renderer = Renderer(
            base_url,
            output_urls,
            2**20,
            self.addresses,
            self.storage.blobs,
            self.spool,
            memory_bytes=2**20,
            streams=self.stream_book,
        )
        self.ingestor = Ingestor(
            self.storage.blobs,
            self.spool,
            self.egress,  # type: ignore[arg-type]
            output_max_bytes,
            IngestCounters(spooled=self._count_spooled, left=self._count_left),
        )
        mint = IdMint(self.secrets)
        self.streams = Streams(
            recent=self.recent,
            mint=mint,
            book=self.stream_book,
            journal=self.journal,
            results=self.storage.results,
            remains=self.remains,
            blobs=self.storage.blobs,
            ingestor=self.ingestor,
            renderer=self.renderer,
            max_listeners=100,
            heartbeat_s=heartbeat_s,
        )
        self.uploads = Uploads(self.storage.notes, self.storage.blobs, self.clock)
        self.remote = RemoteFiles(self.egress, self.storage.notes, {})  # type: ignore[arg-type]
        self.file_inputs = FileInputs(
            base_url=base_url,
            addresses=self.addresses,
            blobs=self.storage.blobs,
            spool=self.spool,
            uploads=self.uploads,
            remote=self.remote,
            handover=Handover(self.storage.blobs, self.uploads),
            gatekeeper=self.gatekeeper,
            by_url=HostNames(("static.example.com",)),
            hashes_remote=True,
        )
        self.receiver = Receiver()
        self.courier = Courier(
            ParcelRows(self.storage.ledger, Sealer(self.secrets)),
            self.receiver,
            OutputAccess(),
            self._signing,
            10.0,
            lambda outcome: None,
            self.clock,
        )
        self.notices = Notices(self.courier, base_url, self.clock)
        self.flights = Runs(
            results=self.storage.results,
            ingestor=self.ingestor,
            renderer=self.renderer,
            file_inputs=self.file_inputs,
            gatekeeper=self.gatekeeper,
            journal=self.journal,
            ongoing=self.ongoing,
            remains=self.remains,
            streams=self.streams,
            purges=self.purges,
            observe_run=lambda name, outcome: self.runs.append(outcome),
            books=self.books,
            now=self.clock,
        )
        self.desk = PolicyDesk(PolicyBook(policies), is_enabled=cache_enabled)
        self.announcements = Announcements()
        self.kill_switch = KillSwitch(self.desk, self.storage.notes, self.announcements, self.clock)
        self.purging = Purging(
            self.storage, self.purges, self.coalescer, self.recent, mint, self.announcements, self.clock
        )
        self.preparation = Preparation(self.file_inputs, self.gatekeeper, self.desk)
        self.lookup = Lookup(self.flights, self.gatekeeper, self.renderer, self.clock)
        self.views = Views(
            results=self.storage.results,
            renderer=self.renderer,
            mint=mint,
            recent=self.recent,
            journal=self.journal,
            history=self.history,
            remains=self.remains,
            streams=self.streams,
            now=self.clock,
        )
        self.lives = Lives(
            views=self.views,
            coalescer=self.coalescer,
            recent=self.recent,
            journal=self.journal,
            ongoing=self.ongoing,
            history=self.history,
            notices=self.notices,
            books=self.books,
            now=self.clock,
        )
        self.predictor = Predictor(
            preparation=self.preparation,
            lookup=self.lookup,
            lives=self.lives,
            runs=self.flights,
            coalescer=self.coalescer,
            budgets=self.budgets,
            waiting=self.waiting,
            gatekeeper=self.gatekeeper,
            mint=mint,
            recent=self.recent,
            history=self.history,
            books=self.books,
            now=self.clock,
        )
        self.explainer = Explainer(
            preparation=self.preparation,
            desk=self.desk,
            storage=self.storage,
            coalescer=self.coalescer,
            gatekeeper=self.gatekeeper,
            now=self.clock,
        )
        self.past = Past(
            self.desk,
            self.storage.results,
            mint,
            self.recent,
            self.journal,
            self.remains,
            self.clock,
            [self.upstream],
        )
        self.resumption = Resumption(
            self.ongoing,
            self.flights,
            self.coalescer,
            self.lives,
            self.journal,
            self.desk,
            {self.upstream.name: self.upstream},
            lambda name, how: self.left_behind.append((name, how)),
            self.clock,
        )

    @property
    def actions(self) -> MemoryActionCache:
        assert isinstance(self.storage.actions, MemoryActionCache)
        return self.storage.actions

    @property
    def blobs(self) -> MemoryContentStore:
        assert isinstance(self.storage.blobs, MemoryContentStore)
        return self.storage.blobs

    @property
    def ledger(self) -> MemoryKeyValue:
        assert isinstance(self.storage.ledger, MemoryKeyValue)
        return self.storage.ledger

    async def restarted(self, **options: Any) -> Engine:
        """A new process over the same stores, clock and secret; memory is empty, runs on their way are lost."""
        await self.journal.drain()
        await self.history.drain()
        results = ResultStore(self.storage.actions, self.storage.blobs, self.storage.counters, memory_bytes=0)
        storage = replace(self.storage, results=results)
        return Engine(storage=storage, clock=self.clock, **{**self._options, **options})

    def request(
        self,
        given: JsonObject | None = None,
        *,
        token: str | None = TOKEN,
        cache_control: str | None = None,
        controls: Controls | None = None,
        upstream: Upstream | None = None,
        wants_s: float = 0.0,
        target: ModelTarget | None = None,
        deadline_s: float | None = None,
        webhook: WebhookRequest | None = None,
    ) -> Create:
        """A create request, resolved."""
        asked = upstream or self.upstream
        credential = Credential(token) if token is not None else None
        return Create(
            upstream=asked,
            target=target or ModelTarget("acme", "pixel"),
            given={"prompt": "a red fox"} if given is None else given,
            credential=credential,
            scope=self.gatekeeper.scope_of(asked, credential),
            wants_s=wants_s,
            controls=controls or Controls(parse_cache_control(cache_control)),
            deadline_s=deadline_s,
            webhook=webhook,
        )

    def stream_name(self, prediction: Running | PredictionId) -> StreamName:
        """What the address of a prediction's stream names; of an id alone, for the usual caller's results."""
        if isinstance(prediction, Running):
            prediction_id, scope = prediction.id, prediction.results_scope
        else:
            prediction_id, scope = prediction, self.gatekeeper.results_scope(self.upstream, Credential(TOKEN))
        name = self.stream_book.verify(self.stream_book.path(prediction_id, scope, makes_files=False)[-59:])
        assert name is not None
        return name

    async def create(self, given: JsonObject | None = None, **how: Any) -> Hit | Running:
        """Create a prediction."""
        return await self.predictor.create(self.request(given, **how))

    async def run(self, given: JsonObject | None = None, **how: Any) -> Running:
        """Create a prediction that must be a miss, and wait for its end."""
        entry = await self.create(given, **how)
        assert isinstance(entry, Running)
        await entry.flight.finished(10)
        return entry

    async def _signing(self, place: Place) -> tuple[str, ...]:
        return (derive_secret(self.secrets, place.scope),)

    def _count_spooled(self) -> None:
        self.spooled += 1

    def _count_left(self) -> None:
        self.left += 1

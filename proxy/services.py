"""The typed bundle that handlers use; built once in ``proxy.building``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.core.addresses import AddressBook, StreamBook
from proxy.core.entitlement import Visitor
from proxy.core.errors import NotFound, Unauthenticated
from proxy.core.outputs import OutputAccess
from proxy.engine.announcements import Announcements
from proxy.engine.books import Books
from proxy.engine.budgets import RunBudgets, WaitingRoom
from proxy.engine.channel import CoreChannel
from proxy.engine.coalescer import Coalescer
from proxy.engine.courier import Courier
from proxy.engine.credentials import Gatekeeper
from proxy.engine.explaining import Explainer
from proxy.engine.history import History
from proxy.engine.journal import Journal
from proxy.engine.kill_switch import KillSwitch
from proxy.engine.listing import Listing
from proxy.engine.lives import Lives
from proxy.engine.notices import Notices
from proxy.engine.observer import Observer
from proxy.engine.past import Past
from proxy.engine.policies import PolicyDesk
from proxy.engine.predictor import Predictor
from proxy.engine.preparation import Preparation
from proxy.engine.purging import Purging
from proxy.engine.reload import Reload
from proxy.engine.resumption import Resumption
from proxy.engine.spool import Spool
from proxy.engine.streams import Streams
from proxy.engine.uploads import Uploads
from proxy.engine.views import Views
from proxy.engine.webhook_secrets import WebhookSecrets
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.upstreams.base import Credential, Upstream
from proxy.upstreams.catalog import Catalog
from proxy.upstreams.hook_desk import HookDesk
from proxy.upstreams.news_desk import NewsDesk
from storage.opening import Storage


@dataclass(frozen=True, slots=True)
class Services:
    """What a handler may use.

    Attributes:
        base_url: the public address of this proxy, without ``/v1``.
        catalog: which upstream serves which model.
        desk: where model servers tell how runs go.
        hook_desk: where APIs tell it.
        channel: tells the other processes of this proxy, where there are any.
        webhook_access: the origins that webhooks may go to although they are private or plain http.
    """

    settings: Settings
    base_url: str
    catalog: Catalog
    policies: PolicyDesk
    preparation: Preparation
    predictor: Predictor
    lives: Lives
    announcements: Announcements
    kill_switch: KillSwitch
    reload: Reload
    purging: Purging
    explainer: Explainer
    past: Past
    observer: Observer
    views: Views
    gatekeeper: Gatekeeper
    addresses: AddressBook
    storage: Storage
    spool: Spool
    coalescer: Coalescer
    budgets: RunBudgets
    waiting: WaitingRoom
    books: Books
    journal: Journal
    history: History
    listing: Listing
    uploads: Uploads
    resumption: Resumption
    streams: Streams
    stream_book: StreamBook
    webhook_secrets: WebhookSecrets
    webhook_access: OutputAccess
    courier: Courier
    notices: Notices
    metrics: Metrics
    desk: NewsDesk
    hook_desk: HookDesk
    channel: CoreChannel
    now: Callable[[], float]

    async def visits(self, credential: Credential | None) -> list[tuple[Upstream, Visitor]]:
        """Every upstream at which this caller may be somebody, and who it is there.

        A credential is told to no upstream that has not heard of it: its account is asked for where it is at home.

        Raises:
            Unauthenticated: it is nobody anywhere.
        """
        found: list[tuple[Upstream, Visitor]] = []
        refusal: Unauthenticated | None = None
        home = await self.home(credential)
        for upstream in self.catalog.upstreams:
            know = self.gatekeeper.identify if upstream is home else self.gatekeeper.recognise
            try:
                found.append((upstream, await know(upstream, credential)))
            except Unauthenticated as error:
                refusal = refusal or error
        if not found:
            raise refusal or NotFound("there is no model service")
        return found

    async def home(self, credential: Credential | None) -> Upstream | None:
        """The API to which what Hotplate does not handle goes for this caller: the first that has ever accepted its
        credential, else the first of all; ``None`` where there is none with accounts, and for Hotplate's own tokens."""
        apis = [upstream for upstream in self.catalog.upstreams if upstream.has_accounts]
        if credential is not None and self.gatekeeper.is_own(credential):
            return None
        if len(apis) > 1 and credential is not None:
            for upstream in apis:
                if await self.gatekeeper.is_known(upstream, credential):
                    return upstream
        return apis[0] if apis else None

    def answers_itself(self, credential: Credential | None) -> bool:
        """Whether there is no API behind that could tell this caller of models and accounts: there is none at all, or
        the token is one of Hotplate's own, which is told to nobody.

        Raises:
            Unauthenticated: the caller is nobody here.
        """
        is_own = credential is not None and self.gatekeeper.is_own(credential)
        if not is_own and any(upstream.has_accounts for upstream in self.catalog.upstreams):
            return False
        refusal: Unauthenticated | None = None
        for upstream in self.catalog.upstreams:
            try:
                self.gatekeeper.scope_of(upstream, credential)
                return True
            except Unauthenticated as error:
                refusal = refusal or error
        raise refusal or NotFound("there is no model service")

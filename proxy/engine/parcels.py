"""Deliveries of webhooks, and the rows that let the last one of each prediction outlive the process.

A row holds the whole delivery, since what it tells may be gone from the cache when it is made. It is sealed: its body
has the prompt, its address often a password.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
import structlog

from proxy.core.ids import PredictionId
from proxy.core.sealing import Sealer, Unsealable
from proxy.core.webhooks import WebhookEvent, name_delivery
from proxy.engine.webhook_secrets import Place
from storage.digest import Scope
from storage.ports import KeyValue
from storage.records import JsonObject

KEEP_S = 3 * 86_400.0
"""How long a row lives: the retries of a day, and a proxy that stood still over a weekend."""

_PREFIX = "hook:"

_log = structlog.get_logger("hotplate.webhooks")


@dataclass(frozen=True, slots=True)
class Parcel:
    """One delivery: what goes where.

    Attributes:
        place: whose secrets sign it.
    """

    prediction_id: PredictionId
    event: WebhookEvent
    url: str = field(repr=False)
    body: bytes = field(repr=False)
    place: Place

    @property
    def id(self) -> str:
        """Its ``webhook-id``."""
        return name_delivery(self.prediction_id, self.event, self.body)


@dataclass(frozen=True, slots=True)
class KeptParcel:
    """A parcel as a row tells it: with the attempts that failed, and when the next is due (epoch seconds)."""

    parcel: Parcel
    attempts: int
    due_at: float


class ParcelRows:
    """One row for each prediction whose end is still to be told."""

    def __init__(self, rows: KeyValue, sealer: Sealer) -> None:
        self._rows = rows
        self._sealer = sealer

    async def keep(self, kept: KeptParcel) -> None:
        """Write or replace the row; it survives the end of the process once this returns.

        Raises:
            StorageError: it is not written.
        """
        parcel = kept.parcel
        row: JsonObject = {
            "prediction": parcel.prediction_id,
            "event": parcel.event,
            "url": parcel.url,
            "body": parcel.body.decode(),
            "upstream": parcel.place.upstream,
            "scope": parcel.place.scope.hex(),
            "attempts": kept.attempts,
            "due_at": kept.due_at,
        }
        name = _PREFIX + parcel.prediction_id
        await self._rows.put(name, self._sealer.seal(orjson.dumps(row), name), KEEP_S)

    async def read(self, prediction_id: PredictionId) -> KeptParcel | None:
        """The row of a prediction, ``None`` when it is not there or the store is away."""
        sealed = await self._rows.get(_PREFIX + prediction_id)
        return self._open(_PREFIX + prediction_id, sealed) if sealed is not None else None

    async def forget(self, prediction_id: PredictionId) -> None:
        """Remove the row.

        Raises:
            StorageError: it may still be there.
        """
        await self._rows.remove(_PREFIX + prediction_id)

    async def all(self, take: Callable[[KeptParcel], None]) -> None:
        """Give every row to ``take``. Those of another secret's server are left to end by themselves."""
        for name, sealed in await self._rows.scan(_PREFIX):
            kept = self._open(name, sealed)
            if kept is not None:
                take(kept)

    def _open(self, name: str, sealed: bytes) -> KeptParcel | None:
        try:
            row: JsonObject = orjson.loads(self._sealer.open(sealed, name))
        except Unsealable:
            _log.warning("webhook_row_unreadable")
            return None
        place = Place(row["upstream"], Scope(bytes.fromhex(row["scope"])))
        parcel = Parcel(PredictionId(row["prediction"]), row["event"], row["url"], row["body"].encode(), place)
        return KeptParcel(parcel, row["attempts"], row["due_at"])

"""What must outlive a restart about predictions that have no stored result.

A stored result needs nothing here: its record says it all. For the rest one small row a run is written behind
the answer: that it was started, and how it ended. After a crash a row that still says "running" means that the
run was lost with the process, unless ``ongoing`` brought it back, and its prediction is shown as failed rather than
as unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import orjson

from proxy.core.ids import IdParts, PredictionId
from proxy.core.predictions import Prediction, Status, known_end
from proxy.engine.rows import RowWriter
from proxy.upstreams.base import ModelDescription, Outcome
from storage.digest import RecordId, Scope
from storage.records import JsonObject

KEEP_S = 30 * 86_400.0
"""As long as a prediction is listed, so that a list tells how each of them ended."""

INTERRUPTED = "Hotplate was restarted while this prediction was running; create it again."


class Journal:
    """Rows about runs and about cancelled predictions. Writing never fails a request."""

    def __init__(self, rows: RowWriter) -> None:
        self._rows = rows

    def started(self, record_id: RecordId, scope: Scope, described: ModelDescription, at: float) -> None:
        """A run has been taken by its upstream; ``scope`` is that of its result, which several owners may share."""
        self._write(_run(record_id), {**_about(scope, described, at), "status": "running"})

    def ended(
        self,
        record_id: RecordId,
        scope: Scope,
        described: ModelDescription,
        at: float,
        outcome: Outcome,
        is_stored: bool,
    ) -> None:
        """A run has ended; for a stored one the row merely stops saying "running"."""
        row = {**_about(scope, described, at), "status": outcome.status}
        if not is_stored:
            row |= {
                "error": outcome.error,
                "logs": outcome.logs,
                "started_at": outcome.started_at,
                "completed_at": outcome.completed_at,
                "metrics": outcome.metrics,
            }
        self._write(_run(record_id), row)

    def cancel(self, prediction: Prediction) -> asyncio.Task[bool]:
        """One client has cancelled its prediction, or its deadline is over; the task ends when that is written."""
        row: JsonObject = {
            "model": prediction.model,
            "version": prediction.version,
            "deployment": prediction.deployment,
            "created_at": prediction.created_at,
            "completed_at": prediction.completed_at,
            "logs": prediction.logs,
            "status": prediction.status,
        }
        return self._write(f"canceled:{prediction.id}", row)

    async def canceled(self, prediction_id: PredictionId) -> Prediction | None:
        """The prediction, if its client cancelled it. The caller has checked that the id is its own."""
        row = await self._read(f"canceled:{prediction_id}")
        if row is None:
            return None
        return Prediction(
            id=prediction_id,
            model=row["model"],
            version=row["version"],
            input={},
            status=row.get("status", "canceled"),
            created_at=row["created_at"],
            started_at=None if row.get("status") == "aborted" else row["created_at"],
            completed_at=row["completed_at"],
            logs=row["logs"],
            deployment=row.get("deployment"),
        )

    async def find(self, prediction_id: PredictionId, parts: IdParts, may_see: Collection[Scope]) -> Prediction | None:
        """A prediction without a stored result: failed, lost, or with its data removed.

        ``may_see``: whose results its caller may see; a run's number may have been given anew since.
        """
        row = await self._read(_run(parts.record_id))
        if row is None or Scope(bytes.fromhex(row["scope"])) not in may_see or not parts.may_name(row["created_at"]):
            return None
        # A deadline that is over has a row of its own, so this is the end of the run for all others who shared it.
        status: Status = "failed" if row["status"] == "running" else known_end(row["status"])
        return Prediction(
            id=prediction_id,
            model=row["model"],
            version=row["version"],
            input={},
            status=status,
            created_at=parts.created_at,
            started_at=row.get("started_at", parts.created_at),
            completed_at=row.get("completed_at", parts.created_at),
            error=INTERRUPTED if row["status"] == "running" else row.get("error"),
            logs=row.get("logs", ""),
            metrics=row.get("metrics", {}),
            is_data_removed=status == "succeeded",
            deployment=row.get("deployment"),
        )

    async def scope_of(self, record_id: RecordId) -> Scope | None:
        """Whose result the run was to give."""
        row = await self._read(_run(record_id))
        return Scope(bytes.fromhex(row["scope"])) if row is not None else None

    async def drain(self) -> None:
        """Wait until everything said so far is written."""
        await self._rows.drain()

    async def _read(self, name: str) -> JsonObject | None:
        data = await self._rows.get(name)
        return orjson.loads(data) if data is not None else None

    def _write(self, name: str, row: JsonObject) -> asyncio.Task[bool]:
        return self._rows.put(name, orjson.dumps(row), KEEP_S)


def _run(record_id: RecordId) -> str:
    return f"run:{record_id:010x}"


def _about(scope: Scope, described: ModelDescription, at: float) -> JsonObject:
    return {
        "scope": scope.hex(),
        "model": described.model,
        "version": described.version,
        "deployment": described.deployment,
        "created_at": at,
    }

"""Predictions as they are now, shown to their own scope: those on their way, stored, ended otherwise, or forgotten.

An id says where its result is, so a stored one is found on any worker after any restart. Before that comes what memory
knows of a prediction, and behind it the notes: that its client cancelled it, how its run ended, that it was listed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from proxy.core.ids import CLOCK_TOLERANCE_S, IdMint, IdParts, PredictionId
from proxy.core.predictions import Prediction, known_end
from proxy.engine.history import History, Label
from proxy.engine.journal import Journal
from proxy.engine.recent import RecentPredictions, Running
from proxy.engine.remains import Remains
from proxy.engine.renderer import OutputGone, Renderer
from proxy.engine.streams import Streams
from proxy.upstreams.base import HIDDEN
from storage.digest import Scope
from storage.records import JsonObject, JsonValue, ResultRecord
from storage.results import ResultStore

NOT_YOURS = "This prediction shared a run whose result its caller may not see any more."


class Views:
    """Finds and shows predictions. Changes nothing."""

    def __init__(
        self,
        *,
        results: ResultStore,
        renderer: Renderer,
        mint: IdMint,
        recent: RecentPredictions,
        journal: Journal,
        history: History,
        remains: Remains,
        streams: Streams,
        now: Callable[[], float],
    ) -> None:
        self._results = results
        self._renderer = renderer
        self._mint = mint
        self._recent = recent
        self._journal = journal
        self._history = history
        self._remains = remains
        self._streams = streams
        self._now = now

    def is_own(self, prediction_id: str, scope: Scope) -> bool:
        """Whether an id was made here for ``scope``; says nothing of what has become of it."""
        return self._mint.read(prediction_id, scope) is not None

    async def find(
        self, prediction_id: str, scope: Scope, entitled: Collection[Scope] = (), *, in_list: bool = False
    ) -> Prediction | None:
        """The prediction as it is now, or ``None`` when this scope has none of that id here.

        ``entitled``: whose results its caller may see now, besides the scope's own. An id alone proves nothing of a
        result: its number may have been given anew since, and who made it may have left a group.
        ``in_list`` shows files as addresses, since many predictions make up one answer then. One of which nothing is
        left but its id is shown as Replicate shows one whose data were removed.
        """
        may_see = {scope, *entitled}
        entry = self._recent.running(prediction_id, scope)
        if entry is not None:
            shown = await self.of(entry, in_list=in_list)
            return shown if entry.results_scope in may_see else _without_data(shown)
        parts = self._mint.read(prediction_id, scope)
        if parts is None or parts.created_at > self._now() + CLOCK_TOLERANCE_S:
            return None
        own_id = PredictionId(prediction_id)
        canceled = await self._journal.canceled(own_id)
        if canceled is not None:
            return canceled
        record = await self._results.find_complete(parts.record_id) or await self._remains.find(parts.record_id)
        if record is None or record.scope not in may_see or not parts.may_name(record.created_at):
            return await self._without_result(own_id, parts, scope, may_see)
        shared_the_run = parts.created_at < record.completed_at
        try:
            output = await self._renderer.output(record, as_addresses=in_list)
        except OutputGone:
            return await self._without_result(own_id, parts, scope, may_see)
        own_input = self._recent.served_input(prediction_id, scope)
        return Prediction(
            id=own_id,
            model=record.model,
            version=record.version,
            input=own_input if own_input is not None else record.input,
            status="succeeded",
            created_at=parts.created_at,
            started_at=max(record.started_at, parts.created_at) if shared_the_run else parts.created_at,
            completed_at=record.completed_at if shared_the_run else parts.created_at,
            output=output,
            logs=record.logs,
            metrics=record.metrics,
            deployment=record.deployment,
            stream_url=self._renderer.record_stream_url(own_id, record),
        )

    async def _without_result(
        self, prediction_id: PredictionId, parts: IdParts, scope: Scope, may_see: Collection[Scope]
    ) -> Prediction:
        found = await self._journal.find(prediction_id, parts, may_see)
        if found is not None:
            return found
        entry = await self._history.find(scope, prediction_id)
        label = entry.label if entry is not None else Label("", HIDDEN)
        return Prediction(
            id=prediction_id,
            model=label.model,
            version=label.version,
            input={},
            status="succeeded",
            created_at=parts.created_at,
            started_at=parts.created_at,
            completed_at=parts.created_at,
            is_data_removed=True,
            deployment=label.deployment,
        )

    def begun(
        self, prediction_id: PredictionId, record: ResultRecord, given: JsonObject, created_at: float
    ) -> Prediction:
        """A prediction that ``record`` answers, as a create that does not wait for it is answered."""
        return Prediction(
            id=prediction_id,
            model=record.model,
            version=record.version,
            input=given,
            status="starting",
            created_at=created_at,
            deployment=record.deployment,
            stream_url=self._renderer.record_stream_url(prediction_id, record),
        )

    async def of(self, entry: Running, *, in_list: bool = False) -> Prediction:
        """A prediction that made or shares a run, as it is now."""
        flight, progress = entry.flight, entry.flight.progress
        stream_url = self._streams.url(entry)
        if entry.canceled_at is not None:
            return replace(as_canceled(entry), stream_url=stream_url)
        base = replace(_as_begun(entry), stream_url=stream_url)
        landed = flight.landed
        if landed is None:
            flight.watch()
            if progress is None or progress.status == "starting":
                return base
            started_at = max(progress.at, entry.created_at)
            output = await self._output_so_far(entry, in_list=in_list)
            return replace(base, status="processing", started_at=started_at, output=output)
        outcome, output, is_removed = landed.outcome, None, False
        if landed.record is not None:
            base = replace(base, model=landed.record.model)
            # This entry may outlive its files: those that were not stored are kept for an hour at most.
            is_removed = not await self._renderer.are_here(landed.record.files)
            try:
                if not is_removed:
                    output = await self._renderer.output(landed.record, landed.left_urls, as_addresses=in_list)
            except OutputGone:
                is_removed = True
        return replace(
            base,
            status=known_end(outcome.status) if entry.deadline_at is None else outcome.status,
            output=output,
            is_data_removed=is_removed,
            error=outcome.error,
            logs=outcome.logs,
            metrics=outcome.metrics,
            started_at=max(outcome.started_at, entry.created_at),
            completed_at=max(outcome.completed_at, entry.created_at),
        )

    async def _output_so_far(self, entry: Running, *, in_list: bool) -> JsonValue:
        """As far as it can be shown; ``None`` while nothing can."""
        partials = entry.flight.partials
        if partials is None:
            return None
        output, files = partials.shown()
        try:
            return await self._renderer.fill(output, files, entry.results_scope, as_addresses=in_list)
        except OutputGone:
            return None

    def links(self, record: ResultRecord) -> str:
        """The ``Link`` header of a result."""
        return self._renderer.links(record)


def _without_data(prediction: Prediction) -> Prediction:
    """A prediction as it is shown to somebody who is its owner and may not see its result."""
    is_over = prediction.is_terminal
    error = NOT_YOURS if prediction.error is not None else None
    bare = replace(prediction, input={}, output=None, error=error, logs="", metrics={}, stream_url=None)
    return replace(bare, is_data_removed=is_over)


def _as_begun(entry: Running) -> Prediction:
    """A prediction whose run has not started, with what is known of it."""
    progress = entry.flight.progress
    return Prediction(
        id=entry.id,
        model=(progress.model if progress else None) or entry.model,
        version=entry.version,
        input=entry.input,
        status="starting",
        created_at=entry.created_at,
        deadline_at=entry.deadline_at,
        web_url=progress.web_url if progress else None,
        logs=progress.logs if progress else "",
        deployment=entry.deployment,
    )


def as_canceled(entry: Running) -> Prediction:
    """A prediction that was over before its run."""
    return replace(
        _as_begun(entry),
        status="aborted" if entry.is_aborted else "canceled",
        started_at=None if entry.is_aborted else entry.created_at,
        completed_at=entry.canceled_at,
    )

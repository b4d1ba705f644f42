"""The ledger: counts runs that were made and runs that were spared, in memory, and writes behind.

Counting is synchronous, costs about a microsecond and never fails. What changed is written a second later, one row for
each account (``money:<day>:<scope>:<upstream>:<model>``) with its sums so far, and at the end. A process that is killed
loses at most that second, and nothing is counted twice: the rows are written in one order with those that say which
runs and predictions are still on their way, so what the next process takes up is not in the sums yet. A day goes on
after a restart.

What the kinds mean is in ``core/money``; how one run is shared among its predictions, in ``core/tally``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import orjson
import structlog

from proxy.core.money import (
    MAX_DAYS,
    SPENT,
    Account,
    Kind,
    Line,
    Name,
    Selection,
    add_lines,
    decode_lines,
    encode_lines,
    report,
    sum_of,
)
from proxy.core.prices import PriceOf, cost, storage_cost
from proxy.engine.coalescer import Flight
from proxy.engine.recent import Running
from proxy.engine.rows import RowWriter
from proxy.upstreams.base import DEPLOYMENTS, ModelDescription, ModelTarget
from storage.digest import Scope
from storage.records import JsonObject, ResultRecord, compute_s

FORMAT = 1
"""Of the rows."""

KEEP_S = MAX_DAYS * 86_400.0
FLUSH_S = 1.0
RETRY_S = 5.0
BATCH = 32
"""Rows that are queued at a time. One by one, each would wait behind all that others have to write, on a busy disk for
seconds; many more would hold up the event loop while they are encoded."""

FLUSH_SHARE = 0.1
"""Part of the time that writing may take: with very many accounts rows are written less often."""

STOCK_S = 60.0
"""How often it is looked how much lies on the disk."""

MAX_ACCOUNTS = 2000
"""Accounts of one day. Whatever comes after these is counted under the model ``other`` of no scope."""

MAX_SPENDERS = 100_000
"""Scopes of which it is known what they have spent today."""

OTHER = "other"
NOBODY = Scope(bytes(32))

_MADE: Mapping[str, Kind] = {
    "succeeded": "made_succeeded",
    "failed": "made_failed",
    "canceled": "made_canceled",
    "aborted": "made_aborted",
}
_HOUR_S = 3600.0
_GB = 1e9

_log = structlog.get_logger("hotplate.books")


class Books:
    """Belongs to one event loop and one process."""

    def __init__(
        self,
        rows: RowWriter,
        price_of: PriceOf,
        now: Callable[[], float],
        *,
        used_bytes: Callable[[], int] = lambda: 0,
        storage_price: float = 0.0,
        max_accounts: int = MAX_ACCOUNTS,
    ) -> None:
        """Args:
        used_bytes: how much lies on the disk now.
        storage_price: of a gigabyte for a month.
        """
        self._rows = rows
        self._price_of = price_of
        self._now = now
        self._used_bytes = used_bytes
        self._storage_price = storage_price
        self._max_accounts = max_accounts
        self._accounts: dict[tuple[str, str, Scope], Account] = {}
        self._unwritten: deque[Account] = deque()
        self._before: dict[str, dict[Kind, Line]] = {}
        self._spent: dict[Scope, float] = {}
        self._stock_at = now()
        self._has_news = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._begin_day(self._stock_at)

    async def open(self) -> None:
        """Go on with the day as a former process left it, and write behind from now on."""
        for name, lines in await self._read(self._day):
            account = Account(name, self._price_of(name.upstream, name.model), lines)
            self._accounts[name.upstream, name.model, Scope(bytes.fromhex(name.scope))] = account
            _subtract(self._before.setdefault(name.upstream, {}), lines)
            self._spend(Scope(bytes.fromhex(name.scope)), sum_of(lines, SPENT).money)
        self._stock_at = self._now()
        self._keeping = asyncio.create_task(self._keep())

    async def aclose(self) -> None:
        """Write what is not written yet, once."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        self._take_stock()
        await self._flush()

    # -- counting ----------------------------------------------------------------------------------------

    def hit(self, upstream: str, model: str, scope: Scope, seconds: float, outputs: int, times: int = 1) -> None:
        """Predictions were answered from the store, by a run of ``seconds`` that gave ``outputs``."""
        self._add("hit", upstream, model, scope, seconds, outputs, times)

    def would_hit(self, upstream: str, model: str, scope: Scope, seconds: float, outputs: int) -> None:
        """A policy that only observes kept a prediction from being such a hit."""
        self._add("would_hit", upstream, model, scope, seconds, outputs)

    def run_ended(
        self, kind: Literal["ping", "refresh"], upstream: str, model: str, scope: Scope, seconds: float, outputs: int
    ) -> None:
        """A run that Hotplate made of its own accord, outside of a flight."""
        self._add(kind, upstream, model, scope, seconds, outputs)

    def relayed(self, upstream: str, target: ModelTarget, scope: Scope) -> None:
        """A create was passed through; nobody here sees its end."""
        self._add("relayed", upstream, _named(target), scope, 0.0, 0)

    def unanswered(self, upstream: str, target: ModelTarget, scope: Scope) -> None:
        """A request came to no run, since the upstream could not even be asked what would run."""
        self._add("refused", upstream, _named(target), scope, 0.0, 0)

    def refused(self, upstream: str, described: ModelDescription, scope: Scope, times: int = 1) -> None:
        """Requests came to no run and to no result."""
        self._add("refused", upstream, model_of(described), scope, 0.0, 0, times)

    def left(self, entry: Running) -> None:
        """A prediction is cancelled, before its run has ended."""
        flight = entry.flight
        flight.tally.leave(entry.caller, entry.created_at, has_caused=not entry.is_follower)
        if not flight.was_accepted:
            flight.answered_early -= 1
        if entry.is_follower:
            model = f"{DEPLOYMENTS}{entry.deployment}" if entry.deployment else entry.model or entry.version
            self._add("left", entry.upstream, model, entry.scope, 0.0, 0)

    def landed(self, upstream: str, described: ModelDescription, scope: Scope, flight: Flight) -> None:
        """A flight has ended: its run, and everybody whom that answers."""
        landed, tally = flight.landed, flight.tally
        if landed is None or tally.is_closed:
            return
        if not flight.was_accepted:  # there was no run; whoever was not answered yet hears so, and is counted there
            tally.close()
            self.refused(upstream, described, scope, flight.answered_early)
            return
        shares, record = tally.close(), landed.record
        end = flight.told_end or landed.outcome
        what = (
            upstream,
            model_of(described, record.model if record is not None else end.model),
            scope,
            compute_s(end.metrics, end.started_at, end.completed_at),
            outputs_of(record) if record is not None else flight.told_outputs,
        )
        if flight.was_found:
            self._add("hit", *what, shares.everyone)
            self._add("repeat", *what, shares.repeats)
            return
        self._add("refresh" if tally.kind == "refresh" else _MADE[end.status], *what)
        self._add("shared", *what, shares.sharers)
        if record is None:
            self._add("fruitless", *what, shares.sharers)
        else:
            self._add("repeat", *what, shares.repeats)
            self._add("heir", *what, shares.heirs)

    def reprice(self, price_of: PriceOf) -> None:
        """From now on runs cost what ``price_of`` says."""
        self._price_of = price_of
        for account in self._accounts.values():
            account.price = price_of(account.name.upstream, account.name.model)

    def _add(
        self, kind: Kind, upstream: str, model: str, scope: Scope, seconds: float, outputs: int, times: int = 1
    ) -> None:
        if not times:
            return
        if self._now() >= self._day_ends_at:
            self._end_day()
        account = self._accounts.get((upstream, model, scope))
        if account is None:
            account = self._open_account(upstream, model, scope)
        account.add(kind, seconds, outputs, times)
        if kind in SPENT:
            self._spend(scope, cost(account.price, seconds, outputs) * times)
        if account.is_written:
            self._is_changed(account)

    def _spend(self, scope: Scope, money: float) -> None:
        if scope in self._spent or len(self._spent) < MAX_SPENDERS:
            self._spent[scope] = self._spent.get(scope, 0.0) + money

    def _is_changed(self, account: Account) -> None:
        if account.is_written:
            account.is_written = False
            self._unwritten.append(account)
        self._has_news.set()

    def _open_account(self, upstream: str, model: str, scope: Scope) -> Account:
        price = self._price_of(upstream, model)
        if len(self._accounts) >= self._max_accounts:
            model, scope = OTHER, NOBODY
        account = self._accounts.setdefault(
            (upstream, model, scope), Account(Name(self._day, upstream, scope.hex(), model))
        )
        account.price = price
        return account

    def spent_today(self, scope: Scope) -> float:
        """What the runs that this scope caused since midnight (UTC) have cost; one on its way, once it has ended."""
        if self._now() >= self._day_ends_at:
            self._end_day()
        return self._spent.get(scope, 0.0)

    # -- reading -----------------------------------------------------------------------------------------

    async def report(self, days: int, selection: Selection) -> JsonObject:
        """The sums of the last ``days`` days, today included; see ``money.report``."""
        self._take_stock()
        if self._now() >= self._day_ends_at:
            self._end_day()
        await self._flush()
        today = date.fromisoformat(self._day)
        first = today - timedelta(days=min(days, MAX_DAYS) - 1)
        found: list[tuple[Name, Mapping[Kind, Line]]] = []
        for number in range((today - first).days):
            found += await self._read((first + timedelta(days=number)).isoformat())
            await asyncio.sleep(0)  # each day is read in one go
        found += [(account.name, account.lines) for account in self._accounts.values()]
        used_bytes = self._used_bytes()
        month = used_bytes / _GB * self._storage_price
        return {
            "first_day": first.isoformat(),
            "last_day": today.isoformat(),
            "by": selection.by,
            "storage": {"bytes": used_bytes, "money_per_month": month},
            **report(found, selection),
        }

    def since_start(self) -> dict[str, dict[Kind, Line]]:
        """The sums of this process by upstream, for metrics; ``""`` is what belongs to none."""
        sums = {upstream: dict(lines) for upstream, lines in self._before.items()}
        for account in self._accounts.values():
            add_lines(sums.setdefault(account.name.upstream, {}), account.lines)
        return sums

    # -- days --------------------------------------------------------------------------------------------

    def _begin_day(self, at: float) -> None:
        day = datetime.fromtimestamp(at, UTC).date()
        self._day = day.isoformat()
        # A clock that is set back is not followed: rows of a day gone by are not begun anew.
        self._day_ends_at = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + 86_400.0

    def _end_day(self) -> None:
        for account in self._accounts.values():
            add_lines(self._before.setdefault(account.name.upstream, {}), account.lines)
        self._accounts = {}
        self._spent.clear()
        self._begin_day(self._now())

    def _take_stock(self) -> None:
        """Count what lay on the disk since it was last looked."""
        now, used_bytes = self._now(), self._used_bytes()
        hours, self._stock_at = max(now - self._stock_at, 0.0) / _HOUR_S, now
        gb_hours = used_bytes / _GB * hours
        if gb_hours <= 0:
            return
        if now >= self._day_ends_at:
            self._end_day()
        account = self._accounts.setdefault(("", "", NOBODY), Account(Name(self._day, "", NOBODY.hex(), "")))
        stored = Line(gb_hours, 0.0, storage_cost(self._storage_price, gb_hours))
        add_lines(account.lines, {"stored": stored})
        self._is_changed(account)

    # -- rows --------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Write behind, and look at the disk now and then."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                # Not ``wait_for``: in Python 3.11 that loses a cancellation which comes together with the news.
                async with asyncio.timeout(STOCK_S):
                    await self._has_news.wait()
            await asyncio.sleep(FLUSH_S)
            if self._now() - self._stock_at >= STOCK_S:
                self._take_stock()
            began_at = loop.time()
            is_written = await self._flush()
            took_s = loop.time() - began_at
            await asyncio.sleep(RETRY_S if not is_written else max(took_s / FLUSH_SHARE - FLUSH_S, 0.0))

    async def _flush(self) -> bool:
        """Write what changed; whether all of it is written."""
        self._has_news.clear()
        left = len(self._unwritten)
        while left > 0 and self._unwritten:  # somebody else writes, too
            batch = [self._unwritten.popleft() for _ in range(min(left, BATCH, len(self._unwritten)))]
            left -= len(batch)
            rows = {self._put(account): account for account in batch}
            try:
                await asyncio.wait(rows)
            finally:
                lost = [account for row, account in rows.items() if not row.done() or not row.result()]
                for account in lost:
                    self._is_changed(account)
            if lost:
                return False
        return True

    def _put(self, account: Account) -> asyncio.Task[bool]:
        account.is_written = True  # before the wait, so that what is counted meanwhile is written once more
        return self._rows.put(_row(account.name), _encode(account), KEEP_S)

    async def _read(self, day: str) -> list[tuple[Name, dict[Kind, Line]]]:
        return decode_rows(await self._rows.scan(f"{ROWS}{day}:"))


LEDGER = "ledger"
"""The namespace of the store in which the rows lie."""

ROWS = "money:"
"""What the names of all rows begin with; the day follows."""


def decode_rows(rows: list[tuple[str, bytes]]) -> list[tuple[Name, dict[Kind, Line]]]:
    """Accounts from their rows; what cannot be read counts as lost."""
    found: list[tuple[Name, dict[Kind, Line]]] = []
    for _, value in rows:
        try:
            document: JsonObject = orjson.loads(value)
            if document["format"] != FORMAT:
                continue
            name = Name(document["day"], document["upstream"], document["scope"], document["model"])
            found.append((name, decode_lines(document["lines"])))
        except (ValueError, KeyError, TypeError):
            _log.warning("row_unreadable", kind=ROWS)
    return found


def model_of(described: ModelDescription, told: str | None = None) -> str:
    """The model whose account it is, by the name that policies know; ``told``: what the run itself says it is."""
    if described.deployment is not None:
        return f"{DEPLOYMENTS}{described.deployment}"
    return told or described.model or described.version


def _named(target: ModelTarget) -> str:
    return f"{DEPLOYMENTS}{target.model}" if target.is_deployment else target.model or target.version or OTHER


def model_of_record(record: ResultRecord) -> str:
    """The model whose account a stored result is on."""
    return f"{DEPLOYMENTS}{record.deployment}" if record.deployment is not None else record.model or record.version


def outputs_of(record: ResultRecord) -> int:
    """How many outputs a result is priced as: its files, or one where it has none."""
    return len(record.files) or 1


def _row(name: Name) -> str:
    return f"{ROWS}{name.day}:{name.scope}:{name.upstream}:{name.model}"


def _encode(account: Account) -> bytes:
    return orjson.dumps({"format": FORMAT, **account.name._asdict(), "lines": encode_lines(account.lines)})


def _subtract(sums: dict[Kind, Line], lines: Mapping[Kind, Line]) -> None:
    add_lines(sums, {kind: Line(-line.number, -line.seconds, -line.money) for kind, line in lines.items()})

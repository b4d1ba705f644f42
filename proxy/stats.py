"""``hotplate stats``: the ledger for people.

The running proxy is asked; where none answers, the rows that the last one left are read, and nothing is changed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.core.errors import BadRequest
from proxy.core.money import Kind, parse_selection, report
from proxy.engine.books import LEDGER, ROWS, decode_rows
from proxy.settings import Settings, SettingsError
from storage.errors import StorageUnavailable
from storage.local.ledger import scan_values_aside
from storage.records import JsonObject

_MADE: tuple[tuple[Kind, str], ...] = (
    ("made_succeeded", "runs that succeeded"),
    ("made_failed", "runs that failed"),
    ("made_canceled", "runs that were cancelled"),
    ("made_aborted", "runs that never started"),
)
_SAVED: tuple[tuple[Kind, str], ...] = (("hit", "answered from the cache"), ("shared", "shared another's run"))
_LESS: tuple[tuple[Kind, str], ...] = (
    ("repeat", "less a client's own repeats"),
    ("heir", "less runs kept on for who stayed"),
    ("fruitless", "less shared runs without result"),
    ("ping", "less pings"),
    ("refresh", "less refreshes"),
    ("stored", "less storage, GB hours"),
)
_REST: tuple[tuple[Kind, str], ...] = (
    ("left", "cancelled before the end"),
    ("refused", "came to no run"),
    ("relayed", "passed through, end not known"),
    ("would_hit", "would be hits (observed)"),
)


def read_stats(settings: Settings, asked: Mapping[str, str]) -> tuple[JsonObject, bool]:
    """The ledger's document, and whether a running proxy gave it. ``asked``: ``days``, ``by``, ``scope``.

    Raises:
        SettingsError: nobody can be asked and nothing can be read; or a word of ``asked`` is none.
    """
    try:
        days, selection = parse_selection(asked)
    except BadRequest as error:
        raise SettingsError(f"stats: {error.detail}") from error
    host = f"[{settings.admin.host}]" if ":" in settings.admin.host else settings.admin.host
    url = f"http://{host}:{settings.admin.port}/_hotplate/stats"
    headers = {}
    if settings.admin.token is not None:
        headers["Authorization"] = f"Bearer {settings.admin.token.get_secret_value()}"
    try:
        answer = httpx.get(f"{url}?{urlencode(asked)}", headers=headers, timeout=60.0, trust_env=False)
    except httpx.ConnectError:
        pass
    except httpx.HTTPError as error:
        raise SettingsError(f"stats: no answer from {url}: {type(error).__name__}") from error
    else:
        try:
            document = answer.json()
        except ValueError as error:
            raise SettingsError(f"stats: something else answers at {url}: correct admin.port") from error
        if answer.is_error:
            raise SettingsError(f"stats: {document.get('title')}: {document.get('detail')}")
        return document, True
    now = time.time()
    today = datetime.fromtimestamp(now, UTC).date()
    first = (today - timedelta(days=days - 1)).isoformat()
    try:
        rows = scan_values_aside(settings.data_dir, LEDGER, ROWS, now)
    except StorageUnavailable as error:
        raise SettingsError(f"stats: no proxy answers at {url}, and {error}") from error
    accounts = [(name, lines) for name, lines in decode_rows(rows) if name.day >= first]
    return {
        "currency": settings.money.currency,
        "first_day": first,
        "last_day": today.isoformat(),
        "by": selection.by,
        "storage": None,
        **report(accounts, selection),
    }, False


def show_stats(document: JsonObject, is_running: bool, console: Console) -> None:
    """Print the document as tables: what was spent and saved, and the groups."""
    days = (date.fromisoformat(document["last_day"]) - date.fromisoformat(document["first_day"])).days + 1
    whole, currency = document["all"], document["currency"]
    span = "Today" if days == 1 else f"The last {days} days"
    head = f"{span}, to {document['last_day']} (UTC): {whole['requests']:,} requests"
    console.print(Text(head, style="bold"))
    if not is_running:
        console.print("No proxy is running: this is what the last one left.")
    is_priced = any(line["money"] for line in whole["kinds"].values())
    table = Table("", "number", "GPU seconds", *([currency] if is_priced else []))
    for column in table.columns[1:]:
        column.justify = "right"
    _add(table, _MADE, whole["kinds"], is_priced)
    table.add_row("runs made", *_cells(whole["runs"], is_priced), style="bold", end_section=True)
    _add(table, _SAVED, whole["kinds"], is_priced)
    table.add_row("total: runs avoided", *_cells(whole["total"], is_priced), style="bold", end_section=True)
    _add(table, _LESS, whole["kinds"], is_priced)
    table.add_row("earned: off the bill", *_cells(whole["earned"], is_priced), style="bold green", end_section=True)
    _add(table, _REST, whole["kinds"], is_priced)
    console.print(table)
    if not is_priced:
        console.print("No prices are given, so this counts seconds alone.")
    storage = document["storage"]
    if storage is not None:
        price = f", {storage['money_per_month']:,.2f} {currency} a month" if storage["money_per_month"] else ""
        console.print(f"Stored now: {storage['bytes'] / 1e6:,.1f} MB{price}")
    if document["groups"]:
        console.print(_groups(document, is_priced))


def _groups(document: JsonObject, is_priced: bool) -> Table:
    """One line a group: in money where there are prices, else in seconds. JSON has both."""
    unit = document["currency"] if is_priced else "GPU seconds"
    table = Table(document["by"], "requests", "runs", "avoided", "spent", "total", "earned", box=SIMPLE_HEAD)
    table.title, table.title_justify = f"spent, total and earned in {unit}", "right"
    table.columns[0].overflow = "fold"  # long names make room for the numbers
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for group in document["groups"]:
        runs, total, earned = (_cells(group[word], is_priced) for word in ("runs", "total", "earned"))
        name = Text(group["name"] or "-", overflow="fold")
        table.add_row(name, f"{group['requests']:,}", runs[0], total[0], runs[-1], total[-1], earned[-1])
    return table


def _add(table: Table, kinds: tuple[tuple[Kind, str], ...], figures: dict[str, Any], is_priced: bool) -> None:
    for kind, words in kinds:
        if figures[kind]["count"]:
            table.add_row(words, *_cells(figures[kind], is_priced))


def _cells(line: JsonObject, is_priced: bool) -> list[str]:
    """Number, seconds and, where there are prices, money."""
    number = f"{line['count']:,}" if isinstance(line["count"], int) else f"{line['count']:,.3f}"
    return [number, f"{line['seconds']:,.1f}", *([f"{line['money']:,.3f}"] if is_priced else [])]

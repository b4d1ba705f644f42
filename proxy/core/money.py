"""The ledger's words and sums: what Hotplate spent and what it saved, in compute seconds and in money.

Each create request ends in exactly one of these *kinds*:

- ``made_succeeded``, ``made_failed``, ``made_canceled``, ``made_aborted``: it caused a run, by how that ended. Runs
  that failed or were cancelled cost their seconds, too.
- ``hit``: it was answered from the store, by a run of an earlier day or moment.
- ``shared``: it was answered by a run that another request had caused.
- ``left``: it shared a run, and was cancelled before that ended.
- ``refused``: it came to no run: the upstream did not take it, could not be asked, or was not to be.
- ``relayed``: it was passed through to the upstream as it was; how its run ended is not known here.

Beside them stand ``ping`` and ``refresh`` (runs that Hotplate made of its own accord), ``would_hit`` (what a hit would
have saved where a policy only observes), ``stored`` (what lies on the disk, in gigabyte-hours) and three that say which
of the hits and sharers are no saving: ``repeat`` and ``heir`` (see ``tally``) and ``fruitless`` (it shared a run that
gave no result).

**Total** is what a gateway would like to claim: all hits and sharers, each at the seconds and the price of the run that
answered it. **Earned** is what the bill is smaller by: the total without the repeats, heirs and fruitless ones, and
less what Hotplate itself spent on pings, refreshes and storage. It never claims more than was saved, and may be below
zero.

Money is counted when it is spent or saved, at the price of that moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

from proxy.core.errors import BadRequest
from proxy.core.prices import UNPRICED, Price, cost
from storage.records import JsonObject

Kind = Literal[
    "made_succeeded",
    "made_failed",
    "made_canceled",
    "made_aborted",
    "hit",
    "shared",
    "left",
    "refused",
    "relayed",
    "repeat",
    "heir",
    "fruitless",
    "ping",
    "refresh",
    "would_hit",
    "stored",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

MADE: tuple[Kind, ...] = ("made_succeeded", "made_failed", "made_canceled", "made_aborted")
SPENT: tuple[Kind, ...] = (*MADE, "refresh")
"""Runs that a request has caused."""

SAVED: tuple[Kind, ...] = ("hit", "shared")
UNEARNED: tuple[Kind, ...] = ("repeat", "heir", "fruitless", "ping", "refresh", "stored")
REQUESTS: tuple[Kind, ...] = (*MADE, *SAVED, "left", "refused", "relayed")

GroupBy = Literal["model", "scope", "day"]


class Line(NamedTuple):
    """How many, their compute seconds, their price. Of ``stored`` the number is one of gigabyte-hours."""

    number: float = 0
    seconds: float = 0.0
    money: float = 0.0


class Name(NamedTuple):
    """Whose account it is: a day in UTC (``"2026-02-01"``), an upstream, a scope in hex, a model."""

    day: str
    upstream: str
    scope: str
    model: str


class Account:
    """Running sums by kind, at one price; ``is_written`` says whether they stand in its row like this."""

    __slots__ = ("is_written", "lines", "name", "price")

    def __init__(self, name: Name, price: Price = UNPRICED, lines: Mapping[Kind, Line] | None = None) -> None:
        self.name = name
        self.price = price
        self.is_written = True
        self.lines: dict[Kind, Line] = dict(lines or {})

    def add(self, kind: Kind, seconds: float, outputs: int, times: int = 1) -> None:
        """``times`` runs, each of ``seconds`` with ``outputs``, made or spared."""
        number, before_s, money = self.lines.get(kind, _NOTHING)
        spent = cost(self.price, seconds, outputs)
        self.lines[kind] = Line(number + times, before_s + seconds * times, money + spent * times)


_NOTHING = Line()


def add_lines(sums: dict[Kind, Line], lines: Mapping[Kind, Line]) -> None:
    """Add ``lines`` to ``sums``."""
    for kind, line in lines.items():
        sums[kind] = _plus(sums.get(kind, _NOTHING), line)


def sum_of(lines: Mapping[Kind, Line], kinds: Iterable[Kind]) -> Line:
    """Several kinds as one line."""
    total = _NOTHING
    for kind in kinds:
        total = _plus(total, lines.get(kind, _NOTHING))
    return total


def total_saved(lines: Mapping[Kind, Line]) -> Line:
    """All hits and sharers, at the price of the runs that answered them."""
    return sum_of(lines, SAVED)


def earned(lines: Mapping[Kind, Line]) -> Line:
    """What the bill is smaller by; the number is that of the predictions whose run was spared."""
    total, less = total_saved(lines), sum_of(lines, UNEARNED)
    spared = total.number - sum_of(lines, ("repeat", "heir", "fruitless")).number
    return Line(spared, total.seconds - less.seconds, total.money - less.money)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which accounts are wanted and how they are grouped.

    Attributes:
        scope: first hex digits of the one scope that is wanted; ``""`` = all, and what is stored with them.
    """

    by: GroupBy = "model"
    scope: str = ""


DAYS = 30
MAX_DAYS = 400
"""As long as the ledger is kept."""

_SCOPE = re.compile(r"[0-9a-f]{0,64}")


def parse_selection(asked: Mapping[str, str]) -> tuple[int, Selection]:
    """The days that are asked for, and of these what, from words by name: ``days``, ``by``, ``scope``.

    Raises:
        BadRequest: says which word may be what.
    """
    days, by, scope = asked.get("days", str(DAYS)), asked.get("by", "model"), asked.get("scope", "")
    if not (days.isascii() and days.isdigit() and len(days) <= 3 and 1 <= int(days) <= MAX_DAYS):
        raise BadRequest(f"days must be a number from 1 to {MAX_DAYS}")
    if by not in get_args(GroupBy):
        raise BadRequest(f"by must be one of {', '.join(get_args(GroupBy))}")
    if not _SCOPE.fullmatch(scope):
        raise BadRequest("scope must be the first hex digits of a scope, as the ledger shows them")
    return int(days), Selection(cast(GroupBy, by), scope)


def report(accounts: Iterable[tuple[Name, Mapping[Kind, Line]]], selection: Selection) -> JsonObject:
    """The sums of ``accounts`` as a document: ``{"all": figures, "groups": [{"name": ..., **figures}, ...]}``.

    Groups stand in the order of what they saved and spent, days in their own. Scopes are named by 8 hex digits.
    """
    everything: dict[Kind, Line] = {}
    groups: dict[str, dict[Kind, Line]] = {}
    for name, lines in accounts:
        is_stock = "stored" in lines
        if not name.scope.startswith(selection.scope) or (is_stock and selection.scope):
            continue
        add_lines(everything, lines)
        label = {"model": name.model, "scope": name.scope[:SCOPE_DIGITS], "day": name.day}[selection.by]
        if not is_stock or selection.by == "day":
            add_lines(groups.setdefault(label, {}), lines)
    ordered = sorted(groups.items(), key=lambda group: group[0] if selection.by == "day" else _rank(group[1]))
    return {
        "all": figures(everything),
        "groups": [{"name": label, **figures(lines)} for label, lines in ordered],
    }


SCOPE_DIGITS = 8
"""Of a scope, which is a keyed hash and names no token, as many are shown as tell two apart."""


def figures(lines: Mapping[Kind, Line]) -> JsonObject:
    """All lines, and what follows from them, as a document; zeros included, so that it always has the same fields."""
    return {
        "requests": sum_of(lines, REQUESTS).number,
        "runs": _shown(sum_of(lines, MADE)),
        "total": _shown(total_saved(lines)),
        "earned": _shown(earned(lines)),
        "kinds": {kind: _shown(lines.get(kind, _NOTHING)) for kind in KINDS},
    }


def encode_lines(lines: Mapping[Kind, Line]) -> JsonObject:
    """``lines`` as they are written down."""
    return {kind: list(line) for kind, line in lines.items()}


def decode_lines(document: JsonObject) -> dict[Kind, Line]:
    """What ``encode_lines`` gave; kinds that are not known here are left out.

    Raises:
        ValueError, TypeError: it is no such thing.
    """
    found: dict[Kind, Line] = {}
    for kind in KINDS:
        if kind in document:
            number, seconds, money = document[kind]
            found[kind] = Line(number + 0, seconds + 0.0, money + 0.0)
    return found


def _plus(one: Line, other: Line) -> Line:
    return Line(one.number + other.number, one.seconds + other.seconds, one.money + other.money)


def _shown(line: Line) -> JsonObject:
    number = round(line.number, 6)
    return {"count": int(number) if number == int(number) else number, "seconds": line.seconds, "money": line.money}


def _rank(lines: Mapping[Kind, Line]) -> tuple[float, float, float]:
    total, made = total_saved(lines), sum_of(lines, MADE)
    return -(total.money + made.money), -(total.seconds + made.seconds), -(total.number + made.number)

"""Who is behind a token, and when its upstream last accepted it: what a restart must not forget.

A sealed row for each token (``caller:<its scope>``, never the token itself). After a restart a row names the account,
so that nobody has to be asked for a key, and is what a hit in an outage may be stretched from; it never counts as a
fresh acceptance, because the last process may have ended before it could write a refusal down.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson
import structlog

from proxy.core.entitlement import Account
from proxy.core.sealing import Sealer, Unsealable
from proxy.core.secrets import Secrets
from proxy.engine.rows import RowWriter
from storage.digest import Scope
from storage.ports import KeyValue

KEEP_S = 30 * 86_400.0
"""A token that was not seen for so long is asked about anew."""

WRITE_EVERY_S = 60.0
"""An acceptance is written down when the row is older than this: it comes with every create."""

CLOCK_TOLERANCE_S = 300.0
"""A row from further in the future was written under another clock, and says nothing of ages."""

MAX_REMEMBERED = 50_000

_log = structlog.get_logger("hotplate.accounts")


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is known of a token.

    Attributes:
        accepted_at: epoch seconds; ``None`` where no acceptance counts.
        was_accepted: its upstream accepted it at some time, whatever it says now: it has heard of it.
    """

    account: Account | None = None
    accepted_at: float | None = None
    was_accepted: bool = False


NOTHING = Remembered()


class Accounts:
    """Memory in front of the rows. Used from the event loop alone."""

    def __init__(self, secrets: Secrets, notes: KeyValue | None, wall: Callable[[], float]) -> None:
        """Without ``notes`` a restart forgets; ``wall`` gives epoch seconds."""
        self._sealer = Sealer(secrets)
        self._notes = notes
        self._rows = RowWriter(notes) if notes is not None else None
        self._wall = wall
        self._known: OrderedDict[Scope, Remembered] = OrderedDict()

    def known(self, token: Scope) -> Remembered | None:
        """What is in memory of a token; ``None`` when its row was not looked for yet."""
        return self._known.get(token)

    async def recall(self, token: Scope) -> Remembered:
        """What is known of a token, read from its row if need be."""
        known = self._known.get(token)
        if known is None:
            known = await self._read(token)
            # What was learned while the row was read is newer.
            known = self._known.get(token, known)
            self._remember(token, known)
        return known

    def accepted(self, token: Scope, account: Account | None) -> None:
        """The token was accepted just now; ``account`` where that was told."""
        before = self._known.get(token, NOTHING)
        now = self._wall()
        is_new = account is not None and account != before.account
        age_s = now - before.accepted_at if before.accepted_at is not None else WRITE_EVERY_S
        if is_new or not 0 <= age_s < WRITE_EVERY_S:
            known = Remembered(account or before.account, now, was_accepted=True)
            self._remember(token, known)
            self._write(token, known)

    def refused(self, token: Scope) -> None:
        """The token was refused: what it was accepted for before counts no more. Whose it was stays known.

        Of one that nothing was known of no row is written: strangers send what they like.
        """
        before = self._known.get(token)
        known = replace(before or NOTHING, accepted_at=None)
        self._remember(token, known)
        if before is None and self._rows is not None:
            self._rows.remove(_row(token))  # there may be one that was not read yet
        elif before != known:
            self._write(token, known)

    def age_s(self, remembered: Remembered) -> float | None:
        """Seconds since the acceptance, ``None`` where there is none that can be told."""
        if remembered.accepted_at is None:
            return None
        age_s = self._wall() - remembered.accepted_at
        return max(age_s, 0.0) if age_s > -CLOCK_TOLERANCE_S else None

    def forget(self) -> None:
        """Nothing is in memory any more; rows stay."""
        self._known.clear()

    async def drain(self) -> None:
        """Wait until everything said so far is written."""
        if self._rows is not None:
            await self._rows.drain()

    def _remember(self, token: Scope, known: Remembered) -> None:
        self._known[token] = known
        self._known.move_to_end(token)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    async def _read(self, token: Scope) -> Remembered:
        name = _row(token)
        sealed = await self._notes.get(name) if self._notes is not None else None
        if sealed is None:
            return NOTHING
        try:
            document = orjson.loads(self._sealer.open(sealed, name))
            account = Account(*document["account"]) if document["account"] is not None else None
            return Remembered(account, document["accepted_at"], document["was_accepted"])
        except (Unsealable, ValueError, KeyError, TypeError):
            _log.warning("row_unreadable", kind="caller:")
            return NOTHING

    def _write(self, token: Scope, known: Remembered) -> None:
        if self._rows is None:
            return
        account = [known.account.kind, known.account.username] if known.account is not None else None
        plain = orjson.dumps({"account": account, "accepted_at": known.accepted_at, "was_accepted": known.was_accepted})
        name = _row(token)
        self._rows.put(name, self._sealer.seal(plain, name), KEEP_S)


def _row(token: Scope) -> str:
    return f"caller:{token.hex()}"

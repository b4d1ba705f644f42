"""Who waits for one run, so that at its end everybody is counted once, and nobody as saved who was not.

A request causes its run or shares one. At the end of the run the sharers are its savings, but not all of them are
earned:

- a *repeat* is a client that sends the same again because its connection broke (the JavaScript client does): the same
  caller, within ``RETRY_S`` of its first request, answered by the same run. It asked for one prediction.
- an *heir* is the sharer for whose sake a run went on after the client that had caused it cancelled. Without Hotplate
  one run would have been paid for as well.

Who leaves before the end is answered by no run; the ledger counts that at once, and here nothing of it is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RETRY_S = 2.0
"""Clients repeat a create after half a second to a second; whoever asks again later than this wants another one."""

RunKind = Literal["made", "refresh"]


@dataclass(frozen=True, slots=True)
class Shares:
    """How a run is shared when it ends.

    Attributes:
        everyone: predictions that it answers, the causing one included.
        sharers: those that did not cause it.
        repeats, heirs: sharers that are no saving; nobody is both.
    """

    everyone: int
    sharers: int
    repeats: int
    heirs: int


@dataclass(frozen=True, slots=True)
class _Guest:
    caller: int | None
    at: float
    has_caused: bool


class Tally:
    """The predictions that wait for one run."""

    __slots__ = ("_guests", "is_closed", "kind")

    def __init__(self, kind: RunKind = "made") -> None:
        """``kind``: ``"refresh"`` for a run in the background that no request caused."""
        self.kind: RunKind = kind
        self.is_closed = False
        self._guests: list[_Guest] = []

    def join(self, caller: int | None, at: float, *, has_caused: bool) -> None:
        """A request came, at epoch seconds ``at``. ``caller``: any number for whose it is; ``None`` = not known."""
        self._guests.append(_Guest(caller, at, has_caused))

    def leave(self, caller: int | None, at: float, *, has_caused: bool) -> None:
        """One that joined with these words waits no longer."""
        guest = _Guest(caller, at, has_caused)
        if guest in self._guests:
            self._guests.remove(guest)

    def close(self) -> Shares:
        """The run has ended, or there was none; asked again, nobody shares it."""
        guests, self._guests, self.is_closed = self._guests, [], True
        first_at: dict[int | None, float] = {}
        repeats = 0
        for guest in sorted(guests, key=lambda guest: (not guest.has_caused, guest.at)):
            if guest.caller not in first_at:
                first_at[guest.caller] = guest.at
            elif guest.at - first_at[guest.caller] <= RETRY_S:
                repeats += 1
        sharers = sum(not guest.has_caused for guest in guests)
        is_inherited = self.kind == "made" and sharers > 0 and sharers == len(guests)
        return Shares(len(guests), sharers, repeats, heirs=int(is_inherited))

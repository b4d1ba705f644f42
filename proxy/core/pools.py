"""Pools: several different answers for one request without a seed, collected before any of them repeats.

A pool of N is N prediction keys. While one of them has neither a result nor a run on its way, a request makes it; from
then on every request gets one of the N at random, so that each is served equally often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

MemberState: TypeAlias = Literal["stored", "running", "empty"]


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer with the result of this member."""

    member: int


@dataclass(frozen=True, slots=True)
class Follow:
    """Share the run of this member."""

    member: int


@dataclass(frozen=True, slots=True)
class Lead:
    """Make this member."""

    member: int


Choice: TypeAlias = Serve | Follow | Lead


def choose_member(states: Sequence[MemberState], pick: Callable[[int], int]) -> Choice:
    """Which member answers a request.

    Args:
        states: of all members, at least one.
        pick: a number below its argument, each as likely (``random.randrange``).
    """
    if len(states) == 1:
        return _ALONE[states[0]]
    empty = [member for member, state in enumerate(states) if state == "empty"]
    if empty:
        return Lead(empty[pick(len(empty))])
    member = pick(len(states))
    return Serve(member) if states[member] == "stored" else Follow(member)


_ALONE: dict[MemberState, Choice] = {"stored": Serve(0), "running": Follow(0), "empty": Lead(0)}

"""Who runs next, and where: one model's servers and the runs that wait for them. Pure.

Runs wait in the order in which they came; one whose server was lost goes back to its old place in the line, not to
the end of it. Each server has slots and a state:

::

    Unseen ──▶ Starting ──▶ Serving ◀──▶ Occupied      somebody else uses its slots
                  ▲            │  ▲
                  └────────────┤  │ it looks healthy again
                               ▼  │
                            Ejected(reason)            gets no runs

A run is for one build of the model, and so is a server (``None`` until it is known): a run never goes to a server of
another build, because its result would be kept under the wrong version.

Nothing here waits, sleeps or looks at a clock: every call says what time it is (``now``, monotonic seconds). Two
clocks run along: seconds in which no server was up and one was booting, and the same for a weight download. A run's
share of each is what it waited because of that.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

from proxy.core.errors import Overloaded
from proxy.upstreams.cog_wire import Away, Health, tail

WATCH_S = 10.0
"""Between looks at a healthy server: a look may run the model's own health check, so gently."""

MAX_MISSES = 3
"""Looks in a row without an answer after which a server that worked counts as gone."""

QUEUE_RETRY_S = 5.0

MAX_LINE_BYTES = 512 * 1024**2
"""Of the inputs in a line. Files stand in them as data: a few hundred runs could be more than the machine has."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """Nobody has looked at it yet."""


@dataclass(frozen=True, slots=True)
class Starting:
    """It boots, or its weights are on their way (a simulated download, see ``local_cog``)."""

    cause: Literal["boot", "download"] = "boot"


@dataclass(frozen=True, slots=True)
class Serving:
    """It takes runs."""


@dataclass(frozen=True, slots=True)
class Occupied:
    """It is well, but somebody else's runs fill it."""


@dataclass(frozen=True, slots=True)
class Ejected:
    """It gets no runs until a look finds it well. ``has_failed_setup``: its model says that it cannot start."""

    reason: str
    has_failed_setup: bool = False


State: TypeAlias = Unseen | Starting | Serving | Occupied | Ejected


@dataclass(slots=True)
class Server:
    """A server as the pool keeps it."""

    id: str
    slots: int
    state: State
    build: str | None
    running: int = 0
    idle_since: float = 0.0

    @property
    def is_up(self) -> bool:
        return isinstance(self.state, Serving | Occupied)


@dataclass(slots=True, eq=False)
class Ticket:
    """A run's place in the line, or at a server.

    Attributes:
        serial: its rank; lower came first.
        server_id: where it has a slot, else ``None``.
        size_bytes: of its input.
        boot_s, download_s: what it has waited because of either, without the wait that is going on.
    """

    serial: int
    build: str
    joined_at: float
    size_bytes: int = 0
    server_id: str | None = None
    boot_s: float = 0.0
    download_s: float = 0.0
    _boot_mark: float = 0.0
    _download_mark: float = 0.0


def _serial(ticket: Ticket) -> int:
    return ticket.serial


@dataclass(slots=True)
class Pool:
    """The line and the servers of one model."""

    queue_limit: int
    _servers: dict[str, Server] = field(default_factory=dict)
    _line: list[Ticket] = field(default_factory=list)
    _serials: int = 0
    _last_up: dict[str, float] = field(default_factory=dict)
    _ticked_at: float = 0.0
    _boot_clock: float = 0.0
    _download_clock: float = 0.0

    # -- servers -----------------------------------------------------------------------------------

    def add(self, server_id: str, slots: int, state: State, build: str | None, now: float) -> None:
        """A new server."""
        self._tick(now)
        self._servers[server_id] = Server(server_id, slots, state, build, idle_since=now)

    def remove(self, server_id: str, now: float) -> None:
        """Forget a server; slots still held there end with it."""
        self._tick(now)
        self._servers.pop(server_id, None)

    def update(self, server_id: str, state: State, now: float, *, build: str | None = None) -> None:
        """A server's state is now ``state``; ``build`` where it became known. A start may bring another build."""
        self._tick(now)
        server = self._servers[server_id]
        if not server.is_up and isinstance(state, Serving | Occupied):
            server.idle_since = now
        server.state = state
        server.build = build if build is not None else None if isinstance(state, Starting) else server.build

    def server(self, server_id: str) -> Server | None:
        """The server of that name, to be looked at and not changed."""
        return self._servers.get(server_id)

    def servers(self) -> Iterator[Server]:
        """All servers, in the order in which they were added."""
        return iter(self._servers.values())

    # -- runs --------------------------------------------------------------------------------------

    def join(self, build: str, now: float, size_bytes: int = 0) -> Ticket:
        """Stand in line; ``size_bytes`` of input wait with it.

        Raises:
            Overloaded: the line is full.
        """
        self._tick(now)
        if self._is_full(size_bytes) and not self._has_room(build):
            raise Overloaded(f"{len(self._line)} runs wait for this model already.", retry_after_s=QUEUE_RETRY_S)
        self._serials += 1
        ticket = Ticket(self._serials, build, now, size_bytes)
        self._enter(ticket)
        return ticket

    def rejoin(self, ticket: Ticket, now: float) -> None:
        """Give the slot back and stand where one stood before."""
        self.leave(ticket, now)
        self._enter(ticket)

    def leave(self, ticket: Ticket, now: float) -> None:
        """Out of the line, or free the slot."""
        self._tick(now)
        if ticket.server_id is not None:
            self.vacate(ticket.server_id, now)
            ticket.server_id = None
        elif ticket in self._line:
            self._line.remove(ticket)
            self._account(ticket)

    def vacate(self, server_id: str, now: float) -> None:
        """One slot of a server is free again; of one that is gone, nothing."""
        server = self._servers.get(server_id)
        if server is not None:
            server.running -= 1
            server.idle_since = now

    def place(self, now: float) -> list[Ticket]:
        """Give free slots to those who wait, first come first served; returns who got one."""
        self._tick(now)
        placed: list[Ticket] = []
        if not any(self._is_free(server) for server in self._servers.values()):
            return placed  # the line may be long, and every change in it comes here
        for ticket in list(self._line):
            server = self._choose(ticket.build)
            if server is None:
                continue
            self._line.remove(ticket)
            server.running += 1
            ticket.server_id = server.id
            self._account(ticket)
            placed.append(ticket)
        return placed

    def waiting(self) -> tuple[Ticket, ...]:
        """Who stands in line, first first."""
        return tuple(self._line)

    # -- what is to be known -----------------------------------------------------------------------

    @property
    def is_booting(self) -> bool:
        """Nothing is up, and something is on its way."""
        return self._waits_for() is not None

    def stranded_s(self, ticket: Ticket, now: float) -> float:
        """For how long no server has been up for this run; 0.0 when one is."""
        self._tick(now)
        if any(server.is_up and server.build == ticket.build for server in self._servers.values()):
            return 0.0
        return now - max(ticket.joined_at, self._last_up.get(ticket.build, ticket.joined_at))

    def outdated(self) -> list[Ticket]:
        """Who waits for a build that no server has any more, while another build is served."""
        builds = {server.build for server in self._servers.values()}
        if None in builds or not any(server.is_up for server in self._servers.values()):
            return []
        return [ticket for ticket in self._line if ticket.build not in builds]

    def failed_setup(self) -> str | None:
        """Why the model cannot start, when every server says that it cannot."""
        reasons = []
        for server in self._servers.values():
            if not (isinstance(server.state, Ejected) and server.state.has_failed_setup):
                return None
            reasons.append(server.state.reason)
        return reasons[0] if reasons else None

    def reasons(self) -> str:
        """Why servers are ejected, each reason once, for an error text."""
        found = [server.state.reason for server in self._servers.values() if isinstance(server.state, Ejected)]
        return "; ".join(dict.fromkeys(found))

    # -- inside ------------------------------------------------------------------------------------

    def _enter(self, ticket: Ticket) -> None:
        ticket._boot_mark, ticket._download_mark = self._boot_clock, self._download_clock
        insort(self._line, ticket, key=_serial)

    def _account(self, ticket: Ticket) -> None:
        """Its wait is over: what of it a boot or a download caused."""
        ticket.boot_s += self._boot_clock - ticket._boot_mark
        ticket.download_s += self._download_clock - ticket._download_mark

    def _choose(self, build: str) -> Server | None:
        """The least loaded server of that build; among equals the one last used, so that others may grow idle."""
        free = [server for server in self._servers.values() if self._is_free(server) and server.build == build]
        return min(free, key=lambda server: (server.running, -server.idle_since)) if free else None

    def _is_free(self, server: Server) -> bool:
        return isinstance(server.state, Serving) and server.running < server.slots

    def _is_full(self, more_bytes: int) -> bool:
        """Whether nobody more, or nothing so large, may wait. A line of one is never too large."""
        if len(self._line) >= self.queue_limit:
            return True
        return bool(self._line) and sum(ticket.size_bytes for ticket in self._line) + more_bytes > MAX_LINE_BYTES

    def _has_room(self, build: str) -> bool:
        """Whether a newcomer would be placed at once."""
        return self._choose(build) is not None and not any(ticket.build == build for ticket in self._line)

    def _waits_for(self) -> Literal["boot", "download"] | None:
        if any(server.is_up for server in self._servers.values()):
            return None
        causes = {server.state.cause for server in self._servers.values() if isinstance(server.state, Starting)}
        return "boot" if "boot" in causes else "download" if causes else None

    def _tick(self, now: float) -> None:
        """Let the clocks run up to ``now`` under the state that held until now."""
        cause, elapsed_s = self._waits_for(), now - self._ticked_at
        if cause == "boot":
            self._boot_clock += elapsed_s
        elif cause == "download":
            self._download_clock += elapsed_s
        self._ticked_at = now
        self._last_up |= {server.build: now for server in self._servers.values() if server.is_up and server.build}


def judge(seen: Health | Away, before: State, *, others_running: int, misses: int) -> State:
    """What a look makes of a server.

    Args:
        seen: what came back.
        before: its state until now.
        others_running: our own runs there, without the one on whose behalf is being looked.
        misses: looks without an answer before this one, in a row.
    """
    if isinstance(seen, Away):
        if isinstance(before, Serving | Occupied) and seen.kind != "refused" and misses + 1 < MAX_MISSES:
            return before
        return Ejected(seen.reason)
    match seen.status:
        case "READY":
            return Serving()
        case "BUSY":
            return Serving() if others_running > 0 else Occupied()
        case "STARTING":
            return Starting()
        case "SETUP_FAILED":
            return Ejected(tail(seen.setup_logs) or "its setup failed", has_failed_setup=True)
        case "DEFUNCT" | "UNHEALTHY" | "UNKNOWN":
            return Ejected(f"its health is {seen.status}" + (f" ({seen.detail})" if seen.detail else ""))
        case _:
            assert_never(seen.status)


def next_look_s(state: State, looks: int, misses: int = 0) -> float:
    """Seconds until the next look, after ``looks`` looks that found this state, the last ``misses`` without answer."""
    match state:
        case Serving():
            return 1.0 if misses else WATCH_S
        case Unseen() | Starting():
            return min(1.0, 0.1 * 1.5 ** min(looks, 20))
        case Occupied():
            return min(1.0, 0.05 * 1.6 ** min(looks, 20))
        case Ejected():
            return min(30.0, 0.5 * 2.0 ** min(looks, 20))
        case _:
            assert_never(state)

"""How a pool stands, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from proxy.upstreams.base import Readiness
from proxy.upstreams.pool import Ejected, Occupied, Pool, Server, Serving, Starting, Unseen


def readiness_of(pool: Pool, labels: Mapping[str, str] | None = None) -> Readiness:
    """The state of a pool's servers; ``labels`` name them otherwise than by their ids."""
    states = [server.state for server in pool.servers()]
    up = sum(server.is_up for server in pool.servers())
    servers = {(labels or {}).get(server.id, server.id): _word(server) for server in pool.servers()}
    detail = f"{up} of {len(states)} up, {len(pool.waiting())} waiting"
    if up:
        is_whole = not any(isinstance(state, Ejected) for state in states)
        return Readiness("warm" if is_whole else "degraded", detail, servers)
    if any(isinstance(state, Starting) for state in states):
        return Readiness("booting", detail, servers)
    if any(isinstance(state, Ejected) for state in states):
        return Readiness("down", f"{detail}: {pool.reasons()}", servers)
    return Readiness("unknown", detail, servers)


def _word(server: Server) -> str:
    match server.state:
        case Unseen():
            return "unknown"
        case Starting(cause="boot"):
            return "starting"
        case Starting():
            return "downloading (simulated)"
        case Serving():
            return f"busy ({server.running}/{server.slots})" if server.running else "ready"
        case Occupied():
            return "occupied by others"
        case Ejected(reason=reason):
            return f"ejected: {reason}"
        case _:
            assert_never(server.state)

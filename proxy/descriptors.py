"""How many files this process may open. A connection is one, and the store and upstreams need some as well."""

from __future__ import annotations

import contextlib
import math
import resource

RESERVED_SHARE = 0.25
"""Part of the files that no client's connection takes: a hit reads a file, a miss has connections of its own."""


def affordable_connections(wanted: int) -> int:
    """How many of ``wanted`` connections the process can have, after its limit of open files was raised as far as they
    need and the system allows."""
    needed = math.ceil(wanted / (1 - RESERVED_SHARE))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, int(soft * (1 - RESERVED_SHARE))))

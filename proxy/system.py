"""What the operating system allows and tells: how many files may be open, how much of an answer a client has taken."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import resource
import socket
import struct
import sys
import termios

RESERVED_SHARE = 0.25
"""Part of the files that no client's connection takes: a hit reads a file, a miss has connections of its own."""

_TCP_INFO_ACKED_AT = 120
_TCP_INFO_BYTES = 128
"""Where ``tcpi_bytes_acked`` stands in Linux' ``struct tcp_info``, since 4.1 (RFC 4898)."""


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


def look(transport: asyncio.WriteTransport) -> tuple[int, int]:
    """Bytes that the other side has acknowledged so far, and bytes that are left for it, as far as can be seen.

    Of what we send, TLS and the system hold shares of their own and take more in large lumps only: by our own share
    alone, a slow client would seem to stand still. Where the system does not say, our share must do; then the first
    number is negative and grows likewise. Each call costs system calls: it is for clients that seem to stand still.
    """
    held_bytes = transport.get_write_buffer_size()
    try:
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as own:
            told = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            queued = fcntl.ioctl(own.fileno(), termios.TIOCOUTQ, bytes(4))
        (acked_bytes,) = struct.unpack_from("=Q", told, _TCP_INFO_ACKED_AT)
    except (OSError, ValueError, AttributeError, struct.error):
        return -held_bytes, held_bytes
    return acked_bytes, held_bytes + int.from_bytes(queued, sys.byteorder)

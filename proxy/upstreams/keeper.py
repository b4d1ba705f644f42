"""Runs one command and makes sure that nothing of it outlives the process that asked for it.

    python -I -S keeper.py GRACE_S COMMAND [ARGUMENT...]

Started by ``processes.py`` by file path, in a session of its own (so Ctrl-C in a terminal does not reach the command).
Standard library only, and little of that: it is there for as long as the command is, and its start is waited for.

Standard input is the lifeline: whoever started the keeper holds the other end and never writes. It ends when that
process closes it, exits, or is killed by any means, because the kernel closes it then. On its end, or on SIGTERM, or
when the command has exited, everything that is left is ended: SIGTERM to the group, ``GRACE_S`` seconds, SIGKILL until
no child is left, all reaped. The exit status is the command's (128 + signal number for a signal).

The keeper may be killed too. A guard, forked before the command, holds the end of a second lifeline and kills the whole
group when it breaks. On Linux besides, the command dies with its parent (``PR_SET_PDEATHSIG``), and orphans of the
command come to the keeper (``PR_SET_CHILD_SUBREAPER``) even if they have left the group.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TICK_S = 0.02
_ALL_WELL = b"."


def _prctl() -> Callable[[int, int], object]:
    """Linux's ``prctl`` with two arguments; elsewhere, something that does nothing."""
    if not sys.platform.startswith("linux"):
        return lambda option, value: None
    import ctypes

    function = ctypes.CDLL(None, use_errno=True).prctl
    return lambda option, value: function(option, value, 0, 0, 0)


def _fork_guard() -> tuple[int, int]:
    """Fork the guard; returns its pid and the lifeline on which ``_ALL_WELL`` dismisses it."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(ours)
        return pid, theirs
    os.close(theirs)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    if os.read(ours, 1) != _ALL_WELL:
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _fork_command(command: list[str], prctl: Callable[[int, int], object]) -> int:
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)  # the keeper died before the line above
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


class _Children:
    """Reaping, with the command's status kept."""

    def __init__(self, command_pid: int, guard_pid: int) -> None:
        self._command_pid = command_pid
        self._guard_pid = guard_pid
        self.status: int | None = None

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._command_pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code

    def left(self) -> list[int]:
        """Pids of children that are alive, less the guard; without ``/proc``, of the command alone."""
        self.reap()
        try:
            pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        except OSError:
            return [] if self.status is not None else [self._command_pid]
        return [pid for pid in pids if pid != self._guard_pid and _parent(pid) == os.getpid()]


def _parent(pid: int) -> int:
    """Parent of a process, 0 when it is gone. The name before the fields may hold any character, ``)`` included."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _end_all(children: _Children, grace_s: float) -> None:
    """SIGTERM, grace, SIGKILL. Orphans come here as their parents die, so kill until nobody is left."""
    os.killpg(0, signal.SIGTERM)  # this process has a handler for it, the guard ignores it
    deadline = time.monotonic() + grace_s
    while children.left() and time.monotonic() < deadline:
        time.sleep(_TICK_S)
    while pids := children.left():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_TICK_S)


def main(arguments: list[str]) -> int:
    """Keep ``arguments[1:]`` with a grace of ``arguments[0]`` seconds."""
    grace_s, command = float(arguments[0]), arguments[1:]
    if os.getpgrp() != os.getpid():
        os.setsid()
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    is_asked = False

    def on_term(number: int, frame: object) -> None:
        nonlocal is_asked
        is_asked = True

    # Before anything is forked: a child that has not set its own yet must not die of the group's SIGTERM.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    prctl = _prctl()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    guard_pid, guard_line = _fork_guard()
    children = _Children(_fork_command(command, prctl), guard_pid)
    while children.status is None and not is_asked:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            children.reap()
        if 0 in ready and not os.read(0, 4096):
            break
    _end_all(children, grace_s)
    os.write(guard_line, _ALL_WELL)
    os.waitpid(guard_pid, 0)
    return children.status or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

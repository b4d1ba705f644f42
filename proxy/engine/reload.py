"""New policies and groups without a restart: the settings are read anew, and all change in one step or none does.

Requests that are on their way go by the policies that they met. Other settings take a restart; those that differ are
named.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog
from pydantic import BaseModel

from proxy.core.entitlement import Groups
from proxy.core.policy import PolicyBook
from proxy.engine.announcements import Announcements
from proxy.engine.books import Books
from proxy.engine.credentials import Gatekeeper
from proxy.engine.policies import PolicyDesk, price_of
from proxy.policy_settings import PolicySettings
from proxy.settings import Settings, SettingsError
from storage.records import JsonObject

RELOADED = frozenset({"policy", "auth.groups"})
"""Settings that a reload takes over."""

_log = structlog.get_logger("hotplate.reload")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did: how many policies hold now, whether they differ from those before, and what else differs."""

    policies: int
    has_changed: bool
    needs_restart: tuple[str, ...]


class Reload:
    """Reads the settings as the start did."""

    def __init__(
        self, settings: Settings, desk: PolicyDesk, gatekeeper: Gatekeeper, books: Books, announcements: Announcements
    ) -> None:
        self._started_with = settings
        self._groups = settings.auth.groups
        self._gatekeeper = gatekeeper
        self._books = books
        self._desk = desk
        self._announcements = announcements
        self._lock = asyncio.Lock()
        self._behind: set[asyncio.Task[None]] = set()
        self.tables: tuple[PolicySettings, ...] = settings.policy
        announcements.subscribe("policies", self._apply)

    async def reload(self) -> Reloaded:
        """Take the policies over that the settings hold now.

        Raises:
            SettingsError: one line that says what is wrong with them; nothing has changed.
        """
        async with self._lock:  # the one that was asked for last wins
            before = self.tables
            read = await asyncio.to_thread(self._started_with.read_anew)
            self._announcements.announce("policies", {"policies": [one.to_json() for one in read.policy]})
            self._gatekeeper.set_groups(Groups.of(read.auth.groups))
            has_changed = read.policy != before or read.auth.groups != self._groups
            self._groups = read.auth.groups
            done = Reloaded(len(read.policy), has_changed, differing(self._started_with, read))
        _log.info("policies_reloaded", policies=done.policies, changed=done.has_changed)
        if done.needs_restart:
            _log.warning("settings_need_a_restart", settings=list(done.needs_restart))
        return done

    def reload_soon(self) -> None:
        """The same for a signal: the log says how it ended."""
        task = asyncio.get_running_loop().create_task(self._reload_behind())
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def _reload_behind(self) -> None:
        try:
            await self.reload()
        except SettingsError as error:
            _log.error("policies_not_reloaded", detail=str(error))

    def _apply(self, payload: JsonObject) -> None:
        self.tables = tuple(PolicySettings.model_validate(table) for table in payload["policies"])
        book = PolicyBook([table.policy() for table in self.tables])
        self._desk.book = book
        self._books.reprice(lambda upstream, model: price_of(book, model))


def differing(started_with: Settings, read: Settings) -> tuple[str, ...]:
    """Names of the settings that differ and take a restart; never a value, for some are secret."""
    names: list[str] = []
    for name in Settings.model_fields:
        names += _differing(name, getattr(started_with, name), getattr(read, name))
    return tuple(name for name in names if name not in RELOADED)


def _differing(name: str, before: object, now: object) -> list[str]:
    if before == now:
        return []
    if not isinstance(before, BaseModel) or type(before) is not type(now):
        return [name]
    fields = type(before).model_fields
    return [
        found
        for field in fields
        for found in _differing(f"{name}.{field}", getattr(before, field), getattr(now, field))
    ]

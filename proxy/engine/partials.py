"""The output of a run on its way, as far as clients may see it.

Text is shown as it grows. Files are shown under this proxy's addresses alone, so each is taken in first, in the
background and one at a time; a list is shown as far as everything in it is here. What was taken in is handed on when
the run has succeeded, and no file is fetched twice. Nothing here is ever stored as a result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from proxy.core.outputs import FileReference, OutputAccess, plan_output, substitute, whole_part
from proxy.engine.ingestor import Ingestor, Taken
from proxy.upstreams.base import Progress
from storage.digest import Digest, hash_bytes
from storage.records import JsonValue, OutputFile

_log = structlog.get_logger("hotplate.partials")


class Partials:
    """The output so far of one flight.

    Args:
        keep: whether files may go to the store; else they go to the spool alone.
        changed: called on the event loop when more can be shown than before.
    """

    def __init__(self, ingestor: Ingestor, access: OutputAccess, *, keep: bool, changed: Callable[[], None]) -> None:
        self._ingestor = ingestor
        self._access = access
        self._keep = keep
        self._changed = changed
        self._output: JsonValue = None
        self._files: tuple[tuple[FileReference, Digest], ...] = ()
        self._is_said_whole = False
        self._taken: dict[Digest, Taken | None] = {}
        self._taking: dict[Digest, asyncio.Task[Taken | None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def are_whole(self) -> bool:
        """Whether the upstream says that the output is whole, and every file in it is here.

        An output without a file never is: the upstream says it of files, and whether a text is whole nobody can tell.
        """
        return (
            self._is_said_whole
            and bool(self._files)
            and all(self._taken.get(name) is not None for _, name in self._files)
        )

    def look(self, progress: Progress) -> None:
        """Take notice of news; files not seen before begin to be taken in."""
        if progress.status != "processing" or self._is_closed:
            return
        self._is_said_whole = progress.has_all_files
        if progress.output is not self._output:
            self._output = progress.output
            files = plan_output(progress.output, self._access).files
            self._files = tuple((file, _name(file.url)) for file in files)
        if self._task is None and self._next() is not None:
            self._task = asyncio.create_task(self._take_in())

    def shown(self) -> tuple[JsonValue, tuple[OutputFile, ...]]:
        """The output as far as it can be shown, ``None`` at each file's place, and these files."""
        missing = [file.path for file, name in self._files if self._taken.get(name) is None]
        output = whole_part(self._output, missing)
        if output is None:
            return None, ()
        length = len(output) if isinstance(output, list) else None
        files = [
            replace(known.file, path=file.path)
            for file, name in self._files
            if (known := self._taken.get(name)) is not None and (length is None or int(file.path[0]) < length)
        ]
        return substitute(output, [(file.path, None) for file in files]), tuple(files)

    async def take(self, index: int, file: FileReference) -> Taken | None:
        """Take in file ``index`` of the output, once whoever asks; ``None`` when it cannot be had now."""
        name = _name(file.url)
        taken = self._taken.get(name)
        if taken is None:
            task = self._taking.get(name)
            if task is None:
                task = asyncio.create_task(self._ingestor.take(index, file, self._access, keep=self._keep))
                self._taking[name] = task
                task.add_done_callback(lambda _: self._taking.pop(name, None))
            await asyncio.wait([task])  # its being cancelled with the run must not look like ours
            taken = self._taken[name] = None if task.cancelled() else task.result()
        return taken

    def known(self, url: str) -> Taken | None:
        """What was taken in under ``url``."""
        return self._taken.get(_name(url))

    async def settle(self) -> None:
        """The run has succeeded: let the file that is on its way arrive, and begin no other."""
        self._is_closed = True
        if self._task is not None:
            await asyncio.wait([self._task])

    async def aclose(self) -> None:
        """The run has ended, however it did."""
        self._is_closed = True
        tasks: list[asyncio.Task[Any]] = [*self._taking.values(), *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _next(self) -> tuple[int, FileReference] | None:
        """The first file that was not tried yet. One that cannot be had is tried again with the result, not before."""
        for index, (file, name) in enumerate(self._files):
            if name not in self._taken:
                return index, file
        return None

    async def _take_in(self) -> None:
        try:
            while not self._is_closed and (due := self._next()) is not None:
                await self.take(*due)
                if not self._is_closed:
                    self._changed()
        except Exception:
            # Then this run's files are shown when it has ended.
            self._is_closed = True
            _log.exception("partial_output_broke")
        finally:
            self._task = None


def _name(url: str) -> Digest:
    """A file may stand in the output as megabytes of base64: those are not kept to find it again."""
    return hash_bytes(url.encode())

"""Keeping one tree like another for as long as it runs: what changes at the source is transferred soon after.

Local changes are noticed through the operating system (the ``watchfiles`` library), those of the virtual directory
through its change log; both are also where a program's edits at a provider appear once cdir has noticed them. Bursts
are gathered. What may have been missed is found by comparing both sides whole, at the beginning and from time to time.
"""

from __future__ import annotations

import asyncio
import os
import random
import stat
import time
import unicodedata
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from cdir.errors import CdirError, CursorExpired, InvalidArgument, NotFound, Unsupported
from cdir.model import Failed
from cdir.paths import parse_endpoint, parse_target
from cdir.sides import Side, is_folder
from cdir.surplus import Deletion, OnRemoved
from cdir.syncing import SyncReport, sync

if TYPE_CHECKING:
    from cdir.client import Client
    from cdir.trees import OnFile

__all__ = ["COMPARE_SECONDS", "KeepAlike"]

COMPARE_SECONDS: Final = 300.0
"""How often both sides are compared whole, when nobody says otherwise."""

_QUIET_SECONDS: Final = 0.3
"""A burst is over when nothing changed for so long; a file younger than that is perhaps still being written."""
_BURST_SECONDS: Final = 2.0
"""The longest that a burst is gathered."""
_MOST_PATHS: Final = 200
"""A burst of more is worked off by comparing both sides whole."""
_FIRST_PAUSE: Final = 2.0
"""How long until what failed is tried again; doubled each time, up to the time between comparisons."""
_LONGEST_PAUSE: Final = 30.0
"""The same for noticing changes, which costs little to try."""
_LOOK_MILLISECONDS: Final = 2000
"""How often it is looked whether the folder is still the same one."""


class _Gathered:
    """What changed at the source and is not worked off yet."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._everything = False
        self._some = asyncio.Event()

    def add(self, path: str) -> None:
        """A path changed; the top itself is everything."""
        self._paths.add(path)
        if not path or len(self._paths) > _MOST_PATHS:
            self.everything()
        self._some.set()

    def everything(self) -> None:
        """Something changed that only a comparison finds."""
        self._everything = True
        self._some.set()

    async def take(self, within: float) -> list[str] | None:
        """Wait for the next burst and return its paths, none below another; ``None`` for everything, which is due
        ``within`` so many seconds whatever changes."""
        try:
            async with asyncio.timeout(within):
                await self._some.wait()
                await self._settled()
        except TimeoutError:
            self._everything = True
        paths, everything = self._paths, self._everything
        self._paths, self._everything = set(), False
        self._some.clear()
        if everything:
            return None
        tops: list[str] = []
        for path in sorted(paths, key=lambda path: path.split("/")):
            if not tops or not path.startswith(f"{tops[-1]}/"):
                tops.append(path)
        return tops

    async def _settled(self) -> None:
        """Wait until the burst is over, or has taken long enough."""
        started = time.monotonic()
        while not self._everything and time.monotonic() - started < _BURST_SECONDS:
            self._some.clear()
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    await self._some.wait()
            except TimeoutError:
                return


class KeepAlike:
    """One tree kept like another. Create it, then :meth:`run` it; cancelling that ends it with nothing half-written."""

    def __init__(
        self,
        client: Client,
        source: Side,
        target: Side,
        *,
        delete: Deletion | None = None,
        parallel: int = 4,
        every: float = COMPARE_SECONDS,
        on_round: Callable[[SyncReport], None] | None = None,
        on_trouble: Callable[[str], None] | None = None,
        on_file: OnFile | None = None,
        on_removed: OnRemoved | None = None,
    ) -> None:
        """``every`` is how often, in seconds, both sides are compared whole. ``on_round`` gets the report of each
        comparison and each burst, ``on_trouble`` one line for each thing that went wrong, once while it lasts."""
        self._client = client
        self._source = source
        self._target = target
        self._delete = delete
        self._parallel = parallel
        self._every = every
        self._on_round = on_round
        self._on_trouble = on_trouble
        self._on_file = on_file
        self._on_removed = on_removed
        self._gathered = _Gathered()
        self._told: set[str] = set()
        self._unnoticed = ""
        """What was told last of why changes are not noticed."""

    async def run(self) -> None:
        """Work until cancelled. No error of a file, a provider or the connection ends it.

        Raises NotFound and InvalidArgument (a source that is no folder) at once, Unsupported without ``watchfiles``.
        """
        watch = _library() if self._source.is_local else None
        match await is_folder(self._client, self._source):
            case None:
                raise NotFound(f"{self._source}: no such folder")
            case False:
                raise InvalidArgument(f"{self._source}: is a file; name the folder that it lies in")
        async with asyncio.TaskGroup() as group:
            noticing = self._notice_changes() if watch is None else self._notice_local(watch)
            group.create_task(noticing, name="cdir sync notices")
            group.create_task(self._work(), name="cdir sync works")

    # working

    async def _work(self) -> None:
        self._gathered.everything()
        pause = _FIRST_PAUSE
        due = time.monotonic()
        while True:
            paths = await self._gathered.take(max(0.0, due - time.monotonic()))
            if paths is None:
                again = not await self._compare()
                wait = min(self._every, pause * random.uniform(0.75, 1.25)) if again else self._every
                pause = min(2 * pause, self._every) if again else _FIRST_PAUSE
                due = time.monotonic() + wait
            elif not await self._follow(paths):
                due = min(due, time.monotonic() + pause)

    async def _compare(self) -> bool:
        """Compare both sides whole; returns whether there is nothing to try again soon."""
        try:
            report = await sync(
                self._client,
                self._source,
                self._target,
                delete=self._delete,
                parallel=self._parallel,
                on_file=self._on_file,
                on_removed=self._on_removed,
            )
        except CdirError as error:
            self._trouble(error.message)
            return False
        lines = {_line(failed) for failed in (*report.transfer.failed, *report.removal.failed)}
        if report.removal.held_back is not None:
            lines.add(report.removal.held_back.message)
        for line in sorted(lines):
            self._trouble(line)
        self._told &= lines  # what is well again is told anew when it fails anew
        if self._on_round is not None:
            self._on_round(report)
        failed = (*report.transfer.failed, *report.removal.failed)
        return all(isinstance(one.error, Unsupported) for one in failed)

    async def _follow(self, paths: list[str]) -> bool:
        """Transfer what changed at these paths; returns whether all went well."""
        well = True
        for path in paths:
            try:
                report = await self._transfer(path)
            except NotFound:
                if await self._gone(path):
                    return well
                continue
            except CdirError as error:
                self._trouble(f"{path}: {error.message}")
                well = False
                continue
            if report is None:
                continue
            for failed in report.transfer.failed:
                self._trouble(_line(failed))
                well = well and isinstance(failed.error, Unsupported)
            if self._on_round is not None and (report.transfer.files or report.transfer.conflicts):
                self._on_round(report)
        return well

    async def _transfer(self, path: str) -> SyncReport | None:
        """Transfer what changed at one path; ``None`` when that is for later. Raises NotFound for what is gone."""
        ready = await asyncio.to_thread(self._is_ready, path) if self._source.is_local else True
        if ready is None:
            self._gathered.add(path)
        if not ready:
            return None
        source, target = self._source.below(path), self._target_of(path)
        folder = await is_folder(self._client, source)
        if folder is None:
            raise NotFound(f"{source}: is gone")
        if not folder and await is_folder(self._client, target):
            self._gathered.everything()  # a folder is in the way, into which the file would go
            return None
        return await sync(self._client, source, target, parallel=self._parallel, on_file=self._on_file)

    def _is_ready(self, path: str) -> bool | None:
        """Whether a local path is a file or folder of the tree, reached through no link; ``None`` for a file that is
        perhaps being written now. Raises NotFound for one that is gone. Blocks.
        """
        local = self._source.below(path).path
        try:
            status = os.lstat(local)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{local}: no such local file") from None
        except OSError as error:
            raise InvalidArgument(f"{local}: {error.strerror}") from error
        if os.path.realpath(local) != os.path.join(os.path.realpath(self._source.path), *path.split("/")):
            return False
        if stat.S_ISREG(status.st_mode) and 0 <= time.time() - status.st_mtime < _QUIET_SECONDS:
            return None
        return stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)

    def _target_of(self, path: str) -> Side:
        return self._target.below(unicodedata.normalize("NFC", path))

    async def _gone(self, path: str) -> bool:
        """Something is not at the source any more; whether it may be removed at the target, only a comparison can say.
        Returns whether one is due."""
        if self._delete is None:
            return False
        try:
            if await is_folder(self._client, self._target_of(path)) is None:
                return False
        except CdirError as error:
            self._trouble(f"{path}: {error.message}")
        self._gathered.everything()
        return True

    def _trouble(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            if self._on_trouble is not None:
                self._on_trouble(line)

    # noticing

    async def _notice_local(self, watch: _Watch) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                async with aclosing(self._touched(watch)) as touched:
                    async for paths in touched:
                        pause, self._unnoticed = _FIRST_PAUSE, ""
                        for path in paths:
                            self._gathered.add(path)
            except (OSError, RuntimeError) as error:
                self._not_noticed(str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            self._gathered.everything()

    async def _touched(self, watch: _Watch) -> AsyncGenerator[list[str], None]:
        """Yield local paths that changed, until the folder itself is another one: a mount that came or went."""
        root = self._source.path
        first = await asyncio.to_thread(_identity, root)
        noticed = watch(
            root,
            watch_filter=None,
            debounce=int(_QUIET_SECONDS * 1000),
            rust_timeout=_LOOK_MILLISECONDS,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
        async with aclosing(noticed):
            async for changes in noticed:
                yield await asyncio.to_thread(_changed, root, changes)
                if await asyncio.to_thread(_identity, root) != first:
                    return

    async def _notice_changes(self) -> None:
        """Follow the change log; for a provider's folder, that of the files of the virtual directory that lie there."""
        endpoint = parse_endpoint(self._source.path)
        if endpoint is None:
            watched = self._source.path
        else:
            key = endpoint.path.strip("/")
            watched = key if key.startswith("@") else f"/{key}"
        top = parse_target(watched).path.rstrip("/")
        revision = -1
        pause = _FIRST_PAUSE
        while True:
            try:
                async with aclosing(self._client.watch(watched, after_revision=revision)) as changes:
                    async for change in changes:
                        revision = change.revision
                        pause, self._unnoticed = _FIRST_PAUSE, ""
                        for path in (change.path, change.old_path):
                            if path == top or path.startswith(f"{top}/"):
                                self._gathered.add(path[len(top) + 1 :])
            except CursorExpired:
                revision = -1
            except CdirError as error:
                self._not_noticed(error.message)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            if revision < 0:
                self._gathered.everything()

    def _not_noticed(self, why: str) -> None:
        if why != self._unnoticed and self._on_trouble is not None:
            self._on_trouble(
                f"{self._source}: changes are not noticed at once now ({why}); both sides are compared every"
                f" {self._every:g} s"
            )
        self._unnoticed = why


_Watch = Callable[..., AsyncGenerator[set[tuple[Any, str]], None]]
"""``watchfiles.awatch``."""


def _library() -> _Watch:
    try:
        from watchfiles import awatch
    except ImportError:
        raise Unsupported("watching a local folder needs watchfiles; run `pip install 'cdir[watch]'`") from None
    return awatch


def _line(failed: Failed) -> str:
    message = failed.error.message
    return message if failed.path in message else f"{failed.path}: {message}"


def _identity(root: str) -> tuple[int, int]:
    status = os.stat(root)
    return status.st_dev, status.st_ino


def _changed(root: str, changes: set[tuple[Any, str]]) -> list[str]:
    """Return the paths below ``root`` that something happened to; that a folder has other contents is told by these."""
    paths = []
    for change, local in changes:
        path = os.path.relpath(local, root)
        if path != "." and not (change.name == "modified" and os.path.isdir(local)):
            paths.append(path.replace(os.sep, "/"))
    return paths

"""Calls to the rclone process, and what comes back.

Raises only errors of cdir.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import dataclasses
import json
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from urllib.parse import quote

import aiohttp
from yarl import URL

from cdir.errors import CdirError, ConfigInvalid, IntegrityError, RangeNotSatisfied
from cdir_adapters.adapter import ByteRange
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.providers.rclone.faults import Faults
from cdir_adapters.providers.rclone.program import Program
from cdir_adapters.providers.rclone.settings import RcloneSettings
from cdir_adapters.shapes import PIECE_SIZE

__all__ = ["Backend", "Opened", "Wire", "when"]

_READING: Final = "reading a file"
_LONGEST_ERROR: Final = 1 << 16
_LONGEST_ENTRY: Final = 1 << 20
"""Characters of what is said about one object; more is no answer of rclone."""
_LIST_BEGIN: Final = re.compile(r'\s*\{\s*"list"\s*:\s*(?:\[|null\s*\}\s*$)')
_BETWEEN: Final = re.compile(r"[\s,]*")
_LIST_END: Final = re.compile(r"\]\s*\}\s*")
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})--?[0-9]{1,19}/([0-9]{1,19})")
_STOP_DEADLINE: Final = 5.0
_YEAR: Final = timedelta(days=365)
_CHECKSUMS: Final = ("sha256", "sha1", "md5")
"""Those that cdir knows as well, the strongest first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Backend:
    """What rclone says about the service behind the remote."""

    features: frozenset[str]
    precision: timedelta | None
    checksum: ChecksumKind | None
    """One that the service states by itself; ``None`` where rclone would have to read the file for it."""
    folder: str | None = None
    """Where the remote's own root lies on this machine, ending with a slash; ``None`` of everything else."""

    @property
    def shows_whole_files(self) -> bool:
        """Whether an upload shows only when it is whole, and one that fails leaves what is there.

        So it is with buckets; and rclone itself uploads under another name where it says that an upload would show.
        Others may remove the older file after an upload that failed, as the backend for WebDAV does.
        """
        return "BucketBased" in self.features or {"PartialUploads", "Move"} <= self.features

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Backend:
        """Read the answer of ``operations/fsinfo``."""
        features = frozenset(name for name, value in (told.get("Features") or {}).items() if value is True)
        step = timedelta(microseconds=max(1, int(told.get("Precision") or 0) // 1000))
        hashes = told.get("Hashes") or ()
        stated = next((name for name in _CHECKSUMS if name in hashes), None)
        return cls(
            features,
            # rclone says a hundred years of services that keep no times
            step if step < _YEAR else None,
            ChecksumKind(stated) if stated is not None and "SlowHash" not in features else None,
            _folder(str(told.get("Root") or "")) if "IsLocal" in features else None,
        )


def _folder(root: str) -> str | None:
    return f"{root.rstrip('/')}/" if root.startswith("/") else None


@dataclasses.dataclass(slots=True)
class Opened:
    """An object being read."""

    size: int
    """Of the whole object."""
    modified: str | None
    """As received: in whole seconds."""
    length: int
    """Bytes that ``pieces`` yields, else it raises."""
    pieces: AsyncGenerator[bytes, None]


class Wire:
    """The calls of one adapter."""

    def __init__(self, settings: RcloneSettings, program: Program, faults: Faults) -> None:
        self._settings = settings
        self._program = program
        self._faults = faults
        self._starting = asyncio.Lock()
        self._backend: Backend | None = None

    async def ready(self) -> Backend:
        """Start what does not run, and return what is known of the service."""
        if self._backend is not None and self._program.alive:
            return self._backend
        async with self._starting:
            if not self._program.alive:
                first = await self._program.start()
                if first and self._settings.type is not None:
                    await self._configure(self._settings.type)
            if self._backend is None:
                self._backend = Backend.of(
                    await self._answer("operations/fsinfo", {"fs": self._settings.fs}, "connecting", "")
                )
            return self._backend

    async def _configure(self, backend: str) -> None:
        """Make the remote. rclone writes it, and what it later renews of it, into its own configuration file."""
        given = {**self._settings.parameters, **self._settings.secrets}
        if "token" in given:
            given.setdefault("config_refresh_token", "false")
        call = {
            "name": self._settings.remote,
            "type": backend,
            "parameters": given,
            "opt": {"obscure": True, "nonInteractive": True, "noOutput": True},
        }
        try:
            await self._answer("config/create", call, "configuring the remote", "")
        except CdirError as error:
            # nothing was asked of the service yet
            raise ConfigInvalid(error.message, provider=self._faults.provider, option="type") from None

    async def call(self, method: str, call: Mapping[str, Any], doing: str, key: str) -> dict[str, Any]:
        """Make a call with a short answer."""
        await self.ready()
        return await self._answer(method, call, doing, key)

    async def transfer(self, method: str, call: Mapping[str, Any], doing: str, key: str) -> None:
        """Make a call that may take long; when the caller gives up, so does rclone."""
        await self.ready()
        group = f"cdir-{uuid.uuid4().hex}"
        try:
            await self._answer(method, {**call, "_group": group}, doing, key)
        except asyncio.CancelledError:
            await self._stop(group)
            raise
        finally:
            if self._program.alive:
                with contextlib.suppress(CdirError):
                    await self._forget(group)

    async def _stop(self, group: str) -> None:
        """Stop a call, for a limited time. rclone notices by itself too, when the connection closes."""
        try:
            async with asyncio.timeout(_STOP_DEADLINE):
                await self._answer("job/stopgroup", {"group": group}, "stopping a transfer", "")
        except (CdirError, TimeoutError):
            return

    async def _forget(self, group: str) -> dict[str, Any]:
        """Drop the statistics of calls that belonged together; return what they were."""
        try:
            async with asyncio.timeout(_STOP_DEADLINE):
                told = await self._answer("core/stats", {"group": group, "short": True}, "counting errors", "")
                await self._answer("core/stats-delete", {"group": group}, "counting errors", "")
        except TimeoutError:
            raise self._faults.unavailable("rclone does not answer", "counting errors") from None
        return told

    async def _answer(self, method: str, call: Mapping[str, Any], doing: str, key: str) -> dict[str, Any]:
        with self._faults.translated(doing, key):
            async with self._program.http.post(f"http://rclone/{method}", json=call) as answer:
                if answer.status != 200:
                    raise self._faults.answer(answer.status, await _beginning(answer), doing, key)
                try:
                    told = json.loads(await answer.read())
                except ValueError:
                    told = None
                if not isinstance(told, dict):
                    raise self._faults.unavailable("rclone gives an answer that is none", doing, key)
                return told

    # ------------------------------------------------------------------ listings

    async def is_folder(self, path: str, key: str) -> bool:
        """Tell whether there is a folder. Raises what rclone says, unless it says that there is none.

        A folder is asked for what it holds, and the answer is not read: looking for it would list the folder above.
        """
        await self.ready()
        doing = "looking at a folder"
        with self._faults.translated(doing, key):
            async with self._program.http.post(
                "http://rclone/operations/list", json=self._listing(path, times=False)
            ) as answer:
                if answer.status == 200:
                    if answer.content_length is None:
                        # a long one; the connection is given up
                        answer.close()
                    return True
                error = self._faults.answer(answer.status, await _beginning(answer), doing, key)
        if error.reason in {"NOT_FOUND", "NOT_DIRECTORY"}:
            return False
        raise error

    def _listing(self, path: str, *, times: bool) -> dict[str, Any]:
        options = {"noMimeType": True, "noModTime": not times}
        return {"fs": self._settings.fs, "remote": path.rstrip("/"), "opt": options}

    async def entries(self, path: str, key: str, *, times: bool) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what lies right below a folder, as rclone says it; raise when that is not everything.

        Some backends leave out what they could not look at, and only count it. Raises NotFound and NotDirectory.
        """
        await self.ready()
        doing, group = "listing a folder", f"cdir-{uuid.uuid4().hex}"
        call = {**self._listing(path, times=times), "_group": group}
        counted = None
        try:
            with self._faults.translated(doing, key):
                async with self._program.http.post("http://rclone/operations/list", json=call) as answer:
                    if answer.status != 200:
                        raise self._faults.answer(answer.status, await _beginning(answer), doing, key)
                    async for entry in _parsed(answer.content):
                        if entry is None:
                            raise self._faults.unavailable("rclone gives a listing that is none", doing, key)
                        yield entry
            counted = await self._forget(group)
        finally:
            if counted is None and self._program.alive:
                with contextlib.suppress(CdirError):
                    await self._forget(group)
        if counted.get("errors"):
            said = self._faults.clean(str(counted.get("lastError") or "no word was said"))
            raise self._faults.unavailable(f"not everything could be looked at (rclone: {said})", doing, key)

    # ------------------------------------------------------------------ reading

    @asynccontextmanager
    async def open(self, path: str, key: str, range: ByteRange) -> AsyncIterator[Opened]:
        """Ask for a range that is not empty; what comes is cut at the end of the object. Raises RangeNotSatisfied."""
        await self.ready()
        url = URL(f"http://rclone/[{quote(self._settings.fs, safe=':/')}]/{quote(path, safe='/')}", encoded=True)
        headers = {"Accept-Encoding": "identity"}
        whole = range.offset == 0 and range.length is None
        if not whole:
            end = "" if range.length is None else range.offset + range.length - 1
            headers["Range"] = f"bytes={range.offset}-{end}"
        with self._faults.translated(_READING, key):
            answer = await self._program.http.get(url, headers=headers, allow_redirects=False)
        try:
            with self._faults.translated(_READING, key):
                if answer.status not in {200, 206}:
                    raise self._faults.answer(answer.status, await _beginning(answer), _READING, key)
            yield self._opened(answer, key, range)
        finally:
            # a body that was not read to its end takes the connection with it
            answer.release()

    def _opened(self, answer: aiohttp.ClientResponse, key: str, range: ByteRange) -> Opened:
        size, start = answer.content_length, 0
        if answer.status == 206:
            given = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            size, start = (None, 0) if given is None else (int(given[2]), int(given[1]))
        if size is None or start != (range.offset if answer.status == 206 else 0):
            raise self._faults.unavailable("rclone gives another part than was asked for", _READING, key)
        if range.offset >= size and not (range.offset == 0 and size == 0):
            raise RangeNotSatisfied(f"{key} has {size} bytes; nothing can be read from offset {range.offset}", key=key)
        skip = range.offset if answer.status == 200 else 0
        rest = size - range.offset
        length = rest if range.length is None else min(range.length, rest)
        modified = answer.headers.get("Last-Modified")
        return Opened(size, modified, length, self._pieces(answer.content, key, skip, length))

    async def _pieces(
        self, body: aiohttp.StreamReader, key: str, skip: int, length: int
    ) -> AsyncGenerator[bytes, None]:
        left = length
        while left:
            with self._faults.translated(_READING, key):
                piece = await body.readany()
            if not piece:
                raise IntegrityError(f"{key}: rclone ended the content {left} bytes early", key=key)
            wanted = piece[skip : skip + left] if skip or len(piece) > left else piece
            skip = max(0, skip - len(piece))
            left -= len(wanted)
            for start in range_(0, len(wanted), PIECE_SIZE):
                yield wanted if len(wanted) <= PIECE_SIZE else wanted[start : start + PIECE_SIZE]


range_ = range
"""The built-in one, whose name the interface uses for something else."""


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """Return the body of an error, if it is of a reasonable length."""
    body = b""
    while len(body) < _LONGEST_ERROR and (piece := await answer.content.readany()):
        body += piece
    return body


class _Content(Protocol):
    """What :class:`aiohttp.StreamReader` offers."""

    async def readany(self) -> bytes: ...


async def _parsed(content: _Content) -> AsyncIterator[dict[str, Any] | None]:
    """Yield the objects of ``{"list": […]}`` as they come; ``None`` when it is something else or ends too early."""
    text, begun = "", False
    decode = json.JSONDecoder().raw_decode
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while piece := await content.readany():
        text += decoder.decode(piece)
        if not begun:
            found = _LIST_BEGIN.match(text)
            if found is None:
                if len(text) > _LONGEST_ERROR:
                    break
                continue
            if not found.group().endswith("["):
                return
            begun, text = True, text[found.end() :]
        place = 0
        while True:
            between = _BETWEEN.match(text, place)
            place = place if between is None else between.end()
            if place == len(text) or text[place] != "{":
                break
            try:
                entry, place = decode(text, place)
            except ValueError:
                break
            yield entry
        text = text[place:]
        if len(text) > _LONGEST_ENTRY:
            break
    if not (begun and _LIST_END.fullmatch(text)):
        yield None


def when(text: str | None) -> datetime | None:
    """Read a time as rclone writes it; ``None`` for none or another."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None

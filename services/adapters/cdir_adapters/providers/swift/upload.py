"""Large objects: segments in a container of their own, and a manifest in the object's place that names them.

Nothing of them shows before the manifest is stored, which the service does only when every segment is there with the
MD5 and the size that the manifest says. A manifest has at most :data:`FANOUT` entries of its own kind; of a longer
object, every so many segments are gathered under a manifest in the segments' container, so that neither the service's
limit of entries nor the memory for them bounds the object's size.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import logging
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final
from urllib.parse import quote

from cdir.errors import CdirError, IntegrityError, InvalidArgument, NotFound, ProviderUnavailable, Retry
from cdir_adapters.parts import Sending
from cdir_adapters.providers.swift.faults import Faults
from cdir_adapters.providers.swift.headers import md5_of_etag
from cdir_adapters.providers.swift.wire import Pieces, Request, Wire
from cdir_runtime.inline_hash import hash_inline

__all__ = [
    "SEGMENT_SIZE",
    "UPLOAD_FOLDER",
    "Part",
    "Segment",
    "Upload",
    "copying",
    "delete_all",
    "first_cause",
    "md5_of",
    "parts_of",
]

logger = logging.getLogger(__name__)

SEGMENT_SIZE = 8 * 1024 * 1024
"""Bytes of a segment; the last one of an object is shorter."""
FANOUT = 500
"""Entries of a manifest of one kind; a service takes 1000 in all, unless it is configured otherwise."""
UPLOAD_FOLDER: Final = ".cdir-"
"""What the folder with the segments of one upload, below the object's own name, begins with; an id follows."""

_DELETING: Final = 8
_DISCARD_DEADLINE: Final = 15.0
_ANSWER_DEADLINE: Final = 10.0
"""Seconds of :data:`_DISCARD_DEADLINE` in which the service may answer what it was asked before the upload failed."""
_MANIFEST_IDLE: Final = 600.0
"""Seconds that a service gets to look at every segment of a manifest."""
_SEGMENT_IS_GONE: Final = "404 Not Found"
"""What Swift says in its refusal (400) of a manifest, behind the path of each segment that it does not find."""
_COPY_IDLE: Final = 60.0
"""Seconds that a service's own copy may take, and one more for every :data:`_COPY_SPEED` bytes."""
_COPY_SPEED: Final = 4 * 1024 * 1024
_INLINE_DIGEST: Final = 256 * 1024
"""Up to this many bytes a digest takes less time than handing it to a thread is worth."""

Part = list[memoryview]


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """One entry of a manifest."""

    path: str
    """``container/name``."""
    md5: str
    """Of its bytes; of a manifest, of the digests it names."""
    size: int


async def md5_of(pieces: Pieces) -> str:
    """Return the MD5 of a body as hex, without holding up the event loop."""
    if len(pieces) == 1 and len(pieces[0]) <= _INLINE_DIGEST:
        return hash_inline(hashlib.md5, bytes(pieces[0])).hexdigest()
    return await asyncio.to_thread(_md5, pieces)


def _md5(pieces: Pieces) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


async def parts_of(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[Part, None]:
    """Group pieces into parts of :data:`SEGMENT_SIZE` without copying them; the last is shorter, none is empty."""
    part: Part = []
    missing = SEGMENT_SIZE
    async with aclosing(pieces):
        async for piece in pieces:
            rest = memoryview(piece)
            while len(rest) >= missing:
                part.append(rest[:missing])
                rest = rest[missing:]
                yield part
                part, missing = [], SEGMENT_SIZE
            if rest:
                part.append(rest)
                missing -= len(rest)
    if part:
        yield part


class Upload:
    """One unfinished large object at the service.

    ``target`` is ``container/object``, ``segments`` the container of the segments, which exists.
    """

    def __init__(self, wire: Wire, faults: Faults, target: str, segments: str, key: str) -> None:
        self._wire = wire
        self._faults = faults
        self._target = target
        self._key = key
        self._segments = segments
        self._folder = f"{segments}/{target.partition('/')[2]}/{UPLOAD_FOLDER}{uuid.uuid4().hex}"
        self._begun = self._folded = 0
        """Numbers of the last segment and of the last manifest of segments, stored or not."""
        self._done: list[Segment] = []
        """Manifests of segments."""
        self._open: list[Segment | None] = []
        """Segments that are not under a manifest yet, in their order; ``None`` is still on its way."""
        self._asked: dict[asyncio.Task[Mapping[str, str]], asyncio.Event] = {}
        """Requests without an answer yet, and whether the service has been sent all of each."""
        self._committed = False
        self.size = 0
        """Bytes of what was stored."""

    # ------------------------------------------------------------------ the segments

    async def fill(self, sources: AsyncGenerator[Part | Segment, None]) -> None:
        """Store every next part, or a copy of every next segment, a few at once."""
        async with aclosing(sources), Sending() as sending, aclosing(sending.paced(sources)) as paced:
            async for source in paced:
                if len(self._open) >= FANOUT:
                    await sending.all_sent()
                    await self._fold()
                self._begun += 1
                self._open.append(None)
                place, path = len(self._open) - 1, self._name("s", self._begun)
                if isinstance(source, Segment):
                    # the service holds those bytes, not this process
                    sending.start(self._copy(source, place, path), 0)
                else:
                    sending.start(self._send(source, place, path), sum(map(len, source)))
                del source

    def _name(self, kind: str, number: int) -> str:
        return f"{self._folder}/{kind}{number:08}"

    async def _send(self, part: Part, place: int, path: str) -> None:
        request = Request("PUT", path, "sending a segment", self._key, data=part)
        try:
            digest, answered = await asyncio.gather(md5_of(part), self._ask(request))
        except NotFound:
            raise self._faults.container_is_gone(self._segments) from None
        self._store(place, Segment(path, digest, sum(map(len, part))), answered)

    async def _copy(self, source: Segment, place: int, path: str) -> None:
        doing = "copying a segment"
        try:
            answered = await self._ask(copying(source.path, path, doing, self._key, source.size))
        except NotFound:
            raise self._faults.broken(f"a segment of {self._key} is missing", doing) from None
        self._store(place, Segment(path, source.md5, source.size), answered)

    async def _ask(self, request: Request) -> Mapping[str, str]:
        """Send a request and return the headers of a good answer.

        When this is cancelled the request goes on until :meth:`_settle`: the service carries out what it was sent even
        if the connection is closed, and so could store a segment after it was removed.
        """
        whole = asyncio.Event()
        asking = asyncio.create_task(self._wire.headers(dataclasses.replace(request, whole=whole)))
        asking.add_done_callback(self._answered)
        self._asked[asking] = whole
        await asyncio.wait([asking])
        return asking.result()

    def _answered(self, asking: asyncio.Task[Mapping[str, str]]) -> None:
        del self._asked[asking]
        if not asking.cancelled():
            asking.exception()  # taken, should nobody wait for it any more

    async def _settle(self) -> None:
        """Wait until the service has answered what it was sent, and end what it was sent only in part."""
        for asking, whole in self._asked.items():
            if not whole.is_set():
                asking.cancel()
        asked = list(self._asked)
        try:
            if asked:
                await asyncio.wait(asked, timeout=_ANSWER_DEADLINE)
        finally:
            for asking in asked:
                asking.cancel()

    def _store(self, place: int, segment: Segment, answered: Mapping[str, str]) -> None:
        """Take note of a stored segment. One whose ETag is not answered is held against its MD5 by the manifest."""
        if md5_of_etag(answered.get("ETag")) not in {None, segment.md5}:
            raise IntegrityError(
                f"provider {self._faults.provider}: a segment of {self._key} arrived with other bytes than were sent;"
                " try again",
                key=self._key,
            )
        self._open[place] = segment
        self.size += segment.size

    # ------------------------------------------------------------------ the manifests

    async def _fold(self) -> None:
        """Gather the open segments, which are all there, under a manifest."""
        self._folded += 1
        path = self._name("m", self._folded)
        gathered = self._stored_ones()
        digest = _digest(gathered)
        await self._ask(self._manifest(path, gathered, digest, {}))
        self._done.append(Segment(path, digest, sum(segment.size for segment in gathered)))
        self._open.clear()

    def _stored_ones(self) -> list[Segment]:
        return [segment for segment in self._open if segment is not None]

    async def commit(self, headers: Mapping[str, str]) -> str | None:
        """Make the object appear, and return its ETag. Raises IntegrityError when it is not what was meant."""
        entries = self._done + self._stored_ones()
        digest = _digest(entries)
        self._committed = True
        try:
            answered = await self._wire.headers(self._manifest(self._target, entries, digest, headers))
        except NotFound:
            self._committed = False
            raise self._faults.container_is_gone(self._target.partition("/")[0]) from None
        except CdirError as error:
            # a refusal is known to have changed nothing; of other failures that is not known
            self._committed = error.retry is not Retry.NEVER
            if isinstance(error, IntegrityError):
                raise IntegrityError(
                    f"provider {self._faults.provider}: the service does not put together the segments of {self._key};"
                    " either it has no static large objects (SLO), or a segment was changed",
                    key=self._key,
                ) from error
            if isinstance(error, InvalidArgument) and _SEGMENT_IS_GONE in error.message:
                raise ProviderUnavailable(
                    f"provider {self._faults.provider}: segments of {self._key} were removed while it was stored",
                    key=self._key,
                ) from error
            raise
        return await self._proven(digest, await md5_of([_text(entries)]), answered.get("ETag"))

    def _manifest(self, path: str, entries: Sequence[Segment], digest: str, headers: Mapping[str, str]) -> Request:
        return Request(
            "PUT",
            path,
            "storing a manifest",
            self._key,
            {"multipart-manifest": "put"},
            # a service without large objects, which would store the text itself, refuses it for this ETag
            {**headers, "ETag": digest},
            [_text(entries)],
            _MANIFEST_IDLE,
        )

    async def _proven(self, digest: str, text_digest: str, answered: str | None) -> str | None:
        """Look at the finished object; return its ETag. Raises IntegrityError when it is not what was meant."""
        try:
            found = await self._wire.headers(Request("HEAD", self._target, "looking at an object", self._key))
        except NotFound:
            found = {}
        etag = md5_of_etag(found.get("ETag"))
        if etag == digest and found.get("Content-Length") == str(self.size):
            return found.get("ETag")
        ours = etag in {digest, text_digest}
        if not ours and etag is not None and md5_of_etag(answered) == digest:
            return answered  # another writer was there since
        if ours:
            await self._wire.headers(Request("DELETE", self._target, "removing what is not right", self._key))
        raise IntegrityError(
            f"provider {self._faults.provider} said that it stored {self._key}, but does not hold what was sent",
            key=self._key,
        )

    async def discard(self) -> None:
        """Remove the segments, for a limited time, unless they may belong to an object; ``sweep`` finds the rest."""
        if self._committed:
            return
        paths = [self._name("m", number) for number in range(1, self._folded + 1)]
        paths += [self._name("s", number) for number in range(1, self._begun + 1)]
        try:
            async with asyncio.timeout(_DISCARD_DEADLINE):
                await self._settle()
                await delete_all(self._wire, paths, self._key)
        except (CdirError, TimeoutError) as error:
            logger.warning("%s: segments may remain until the next sweep: %s", self._key, error)


def _digest(entries: Sequence[Segment]) -> str:
    """The ETag of a manifest: the MD5 of its entries' digests, as text."""
    return hashlib.md5("".join(entry.md5 for entry in entries).encode(), usedforsecurity=False).hexdigest()


def _text(entries: Sequence[Segment]) -> bytes:
    return json.dumps(
        [{"path": f"/{entry.path}", "etag": entry.md5, "size_bytes": entry.size} for entry in entries]
    ).encode()


def copying(source: str, target: str, doing: str, key: str, size: int) -> Request:
    """The request for a copy, by the service itself, of an object of ``size`` bytes; metadata is copied with it."""
    headers = {"X-Copy-From": f"/{quote(source)}", "Content-Length": "0"}
    return Request("PUT", target, doing, key, headers=headers, idle=_COPY_IDLE + size / _COPY_SPEED)


async def delete_all(wire: Wire, paths: Iterable[str], key: str) -> None:
    """Remove segments, a few at once; missing ones are removed already."""

    async def work(waiting: Iterator[str]) -> None:
        for path in waiting:
            with contextlib.suppress(NotFound):
                await wire.headers(Request("DELETE", path, "removing a segment", key))

    waiting = iter(paths)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_DELETING):
                group.create_task(work(waiting))
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that made a group of tasks fail: the first one that is not a group itself."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first

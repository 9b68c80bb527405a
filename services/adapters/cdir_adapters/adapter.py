"""The adapter interface: the truth about one provider, nothing more.

An :class:`Adapter` speaks for one account and root at one provider. It is bound to one event loop and safe for
concurrent use there. It does not retry, time out, limit or measure; layers (:mod:`cdir_adapters.layers`) are adapters
that wrap an adapter and do. Errors are those of :mod:`cdir.errors`; a vendor's error never leaves the adapter, and
``asyncio.CancelledError`` always passes.

Paths reach an adapter in normal form (:func:`cdir.paths.normalize_path`) as keys: relative, NFC, no empty, ``.`` or
``..`` component. The empty key names the provider's root and is valid only where a directory is.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

from cdir.errors import CdirError, Unsupported
from cdir_adapters.acl import Access, Acl
from cdir_adapters.capability import Capability, ChecksumKind

__all__ = [
    "FULL",
    "NO_METADATA",
    "Adapter",
    "AdapterInfo",
    "Beginning",
    "ByteRange",
    "Checksum",
    "FetchedObject",
    "ObjectInfo",
    "ObjectKind",
    "Page",
    "ReadStream",
    "SmallObject",
    "Source",
    "Usage",
    "WriteMode",
]

Source = bytes | AsyncIterable[bytes]
"""Content to write: whole when it is in memory anyway, else its pieces in order (of any size, none of them empty)."""

NO_METADATA: Mapping[str, str] = MappingProxyType({})


class ObjectKind(enum.Enum):
    FILE = "file"
    DIRECTORY = "directory"
    OTHER = "other"
    """A symlink, device, socket or FIFO: shown by ``list``, never followed or read."""


class WriteMode(enum.Enum):
    OVERWRITE = "overwrite"
    CREATE = "create"
    """Fail with AlreadyExists when the object exists. Requires ``write_if_absent``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Checksum:
    """A provider's own statement about an object's content; ``value`` is lower-case hex (``hex-N`` for multipart)."""

    kind: ChecksumKind
    value: str
    compared: bool = dataclasses.field(default=False, compare=False)
    """Whether the adapter has held it against the content that was sent."""


@dataclasses.dataclass(frozen=True, slots=True)
class ByteRange:
    """``length`` bytes from ``offset``; ``None`` reads to the end. A range that ends past the object is cut short."""

    offset: int = 0
    length: int | None = None

    def __post_init__(self) -> None:
        if self.offset < 0 or (self.length is not None and self.length < 0):
            raise ValueError("a range has neither a negative offset nor a negative length")


FULL = ByteRange()


class Beginning(NamedTuple):
    """The first ``length`` bytes of an object; of a shorter one, all."""

    key: str
    length: int


class SmallObject(NamedTuple):
    """A whole small object to store, see ``write``."""

    key: str
    data: bytes
    modified: datetime
    mode: WriteMode = WriteMode.OVERWRITE
    access: Access | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a provider can truly say about one object. Fields it does not know are ``None``."""

    key: str
    size: int
    kind: ObjectKind = ObjectKind.FILE
    modified: datetime | None = None
    """The client's modified time where the provider keeps one, else the provider's own; aware, UTC."""
    etag: str | None = None
    """Exactly as received, quotes included: it is sent back in conditions, never compared to a digest."""
    checksum: Checksum | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=lambda: NO_METADATA)
    """User metadata, keys in lower case; empty in listings."""
    access: Access | None = None
    """Only in the answer to a ``write``: what it was stored with; ``None`` when that is what the provider chose."""


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """One piece of a listing. A listing that ends without an error was complete."""

    objects: tuple[ObjectInfo, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class FetchedObject:
    """The answer of ``fetch``: what the object is, and the bytes of the range."""

    info: ObjectInfo
    data: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Bytes at the provider; ``None`` where it does not say."""

    used: int | None = None
    free: int | None = None
    total: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class AdapterInfo:
    """Who this adapter speaks for. Printable: it never holds a secret."""

    kind: str
    name: str
    location: str
    """Where the root is, in the words of its kind: ``/srv/data``, ``s3://bucket/prefix at host:port``."""


class ReadStream(AsyncIterator[bytes]):
    """An object being read: ``info`` first, then pieces of at most a few MiB in order.

    Ends early only with an error: a body shorter than the provider announced raises IntegrityError.
    """

    info: ObjectInfo


class Adapter(ABC):
    """One provider account and root. See the module's text for the rules all methods share."""

    info: AdapterInfo
    capability: Capability
    """Of the current stack; a layer may change it."""
    calls_at_once: int | None = None
    """As many calls of a sort (that look, that change something) as get on at the same time; further ones would wait
    inside the adapter, where it looks like a provider that is silent. ``None``: as many as the layers let through."""
    objects_at_once: int | None = None
    """The same for the small objects of batches."""

    @abstractmethod
    async def check(self) -> None:
        """Reach the provider with the credentials given; touch no data.

        Raises Unauthenticated, PermissionDenied, NotFound (the root is missing and could not be made), ConfigInvalid or
        ProviderUnavailable.
        """

    @abstractmethod
    async def prepare(self) -> None:
        """Make the root (folder, bucket, prefix) when it is missing; existing is success. Called once, when a provider
        is added, before ``check``."""

    @abstractmethod
    async def stat(self, key: str) -> ObjectInfo:
        """Return what lies at ``key``. Raises NotFound. A directory is returned with kind DIRECTORY where the provider
        has directories, else NotFound."""

    @abstractmethod
    def list(self, prefix: str, *, recursive: bool = False, start_after: str | None = None) -> AsyncIterator[Page]:
        """Yield pages of what lies under the directory ``prefix`` (``""`` is the root).

        A plain method that returns an async iterator. Not recursive: files and directories right below. Recursive:
        every file below (directories may be left out). A missing prefix yields nothing. ``start_after`` requires
        ``list_ordered`` and skips keys up to and including it. A listing that breaks off raises: it is complete or an
        error, never a short success. Temporary objects of an unfinished ``write`` are never shown.
        """

    @abstractmethod
    def read(
        self, key: str, *, range: ByteRange = FULL, if_match: str | None = None
    ) -> AbstractAsyncContextManager[ReadStream]:
        """Open ``key`` for reading. Leaving the context early closes the request at the provider.

        Raises NotFound, IsDirectory, RangeNotSatisfied (offset at or past the end of a non-empty range; offset 0 of an
        empty object is an empty stream), PreconditionFailed (``if_match``; requires ``read_if_match``).
        """

    @abstractmethod
    async def write(
        self,
        key: str,
        source: Source,
        *,
        size: int | None,
        modified: datetime,
        mode: WriteMode = WriteMode.OVERWRITE,
        if_match: str | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
        access: Access | None = None,
    ) -> ObjectInfo:
        """Store an object: all or nothing.

        An error, a cancellation, a source that raises, or one that yields more or fewer than ``size`` bytes
        (IntegrityError) leaves what was there before. Parents are made as needed. ``size`` ``None`` requires
        ``write_unknown_size``. The returned info holds the provider's checksum where it states one, and the adapter
        has compared it to the bytes it sent (IntegrityError, and the object is removed, when they differ).
        Raises AlreadyExists (``mode``), PreconditionFailed (``if_match``), IsDirectory, NotDirectory, QuotaExceeded,
        InvalidPath (a name or size the provider cannot hold).

        The object has ``access`` when this returns, and no wider one from the moment it can be seen (requires
        ``write_access``), or the narrower one that the provider has by itself where it turns out to refuse ACLs;
        ``None`` leaves it to the provider.
        """

    @abstractmethod
    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove a file; a missing one is success. Directories left empty by it may be removed as well. Raises
        IsDirectory."""

    async def fetch(self, key: str, *, range: ByteRange = FULL, if_match: str | None = None) -> FetchedObject:
        """Read a range that fits in memory (a few MiB at most) in one go; the errors are those of ``read``."""
        async with self.read(key, range=range, if_match=if_match) as stream:
            pieces = [piece async for piece in stream]
            return FetchedObject(stream.info, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    async def fetch_each(self, beginnings: Sequence[Beginning]) -> Sequence[FetchedObject | CdirError]:
        """Read the beginnings of several small objects side by side; an error stands in the place of what failed.

        All of them are asked for at once: callers bound their number. Default: a :meth:`fetch` for each.
        """
        async with asyncio.TaskGroup() as group:
            fetching = [group.create_task(self._fetch_beginning(one)) for one in beginnings]
        return [one.result() for one in fetching]

    async def _fetch_beginning(self, beginning: Beginning) -> FetchedObject | CdirError:
        try:
            return await self.fetch(beginning.key, range=ByteRange(0, beginning.length))
        except CdirError as error:
            return error

    async def write_each(self, objects: Sequence[SmallObject]) -> Sequence[ObjectInfo | CdirError]:
        """Store several small objects side by side, each as ``write`` does; an error stands in the place of one that
        failed. All of them are sent at once: callers bound their number. Default: a :meth:`write` for each.
        """
        async with asyncio.TaskGroup() as group:
            writing = [group.create_task(self._write_small(one)) for one in objects]
        return [one.result() for one in writing]

    async def _write_small(self, one: SmallObject) -> ObjectInfo | CdirError:
        try:
            return await self.write(
                one.key, one.data, size=len(one.data), modified=one.modified, mode=one.mode, access=one.access
            )
        except CdirError as error:
            return error

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """Copy inside the provider, replacing ``target``, keeping modified time and metadata. Requires ``copy``."""
        raise self.unsupported("copy")

    async def move(self, source: str, target: str) -> ObjectInfo:
        """Rename inside the provider, replacing ``target``. Parents are made as needed. Requires ``move``."""
        raise self.unsupported("move")

    async def make_directory(self, key: str) -> None:
        """Make a directory and its parents; existing is success. Requires ``directories``."""
        raise self.unsupported("directories")

    async def remove_directory(self, key: str) -> None:
        """Remove an empty directory; missing is success. Raises DirectoryNotEmpty. Requires ``directories``."""
        raise self.unsupported("directories")

    async def digest(self, key: str) -> bytes:
        """Have the provider compute the SHA-256 of an object, and return it: 32 bytes. Takes time with the size.

        Raises NotFound as ``read`` does. Requires ``digest``.
        """
        raise self.unsupported("digest")

    async def get_acl(self, key: str) -> Acl:
        """Return what is in force on an object: the narrowest of our words that covers all of it, and the grants.
        Raises NotFound; Unsupported where the service has ACLs turned off. Requires ``acl``."""
        raise self.unsupported("acl")

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        """Set who may do what with an object, in one step, and return what is in force then.

        That is ``acl``, or less where the provider cannot express all of it, never more. Raises NotFound; Unsupported
        where nothing of it can be set: then the object is as it was. Requires ``acl``.
        """
        raise self.unsupported("acl")

    async def usage(self) -> Usage:
        """Return how much is used and free. Requires ``usage``."""
        raise self.unsupported("usage")

    async def sweep(self, older_than: float) -> int:
        """Remove what unfinished writes of a crashed process left (temporary files, open multipart uploads) that is
        older than ``older_than`` seconds; return how many. Default: there is nothing of the kind."""
        return 0

    async def aclose(self) -> None:
        """Release connections. Idempotent."""
        return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def unsupported(self, what: str) -> Unsupported:
        """The error for something whose flag is false."""
        return Unsupported(
            f"provider {self.info.name} ({self.info.kind}) does not support {what}", provider=self.info.name
        )

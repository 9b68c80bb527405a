"""What a provider really does, found out on the spot.

Several servers accept a conditional request and ignore the condition, answer a copy without the metadata, or keep times
by the second. So before a provider is used, what its adapter declares is tried in a scratch folder, and only what holds
is kept. Nothing is widened: a probe never turns a flag on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import unicodedata
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from cdir.errors import (
    AlreadyExists,
    CdirError,
    DeadlineExceeded,
    IntegrityError,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    Unauthenticated,
)
from cdir_adapters.acl import Access, Acl
from cdir_adapters.adapter import Adapter, ObjectInfo, ObjectKind, Source, WriteMode
from cdir_adapters.capability import Capability
from cdir_adapters.layers.wrapper import closing
from cdir_adapters.sentinel import PROBE_PREFIX

__all__ = ["probe"]

logger = logging.getLogger(__name__)

# these say nothing about what the provider can do, but that it cannot be found out now
_PASSED_ON = (ProviderUnavailable, Unauthenticated, PermissionDenied, QuotaExceeded, RateLimited, DeadlineExceeded)

_MODIFIED = datetime(2001, 2, 3, 4, 5, 7, 589012, tzinfo=UTC)
"""An odd second with a fraction: even a clock that steps by two seconds shows in it."""

_STEPS = (timedelta(microseconds=1), timedelta(milliseconds=1), timedelta(seconds=1), timedelta(seconds=2))
"""Steps of the times that file systems and services keep."""

_METADATA = {"cdir-probe": "kept"}

_TIDY_SECONDS = 60.0

Found = dict[str, Any]


async def probe(adapter: Adapter) -> Capability:
    """Return what ``adapter.capability`` declares, narrowed to what its provider does.

    Works in ``.cdir/probe-…`` with about forty small calls, most of them at once, and removes what it made, however it
    ends. A feature that fails in an unexpected way counts as missing. Raises what stands in the way of finding out:
    ProviderUnavailable, Unauthenticated, PermissionDenied, QuotaExceeded, RateLimited, DeadlineExceeded; and whatever
    error a plain write or read of a small object gives, since without those nothing works.
    """
    trial = _Trial(adapter, f"{PROBE_PREFIX}{uuid.uuid4().hex}")
    try:
        return await trial.run()
    finally:
        await trial.tidy()


def _other_etag(etag: str) -> str:
    """Return an ETag of the same form that is not ``etag``."""
    if etag.isdecimal():
        # the number of a generation stays a number: of anything else an adapter could say itself that it does not fit
        return str(int(etag) + 1)
    return etag.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))


def _precision(kept: datetime | None) -> timedelta | None:
    """Return the step of a clock that made ``kept`` of the time given; ``None`` when it is another time."""
    if kept is None:
        return None
    off = abs(kept - _MODIFIED)
    if not off:
        return _STEPS[0]
    return next((step for step in _STEPS if off < step), None)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


class _Trial:
    def __init__(self, adapter: Adapter, prefix: str) -> None:
        self._adapter = adapter
        self._prefix = prefix
        self._declared = adapter.capability
        self._made: set[str] = set()

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    async def _write(self, name: str, source: Source, size: int | None, **options: Any) -> ObjectInfo:
        self._made.add(name)
        options = {"modified": _MODIFIED, **options}
        return await self._adapter.write(self._key(name), source, size=size, **options)

    async def _put(self, name: str, data: bytes, **options: Any) -> ObjectInfo:
        return await self._write(name, data, len(data), **options)

    async def _get(self, name: str) -> bytes:
        return (await self._adapter.fetch(self._key(name))).data

    async def run(self) -> Capability:
        found = await self._base()
        features: list[tuple[Callable[[], Awaitable[Found]], tuple[str, ...]]] = [
            (self._write_if_absent, ("write_if_absent",)),
            (self._write_if_match, ("write_if_match",)),
            (self._read_if_match, ("read_if_match",)),
            (self._write_unknown_size, ("write_unknown_size",)),
            (self._copy, ("copy",)),
            (self._move, ("move",)),
            (self._case_sensitive, ("case_sensitive",)),
            (self._digest, ("digest",)),
            (self._acl, ("acl", "acl_grants", "write_access")),
            (self._usage, ("usage",)),
        ]
        # listing comes last, over what the others leave: their objects would come and go under its hands
        lists = [(self._list, ("list_recursive", "list_ordered", "modified_listed", "unicode_preserving"))]
        for group in (features, lists):
            tasks = []
            try:
                async with asyncio.TaskGroup() as running:
                    tasks = [
                        running.create_task(self._try(feature, flags))
                        for feature, flags in group
                        if any(getattr(self._declared, flag) for flag in flags)
                    ]
            except BaseExceptionGroup as errors:
                raise _first(errors) from errors
            for task in tasks:
                found |= task.result()
        if not found.get("modified_settable", True):
            found["modified_listed"] = False
        return dataclasses.replace(self._declared, **found)

    async def _try(self, feature: Callable[[], Awaitable[Found]], flags: tuple[str, ...]) -> Found:
        """Return what a probe found; what it did not find out about counts as missing."""
        try:
            return await feature()
        except _PASSED_ON:
            raise
        except CdirError as error:
            logger.info("provider %s: no %s (%r)", self._adapter.info.name, ", ".join(flags), error)
            return dict.fromkeys(flags, False)

    async def _base(self) -> Found:
        await self._put("base", b"base", metadata=_METADATA if self._declared.metadata else {})
        fetched, info = await self._get("base"), await self._adapter.stat(self._key("base"))
        if fetched != b"base":
            raise IntegrityError(
                f"provider {self._adapter.info.name} gives back other bytes than it was given; it cannot be used"
            )
        self._info = info
        found: Found = {
            "metadata": self._declared.metadata and info.metadata.get("cdir-probe") == "kept",
            "etag": self._declared.etag and bool(info.etag),
        }
        if info.checksum is None:
            found["checksums"] = frozenset()
        if self._declared.modified_settable:
            precision = _precision(info.modified)
            declared = self._declared.modified_precision
            found["modified_settable"] = precision is not None
            found["modified_precision"] = max(precision, declared) if precision and declared else precision
        return found

    async def _write_if_absent(self) -> Found:
        async def create(data: bytes) -> bool:
            try:
                await self._put("created", data, mode=WriteMode.CREATE)
            except AlreadyExists:
                return False
            return True

        racing = await asyncio.gather(create(b"one"), create(b"two"))
        return {"write_if_absent": sorted(racing) == [False, True] and not await create(b"three")}

    async def _write_if_match(self) -> Found:
        first = await self._put("matched", b"first")
        if first.etag is None:
            return {"write_if_match": False}
        with contextlib.suppress(PreconditionFailed):
            await self._put("matched", b"wrong", if_match=_other_etag(first.etag))
            return {"write_if_match": False}
        await self._put("matched", b"right", if_match=first.etag)
        return {"write_if_match": await self._get("matched") == b"right"}

    async def _read_if_match(self) -> Found:
        etag = self._info.etag
        if etag is None:
            return {"read_if_match": False}
        await self._adapter.fetch(self._key("base"), if_match=etag)
        with contextlib.suppress(PreconditionFailed):
            await self._adapter.fetch(self._key("base"), if_match=_other_etag(etag))
            return {"read_if_match": False}
        return {"read_if_match": True}

    async def _write_unknown_size(self) -> Found:
        await self._write("folder/unknown", _pieces(b"unknown"), None)
        return {"write_unknown_size": await self._get("folder/unknown") == b"unknown"}

    async def _copy(self) -> Found:
        self._made.add("copied")
        await self._adapter.copy(self._key("base"), self._key("copied"))
        return {"copy": self._is_like_base(await self._adapter.stat(self._key("copied")))}

    def _is_like_base(self, info: ObjectInfo) -> bool:
        kept = dict(info.metadata) == dict(self._info.metadata) and info.size == self._info.size
        return kept and (not self._declared.modified_settable or info.modified == self._info.modified)

    async def _move(self) -> Found:
        self._made.add("moved")
        metadata = _METADATA if self._declared.metadata else {}
        await self._put("moving", b"base", metadata=metadata)
        await self._adapter.move(self._key("moving"), self._key("moved"))
        if not self._is_like_base(await self._adapter.stat(self._key("moved"))):
            return {"move": False}
        with contextlib.suppress(NotFound):
            await self._adapter.stat(self._key("moving"))
            return {"move": False}
        return {"move": True}

    async def _case_sensitive(self) -> Found:
        await self._put("Case", b"upper")
        with contextlib.suppress(NotFound):
            await self._adapter.stat(self._key("case"))
            return {"case_sensitive": False}
        return {"case_sensitive": True}

    async def _digest(self) -> Found:
        found = await self._adapter.digest(self._key("base"))
        return {"digest": found == hashlib.sha256(b"base").digest()}

    async def _acl(self) -> Found:
        """Set an ACL and look whether it is in force, and whether the object is still what it was.

        A service that says no to a wider one is honest and can be asked again. One that fails has none.
        """
        missing = {"acl": False, "acl_grants": False, "write_access": False}
        key = self._key("listed")
        await self._put("listed", b"listed")
        try:
            with contextlib.suppress(PermissionDenied):
                await self._adapter.set_acl(key, Acl(Access.AUTHENTICATED_READ))
                if await self._adapter.get_acl(key) != Acl(Access.AUTHENTICATED_READ):
                    return missing
            await self._adapter.set_acl(key, Acl(Access.PRIVATE))
            if await self._adapter.get_acl(key) != Acl(Access.PRIVATE) or await self._get("listed") != b"listed":
                return missing
            found: Found = {"acl": True, "acl_grants": self._declared.acl_grants, "write_access": False}
            if self._declared.write_access:
                stored = await self._put("listed", b"again", access=Access.AUTHENTICATED_READ)
                at_once = await self._adapter.get_acl(key)
                # stored narrower because the service said no is what write promises too
                found["write_access"] = at_once.access is (stored.access or Access.PRIVATE)
        except (PermissionDenied, ProviderUnavailable, DeadlineExceeded) as error:
            logger.info("provider %s: no access control lists (%r)", self._adapter.info.name, error)
            return missing
        return found

    async def _usage(self) -> Found:
        await self._adapter.usage()
        return {"usage": True}

    async def _list(self) -> Found:
        accented = unicodedata.normalize("NFC", "größe-é")
        await asyncio.gather(self._put(accented, b""), self._put("folder/inner/file", b""))
        objects = await self._listed(recursive=True)
        keys = [found.key for found in objects]
        found: Found = {
            "list_recursive": self._declared.list_recursive and self._key("folder/inner/file") in keys,
            "unicode_preserving": self._declared.unicode_preserving and self._key(accented) in keys,
        }
        if self._declared.modified_listed:
            times = {listed.key: listed.modified for listed in objects}
            found["modified_listed"] = times.get(self._key("base")) == self._info.modified
        if self._declared.list_ordered:
            rest = [listed.key for listed in await self._listed(recursive=True, start_after=keys[0])]
            found["list_ordered"] = keys == sorted(keys) and rest == keys[1:]
        return found

    async def _listed(self, **options: Any) -> list[ObjectInfo]:
        listed: list[ObjectInfo] = []
        async with closing(self._adapter.list(self._prefix, **options)) as pages:
            async for page in pages:
                listed += (found for found in page.objects if found.kind is ObjectKind.FILE)
        return listed

    async def tidy(self) -> None:
        """Remove every object that may have been made, and the folders. What cannot be removed is left, and logged."""

        async def remove(name: str) -> None:
            try:
                await self._adapter.delete(self._key(name))
            except CdirError as error:
                logger.warning("provider %s: %s is left of a probe (%s)", self._adapter.info.name, name, error)

        try:
            async with asyncio.timeout(_TIDY_SECONDS):
                await asyncio.gather(*map(remove, self._made))
                if self._declared.directories:
                    for folder in ("folder/inner", "folder"):
                        with contextlib.suppress(CdirError):
                            await self._adapter.remove_directory(self._key(folder))
                    with contextlib.suppress(CdirError):
                        await self._adapter.remove_directory(self._prefix)
        except TimeoutError:
            logger.warning("provider %s: removing the folder of a probe took too long", self._adapter.info.name)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

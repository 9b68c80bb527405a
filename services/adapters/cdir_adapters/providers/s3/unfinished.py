"""Uploads that were begun and neither completed nor taken back, as the service itself lists them.

What a killed process has sent is found there again: nothing has to be remembered here for a write to go on where the
one before it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

from cdir.errors import CdirError
from cdir_adapters.providers.s3.connections import Connections
from cdir_adapters.providers.s3.faults import Faults
from cdir_adapters.providers.s3.multipart import MultipartUpload, Part, SentPart

__all__ = ["UnfinishedUploads"]

logger = logging.getLogger(__name__)

_RESUMABLE = timedelta(days=1)
"""An upload that nothing was added to for longer is not gone on with."""


class UnfinishedUploads:
    """The unfinished uploads of one bucket, below ``prefix``.

    Those under way here are nobody else's: two writes to one key never share an upload. That of another process may
    be joined while it is alive. Then the parts that differ are sent by both, completing names each part by its ETag,
    and whoever comes second finds the upload gone: one of the two fails, and can be tried again. At Swift a part that
    is on its way at that moment still takes effect and damages the object: that only one process at a time writes to a
    path is the business of the catalog, as it is elsewhere.
    """

    def __init__(self, connections: Connections, faults: Faults, bucket: str, prefix: str) -> None:
        self._connections = connections
        self._faults = faults
        self._bucket = bucket
        self._prefix = prefix
        self._under_way: set[tuple[str, str]] = set()
        """Key and id of each upload that a write here uses."""
        self._beginning: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Held while an upload of a key is found or begun, which takes several requests."""

    @asynccontextmanager
    async def upload(
        self,
        key: str,
        metadata: Mapping[str, str],
        first: asyncio.Future[list[Part]] | None = None,
        canned_acl: str | None = None,
    ) -> AsyncIterator[MultipartUpload]:
        """An upload of ``key``, which the block completes; it is taken back when the block fails.

        Given the ``first`` part, which is waited for only where it matters, it may be one that a write before has
        left after sending that very part; it has the metadata and the ACL of that write.
        """
        lock = self._beginning.setdefault(key, asyncio.Lock())
        async with lock:
            upload = None if first is None else await self._resumed(key, first)
            if upload is None:
                upload = await MultipartUpload.begin(
                    self._connections, self._faults, self._bucket, key, metadata, canned_acl
                )
            used = (key, upload.upload_id)
            self._under_way.add(used)
        try:
            yield upload
        except BaseException:
            await upload.abort()
            raise
        finally:
            self._under_way.discard(used)

    async def sweep(self, before: datetime) -> int:
        """Take back what nothing was added to since; return how many uploads were."""
        swept = 0
        async for page in self._pages(self._prefix):
            for each in page:
                begun = each.get("Initiated")
                if begun is None or begun >= before or (each["Key"], each["UploadId"]) in self._under_way:
                    continue
                upload = self._upload(each["Key"], each["UploadId"])
                # one that takes its time is no leftover
                if _last_added_to(begun, await upload.sent()) < before:
                    swept += await upload.abort()
        return swept

    async def _resumed(self, key: str, first: asyncio.Future[list[Part]]) -> MultipartUpload | None:
        """The newest upload of ``key`` that begins with that part; ``None`` when nothing or nobody tells of one."""
        since = datetime.now(UTC) - _RESUMABLE
        left: list[tuple[datetime, str]] = []
        with contextlib.suppress(CdirError):
            async for page in self._pages(key):
                left += [
                    (begun, each["UploadId"])
                    for each in page
                    if each["Key"] == key
                    and (begun := each.get("Initiated")) is not None
                    and (key, each["UploadId"]) not in self._under_way
                ]
                if page and page[-1]["Key"] != key:
                    break  # keys come in order
            for begun, upload_id in sorted(left, reverse=True):
                upload = self._upload(key, upload_id)
                sent = await upload.sent()
                if 1 in sent and _last_added_to(begun, sent) > since and await sent[1].holds((await first)[0]):
                    logger.info("%s: going on with an unfinished upload of %d parts", key, len(sent))
                    upload.resume(sent)
                    return upload
        return None

    async def _pages(self, prefix: str) -> AsyncIterator[list[dict[str, Any]]]:
        arguments: dict[str, Any] = {"Prefix": prefix}
        while True:
            with self._faults.translated("listing unfinished uploads"):
                client = await self._connections.client()
                try:
                    answer = await client.list_multipart_uploads(Bucket=self._bucket, **arguments)
                except client.exceptions.NoSuchUpload:
                    return  # how rclone says that there are none
            yield answer.get("Uploads", [])
            if not answer.get("IsTruncated"):
                return
            arguments["KeyMarker"] = answer["NextKeyMarker"]
            arguments["UploadIdMarker"] = answer["NextUploadIdMarker"]

    def _upload(self, key: str, upload_id: str) -> MultipartUpload:
        return MultipartUpload(self._connections, self._faults, self._bucket, key, upload_id)


def _last_added_to(begun: datetime, sent: Mapping[int, SentPart]) -> datetime:
    return max((part.arrived for part in sent.values() if part.arrived is not None), default=begun)

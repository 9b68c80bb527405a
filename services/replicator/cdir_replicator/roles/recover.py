"""The role that finishes or undoes writes whose writer is gone.

Whoever wrote them was never told that they succeeded, so undoing is always right. A write whose digest was known before
it began is completed instead when enough providers hold it whole: its bytes are read back and compared, every one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Sequence

from cdir.errors import CdirError, IntegrityError, NotFound, ProviderUnavailable
from cdir.status import from_failure, translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    provider_pb2,
)
from cdir_replicator.planner import may_roll_forward
from cdir_replicator.progress import Progress
from cdir_runtime.crash import crash_point
from cdir_transfer.digest import ContentDigest
from cdir_transfer.strangers import ContentIdentity, has_stranger, read_back

__all__ = ["RecoverRole"]

logger = logging.getLogger(__name__)

_LIMIT = 100
_LEASE_SECONDS = 120.0
_RENEW_SECONDS = 30.0
_AT_ONCE = 8
_CALL_SECONDS = 30.0
_CATALOG_SECONDS = 60.0


@dataclasses.dataclass(slots=True)
class _Found:
    """What lies at the targets of one write."""

    stored: dict[str, catalog_service_pb2.StoredCopy] = dataclasses.field(default_factory=dict)
    """Copies whose bytes were read back and are right, by provider id."""
    uncertain: list[str] = dataclasses.field(default_factory=list)
    """Ids of providers that could not be asked or have something else there."""
    digest: ContentDigest | None = None


class RecoverRole:
    """Takes over lapsed writes, some at a time. ``owner`` is the id under which they are claimed."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        progress: Progress,
        *,
        owner: str,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._progress = progress
        self._owner = owner

    async def once(self) -> int:
        """Finish or undo every write that has lapsed; return how many those were."""
        total = 0
        while not self._progress.paused:
            with translated():
                response = await self._catalog.ClaimLapsedWrites(
                    catalog_service_pb2.ClaimLapsedWritesRequest(
                        owner=self._owner, limit=_LIMIT, lease_seconds=_LEASE_SECONDS
                    ),
                    timeout=_CATALOG_SECONDS,
                )
            if not response.writes:
                break
            crash_point("recover.after_claim")
            total += len(response.writes)
            await self._recover_all(response.writes)
        return total

    async def _recover_all(self, writes: Sequence[catalog_service_pb2.LapsedWrite]) -> None:
        waiting = iter(writes)

        async def worker() -> None:
            for write in waiting:
                await self._recover(write)

        renewing = asyncio.create_task(self._renew())
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(_AT_ONCE, len(writes))):
                    workers.create_task(worker())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])

    async def _renew(self) -> None:
        """Keep the claims alive: large contents take time to be read back."""
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            try:
                with translated():
                    await self._catalog.RenewWrites(
                        catalog_service_pb2.RenewWritesRequest(owner=self._owner, lease_seconds=_LEASE_SECONDS),
                        timeout=_CATALOG_SECONDS,
                    )
            except CdirError as error:
                logger.warning("claims on lapsed writes could not be renewed: %s", error)

    async def _recover(self, write: catalog_service_pb2.LapsedWrite) -> None:
        found = _Found()
        if write.intent.sha256:
            for target in write.targets:
                await self._inspect(write.intent, target, found)
        if may_roll_forward(sha256=write.intent.sha256, verified=found.stored, min_copies=write.min_copies) and (
            await self._commit(write, found)
        ):
            return
        sent = ContentIdentity(write.intent.size, write.intent.sha256) if write.intent.sha256 else None
        touched = [
            target.provider_id
            for target in write.targets
            if not await has_stranger(self._adapters, target, write.intent.modified, sent)
        ]
        abort = catalog_service_pb2.AbortedWrite(version_id=write.version_id, touched=touched)
        crash_point("recover.before_abort")
        with translated():
            await self._catalog.AbortWrites(
                catalog_service_pb2.AbortWritesRequest(aborts=[abort]), timeout=_CATALOG_SECONDS
            )
        logger.info("%s: undid a write whose writer is gone", write.intent.path)

    async def _commit(self, write: catalog_service_pb2.LapsedWrite, found: _Found) -> bool:
        """Complete the write; false when the catalog refuses it because the file has changed meanwhile."""
        assert found.digest is not None
        commitment = catalog_service_pb2.WriteCommitment(
            version_id=write.version_id,
            size=found.digest.size,
            sha256=found.digest.sha256(),
            block_digests=found.digest.block_digests(),
            modified=write.intent.modified,
            stored=found.stored.values(),
            touched=found.uncertain,
        )
        crash_point("recover.before_commit")
        with translated():
            response = await self._catalog.CommitWrites(
                catalog_service_pb2.CommitWritesRequest(commitments=[commitment]), timeout=_CATALOG_SECONDS
            )
        result = response.results[0]
        if result.HasField("failure"):
            logger.info("%s: not completed: %s", write.intent.path, from_failure(result.failure).message)
            return False
        logger.info("%s: completed a write whose writer is gone", write.intent.path)
        return True

    async def _inspect(
        self, intent: catalog_service_pb2.WriteIntent, target: catalog_service_pb2.WriteTarget, found: _Found
    ) -> None:
        """Read back what lies at a target, and note whether it is the content that was to be written."""
        if target.HasField("occupant") and target.occupant.version_id:
            # another version still lies at the key, so this one was not written there; their contents may be equal
            return
        ref = adapter_service_pb2.ProviderRef(provider_id=target.provider_id, revision=target.provider_revision)
        try:
            if target.state == provider_pb2.PROVIDER_STATE_DOWN:
                raise ProviderUnavailable(f"provider {target.provider} is down")
            with translated():
                stat = await self._adapters.StatObject(
                    adapter_service_pb2.StatObjectRequest(provider=ref, key=target.key), timeout=_CALL_SECONDS
                )
            if stat.info.directory or stat.info.size != intent.size:
                raise IntegrityError(f"{target.key} has {stat.info.size} bytes instead of {intent.size}")
            digest = await read_back(self._adapters, ref, target.key, intent.size)
            if digest.sha256() != intent.sha256:
                raise IntegrityError(f"{target.key} has other bytes than were to be written")
        except NotFound:
            return
        except CdirError as error:
            logger.info("%s at provider %s cannot be relied on: %s", intent.path, target.provider, error)
            found.uncertain.append(target.provider_id)
            return
        found.digest = digest
        found.stored[target.provider_id] = catalog_service_pb2.StoredCopy(
            provider_id=target.provider_id, etag=stat.info.etag, checksum=stat.info.checksum
        )

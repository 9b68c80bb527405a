"""Access control lists: setting one in the catalog, waiting for what follows at the providers, and asking them."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from cdir.errors import CdirError, InvalidArgument
from cdir.paths import normalize_path
from cdir.status import translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2_grpc,
    entry_pb2,
    replicator_service_pb2,
    replicator_service_pb2_grpc,
)
from cdir.v1 import directory_service_pb2 as pb
from cdir_gateway.ledger import CALL_SECONDS, user_metadata

__all__ = ["AccessControl"]

logger = logging.getLogger(__name__)

_TREE_SECONDS: Final = 600.0
_LONGEST_WAIT: Final = 60.0
_ASK_SECONDS: Final = 5.0
"""How long a provider may take to say what is in force there."""
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5


class AccessControl:
    """See DirectoryService for what GetAcl and SetAcl promise."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        replicator: replicator_service_pb2_grpc.ReplicatorServiceAsyncStub,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._replicator = replicator

    async def get(self, request: pb.GetAclRequest) -> pb.GetAclResponse:
        """What is wanted, what became of it, and for a file what the providers say."""
        wanted = pb.GetAclRequest(workspace=request.workspace, path=normalize_path(request.path))
        answer = await self._standing(wanted)
        if not answer.directory:
            await self._ask_all(wanted, answer)
        return answer

    async def _standing(self, request: pb.GetAclRequest) -> pb.GetAclResponse:
        with translated():
            return await self._catalog.GetAcl(request, timeout=CALL_SECONDS)

    async def _ask_all(self, request: pb.GetAclRequest, answer: pb.GetAclResponse) -> None:
        with translated():
            status = await self._catalog.GetFileStatus(
                pb.GetFileStatusRequest(workspace=request.workspace, path=request.path), timeout=CALL_SECONDS
            )
        replicas = {replica.provider: replica for replica in status.replicas if replica.wanted}
        async with asyncio.TaskGroup() as asking:
            for standing in answer.standings:
                replica = replicas.get(standing.provider)
                if replica is not None and not standing.waits and replica.state == entry_pb2.REPLICA_STATE_OK:
                    asking.create_task(self._ask(standing, replica))

    async def _ask(self, standing: pb.AclStanding, replica: entry_pb2.Replica) -> None:
        try:
            with translated():
                found = await self._adapters.GetObjectAcl(
                    adapter_service_pb2.GetObjectAclRequest(
                        provider=adapter_service_pb2.ProviderRef(
                            provider_id=replica.provider_id, revision=replica.provider_revision
                        ),
                        key=replica.key,
                    ),
                    timeout=_ASK_SECONDS,
                )
        except CdirError as error:
            logger.debug("what is in force on %s at %s is not known: %s", replica.key, replica.provider, error.message)
        else:
            standing.in_force.CopyFrom(found.acl)

    async def set(self, request: pb.SetAclRequest, user: str) -> pb.SetAclResponse:
        """Set an ACL; the replicator carries it to the providers as it does with everything that is owed."""
        if not 0 <= request.wait_seconds <= _LONGEST_WAIT:
            raise InvalidArgument(f"an ACL is waited for between 0 and {_LONGEST_WAIT:.0f} seconds")
        deadline = time.monotonic() + request.wait_seconds
        changed = pb.SetAclRequest()
        changed.CopyFrom(request)
        changed.path = normalize_path(request.path)
        with translated():
            answer = await self._catalog.SetAcl(changed, timeout=_TREE_SECONDS, metadata=user_metadata(user))
        try:
            with translated():
                await self._replicator.StartRepair(
                    replicator_service_pb2.StartRepairRequest(workspace=changed.workspace, path=changed.path),
                    timeout=CALL_SECONDS,
                )
        except CdirError as error:
            # it is set in the catalog, and owed: whoever works off debt finds it without being woken
            logger.info("the replicator was not woken for the ACL of %s: %s", changed.path, error.message)
        wanted = pb.GetAclRequest(workspace=changed.workspace, path=changed.path)
        pause = _FIRST_PAUSE
        while _is_under_way(answer.standing) and time.monotonic() + pause < deadline:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            answer.standing.CopyFrom(await self._standing(wanted))
        if not answer.standing.directory:
            await self._ask_all(wanted, answer.standing)
        return answer


def _is_under_way(standing: pb.GetAclResponse) -> bool:
    """Whether something is still to be set that waits for no provider."""
    owed = any(one.state == entry_pb2.ACL_STATE_OWED and not one.waits for one in standing.standings)
    return owed or standing.unplaced

"""The check of a tree: what the catalog has recorded, held against what lies at the providers.

Each provider is listed to its end first; only then, and only if its mark is still there, anything is concluded from
what was not listed. Others may write meanwhile. So whatever looks wrong is looked at once more, at the provider and in
the catalog before and after that, and becomes a finding only when it stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from cdir.errors import CdirError, InvalidPath, NotFound, ProviderUnavailable
from cdir.paths import is_temporary, key_of, normalize_path
from cdir.status import from_failure, translated
from cdir.v1 import (
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    check_pb2,
    entry_pb2,
    provider_pb2,
)
from cdir_gateway.ledger import CALL_SECONDS
from cdir_gateway.listed_objects import ListedObject, ObjectSorter
from cdir_gateway.outbox import Outbox
from cdir_gateway.suspicion import Suspicion, difference, is_metadata
from cdir_transfer.listing import listed_pages, provider_ref
from cdir_transfer.observer import is_providers_fault
from cdir_transfer.reader import VerifiedReader

__all__ = ["Checker"]

_AUDIT_SECONDS: Final = 3600.0
_AT_ONCE: Final = 8
"""Objects of one provider looked at at the same time."""
_SUSPICIONS: Final = 200
_COPIES: Final = 1000


@dataclass(slots=True)
class _Run:
    """The check of one provider."""

    provider: provider_pb2.Provider
    top: str
    deep: bool
    outbox: Outbox[check_pb2.CheckTreeResponse]
    summary: check_pb2.CheckedProvider
    suspicions: list[Suspicion] = field(default_factory=list)
    to_read: list[check_pb2.RecordedCopy] = field(default_factory=list)

    @property
    def ref(self) -> adapter_service_pb2.ProviderRef:
        return provider_ref(self.provider)

    async def report(self, finding: check_pb2.CheckFinding) -> None:
        finding.provider = self.provider.name
        self.summary.findings += 1
        await self.outbox.put(check_pb2.CheckTreeResponse(finding=finding))


class Checker:
    """See DirectoryService.CheckTree."""

    def __init__(
        self,
        catalog: catalog_service_pb2_grpc.CatalogServiceAsyncStub,
        adapters: adapter_service_pb2_grpc.AdapterServiceAsyncStub,
        reader: VerifiedReader,
    ) -> None:
        self._catalog = catalog
        self._adapters = adapters
        self._reader = reader

    async def check(self, request: check_pb2.CheckTreeRequest) -> AsyncGenerator[check_pb2.CheckTreeResponse, None]:
        """Yield findings as they are found, and a summary of each part as it ends."""
        path = normalize_path(request.path)
        everything = path == "/" and not request.workspace
        if not everything:
            await self._require(request.workspace, path)
        providers = await self._providers(request.provider)
        top = "" if everything else key_of(request.workspace, path).removesuffix("/")
        outbox: Outbox[check_pb2.CheckTreeResponse] = Outbox(batch_weight=1, capacity=1)
        audited = everything and not request.provider
        async with aclosing(
            outbox.filled_by(self._check_all(providers, top, request.deep, outbox, audited=audited))
        ) as batches:
            async for responses in batches:
                for response in responses:
                    yield response

    async def _require(self, workspace: str, path: str) -> None:
        """Raise NotFound unless the path names something."""
        ref = catalog_service_pb2.PathRef(workspace=workspace, path=path)
        with translated():
            response = await self._catalog.ResolveEntries(
                catalog_service_pb2.ResolveEntriesRequest(refs=[ref]), timeout=CALL_SECONDS
            )
        if response.results[0].HasField("failure"):
            raise from_failure(response.results[0].failure)

    async def _providers(self, name: str) -> list[provider_pb2.Provider]:
        with translated():
            response = await self._catalog.ReadProviders(
                catalog_service_pb2.ReadProvidersRequest(name=name), timeout=CALL_SECONDS
            )
        if name and not response.providers:
            raise NotFound(f"no provider is named {name}; `cdir provider list` shows them", provider=name)
        return [stored.provider for stored in response.providers]

    async def _check_all(
        self,
        providers: Sequence[provider_pb2.Provider],
        top: str,
        deep: bool,
        outbox: Outbox[check_pb2.CheckTreeResponse],
        *,
        audited: bool,
    ) -> None:
        try:
            async with asyncio.TaskGroup() as checks:
                if audited:
                    checks.create_task(self._audit(outbox))
                for provider in providers:
                    summary = check_pb2.CheckedProvider(provider=provider.name)
                    checks.create_task(self._check_provider(_Run(provider, top, deep, outbox, summary)))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            outbox.close()

    async def _audit(self, outbox: Outbox[check_pb2.CheckTreeResponse]) -> None:
        with translated():
            audit = await self._catalog.AuditCatalog(check_pb2.AuditCatalogRequest(), timeout=_AUDIT_SECONDS)
        for found in audit.findings:
            finding = check_pb2.CheckFinding(
                kind=check_pb2.CHECK_FINDING_KIND_CATALOG,
                workspace=found.workspace,
                path=found.path,
                generation=found.generation,
                message=f"{found.rule}: {found.message}",
            )
            await outbox.put(check_pb2.CheckTreeResponse(finding=finding))
        await outbox.put(check_pb2.CheckTreeResponse(catalog=audit.summary))

    # --- one provider -------------------------------------------------------------------------------------------------

    async def _check_provider(self, run: _Run) -> None:
        try:
            if run.provider.state == provider_pb2.PROVIDER_STATE_PAUSED:
                raise ProviderUnavailable(f"{run.provider.name} is paused; `cdir provider resume` takes it up again")
            async with ObjectSorter() as listed:
                await self._check_mark(run)
                await self._list(run, listed)
                await self._check_mark(run)
                run.summary.objects = listed.count
                await self._compare(run, listed)
        except CdirError as error:
            await run.report(
                check_pb2.CheckFinding(
                    kind=check_pb2.CHECK_FINDING_KIND_UNCHECKED, message=f"not checked to the end: {error.message}"
                )
            )
        await run.outbox.put(check_pb2.CheckTreeResponse(provider=run.summary))

    async def _check_mark(self, run: _Run) -> None:
        with translated():
            await self._adapters.CheckMark(adapter_service_pb2.CheckMarkRequest(provider=run.ref), timeout=CALL_SECONDS)

    async def _list(self, run: _Run, listed: ObjectSorter) -> None:
        """Take everything that lies at or below the top."""
        if run.top and (info := await self._stat(run, run.top)) is not None:
            await listed.add([info])
            return
        request = adapter_service_pb2.ListObjectsRequest(provider=run.ref, prefix=run.top, recursive=True)
        async with aclosing(listed_pages(self._adapters, request, where=run.provider.name)) as pages:
            async for page in pages:
                await listed.add(ListedObject(info.key, info.size, info.etag) for info in page if not info.directory)

    async def _stat(self, run: _Run, key: str) -> ListedObject | None:
        """Return the file at a key; ``None`` when there is none."""
        try:
            with translated():
                response = await self._adapters.StatObject(
                    adapter_service_pb2.StatObjectRequest(provider=run.ref, key=key), timeout=CALL_SECONDS
                )
        except NotFound:
            return None
        info = response.info
        return None if info.directory else ListedObject(info.key, info.size, info.etag)

    async def _copies(self, run: _Run) -> AsyncGenerator[check_pb2.RecordedCopy, None]:
        """Yield what is recorded, by key."""
        token = ""
        while True:
            with translated():
                page = await self._catalog.ListCopies(
                    check_pb2.ListCopiesRequest(
                        provider_id=run.provider.provider_id,
                        top=run.top,
                        page_size=_COPIES,
                        page_token=token,
                        with_digests=run.deep,
                    ),
                    timeout=CALL_SECONDS,
                )
            for copy in page.copies:
                yield copy
            token = page.next_page_token
            if not token:
                return

    async def _compare(self, run: _Run, listed: ObjectSorter) -> None:
        """Walk along what is recorded and what was listed, both by key."""
        async with aclosing(listed.pieces()) as pieces, aclosing(self._copies(run)) as copies:
            recorded = await anext(copies, None)
            async for piece in pieces:
                for found in piece:
                    while recorded is not None and recorded.replica.key < found.key:
                        self._without_object(run, recorded)
                        recorded = await anext(copies, None)
                    here = []
                    while recorded is not None and recorded.replica.key == found.key:
                        here.append(recorded)
                        recorded = await anext(copies, None)
                    self._with_object(run, found, here)
                    await self._work_off(run)
            while recorded is not None:
                self._without_object(run, recorded)
                await self._work_off(run)
                recorded = await anext(copies, None)
        await self._work_off(run, all_of_it=True)

    @staticmethod
    def _without_object(run: _Run, copy: check_pb2.RecordedCopy) -> None:
        if copy.settled:
            run.suspicions.append(Suspicion(copy.replica.key, copy, check_pb2.CHECK_FINDING_KIND_MISSING))
        elif copy.owed:
            run.summary.owed += 1
        else:
            run.summary.changing += 1

    @staticmethod
    def _with_object(run: _Run, found: ListedObject, copies: Sequence[check_pb2.RecordedCopy]) -> None:
        if not copies:
            if is_metadata(found.key):
                run.summary.metadata += 1
            elif is_temporary(found.key):
                run.summary.temporary += 1
            else:
                kind = check_pb2.CHECK_FINDING_KIND_UNEXPLAINED
                run.suspicions.append(Suspicion(found.key, None, kind, size=found.size))
        for copy in copies:
            if not copy.settled:
                run.summary.owed += copy.owed
                run.summary.changing += not copy.owed
                continue
            wrong = difference(copy, found.size, found.etag)
            if wrong is not None:
                run.suspicions.append(Suspicion(found.key, copy, wrong))
            elif run.deep:
                run.to_read.append(copy)
            else:
                run.summary.copies += 1

    async def _work_off(self, run: _Run, *, all_of_it: bool = False) -> None:
        """Look again at what looks wrong, and read what is to be read, once there is enough of it."""
        if len(run.suspicions) >= _SUSPICIONS or (all_of_it and run.suspicions):
            suspicions, run.suspicions = run.suspicions, []
            await self._confirm(run, suspicions)
        if len(run.to_read) >= _SUSPICIONS or (all_of_it and run.to_read):
            copies, run.to_read = run.to_read, []
            damaged = await self._read_all(run, copies)
            await self._confirm(run, damaged)

    # --- looking again ------------------------------------------------------------------------------------------------

    async def _confirm(self, run: _Run, suspicions: Sequence[Suspicion]) -> None:
        """Report those that are still so, the catalog saying the same before and after the object was looked at."""
        still = await self._unexplained(run, suspicions)
        found: dict[str, ListedObject | None] = {}
        slots = asyncio.Semaphore(_AT_ONCE)

        async def look(one: Suspicion) -> None:
            async with slots:
                try:
                    found[one.key] = await self._stat(run, one.key)
                except InvalidPath:
                    # a name that cdir would never give, nor ask for: what was listed has to do
                    found[one.key] = ListedObject(one.key, one.size, "")

        try:
            async with asyncio.TaskGroup() as looks:
                for one in still:
                    looks.create_task(look(one))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        for one in await self._unexplained(run, still):
            info = found[one.key]
            finding = one.finding(None if info is None else (info.size, info.etag))
            if finding is not None:
                await run.report(finding)
            elif one.copy is not None:
                run.summary.copies += 1

    async def _unexplained(self, run: _Run, suspicions: Sequence[Suspicion]) -> list[Suspicion]:
        """Return those that the catalog, asked now, does not explain; the others are being changed."""
        if not suspicions:
            return []
        with translated():
            explained = await self._catalog.ExplainObjects(
                check_pb2.ExplainObjectsRequest(
                    provider_id=run.provider.provider_id, keys=[one.key for one in suspicions]
                ),
                timeout=CALL_SECONDS,
            )
        still = [one for one, now in zip(suspicions, explained.objects, strict=True) if one.stands(now)]
        run.summary.changing += len(suspicions) - len(still)
        return still

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _read_all(self, run: _Run, copies: Sequence[check_pb2.RecordedCopy]) -> list[Suspicion]:
        """Read copies to their end; return those that are damaged."""
        damaged: list[Suspicion] = []
        slots = asyncio.Semaphore(_AT_ONCE)

        async def read(copy: check_pb2.RecordedCopy) -> None:
            async with slots:
                error = await self._read(run, copy)
            if error is None:
                run.summary.copies += 1
            else:
                kind = check_pb2.CHECK_FINDING_KIND_CORRUPT
                reason = "its bytes do not have the recorded digest"
                damaged.append(Suspicion(copy.replica.key, copy, kind, reason))

        try:
            async with asyncio.TaskGroup() as reads:
                for copy in copies:
                    reads.create_task(read(copy))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return damaged

    async def _read(self, run: _Run, copy: check_pb2.RecordedCopy) -> CdirError | None:
        """Return what is wrong with the bytes of a copy. Raises when its provider cannot be read."""
        content = self._reader.open(copy.version, [copy.replica], _nowhere_else, label=copy.path)
        try:
            async with aclosing(content.blocks()) as blocks:
                async for block in blocks:
                    run.summary.bytes_read += len(block)
        except CdirError as error:
            if is_providers_fault(error) or isinstance(error, ProviderUnavailable):
                raise
            return error
        return None


async def _nowhere_else() -> Sequence[entry_pb2.Replica]:
    raise NotFound("only this one copy is read")

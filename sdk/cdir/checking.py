"""The check of the catalog against the providers, as a client sees it."""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from cdir.connection import Connection
from cdir.paths import parse_target
from cdir.status import translated
from cdir.v1 import check_pb2

__all__ = ["CatalogAudit", "CheckStep", "Finding", "FindingKind", "ProviderCheck", "check"]


class FindingKind(enum.Enum):
    """What is wrong."""

    MISSING = "missing"
    """Recorded as a good copy, and nothing is there."""
    WRONG_SIZE = "wrong_size"
    """Recorded as a good copy, and the object has another size."""
    CHANGED = "changed"
    """Recorded as a good copy, and others have written the object since."""
    CORRUPT = "corrupt"
    """The bytes do not have the recorded digest; only a deep check finds it."""
    UNEXPLAINED = "unexplained"
    """An object that no copy, no write and no debt explains."""
    UNCHECKED = "unchecked"
    """The provider could not be checked to the end: nothing is known of the rest."""
    CATALOG = "catalog"
    """The catalog contradicts itself."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: FindingKind
    provider: str
    """Empty for a contradiction inside the catalog."""
    key: str
    """Of the object; empty where no single one is concerned."""
    path: str
    """Of the file, with its workspace; empty where none is concerned."""
    generation: int
    """Of the content; 0 where none is concerned."""
    message: str


@dataclass(frozen=True, slots=True)
class ProviderCheck:
    """One provider, held against the catalog."""

    provider: str
    objects: int
    """Listed there."""
    copies: int
    """Found as recorded."""
    owed: int
    """Known to be owed, misplaced or due for removal: no finding."""
    changing: int
    """Worked on at this moment: left out."""
    temporary: int
    """Leftovers of unfinished writes, of cdir or others."""
    metadata: int
    """Objects in which cdir keeps its own metadata."""
    bytes_read: int
    """By a deep check."""
    findings: int


@dataclass(frozen=True, slots=True)
class CatalogAudit:
    """The catalog, held against itself."""

    files: int
    versions: int
    copies: int
    writes: int
    """Under way."""
    findings: int


CheckStep = Finding | ProviderCheck | CatalogAudit
"""Findings come as they are found, a summary of each part when it ends."""

_KINDS = {
    check_pb2.CHECK_FINDING_KIND_MISSING: FindingKind.MISSING,
    check_pb2.CHECK_FINDING_KIND_WRONG_SIZE: FindingKind.WRONG_SIZE,
    check_pb2.CHECK_FINDING_KIND_CHANGED: FindingKind.CHANGED,
    check_pb2.CHECK_FINDING_KIND_CORRUPT: FindingKind.CORRUPT,
    check_pb2.CHECK_FINDING_KIND_UNEXPLAINED: FindingKind.UNEXPLAINED,
    check_pb2.CHECK_FINDING_KIND_CATALOG: FindingKind.CATALOG,
}


async def check(connection: Connection, path: str, provider: str, *, deep: bool) -> AsyncGenerator[CheckStep, None]:
    """See :meth:`cdir.client.Client.check`."""
    where = parse_target(path)
    call = connection.directory.CheckTree(
        check_pb2.CheckTreeRequest(workspace=where.workspace, path=where.path, provider=provider, deep=deep),
        metadata=connection.metadata,
    )
    try:
        with translated():
            async for answer in call:
                match answer.WhichOneof("result"):
                    case "finding":
                        yield _finding(answer.finding)
                    case "provider":
                        yield _provider(answer.provider)
                    case "catalog":
                        yield _audit(answer.catalog)
    finally:
        call.cancel()


def _finding(message: check_pb2.CheckFinding) -> Finding:
    path = f"@{message.workspace}{message.path}" if message.workspace else message.path
    return Finding(
        kind=_KINDS.get(message.kind, FindingKind.UNCHECKED),
        provider=message.provider,
        key=message.key,
        path=path,
        generation=message.generation,
        message=message.message,
    )


def _provider(message: check_pb2.CheckedProvider) -> ProviderCheck:
    return ProviderCheck(
        provider=message.provider,
        objects=message.objects,
        copies=message.copies,
        owed=message.owed,
        changing=message.changing,
        temporary=message.temporary,
        metadata=message.metadata,
        bytes_read=message.bytes_read,
        findings=message.findings,
    )


def _audit(message: check_pb2.AuditedCatalog) -> CatalogAudit:
    return CatalogAudit(
        files=message.files,
        versions=message.versions,
        copies=message.copies,
        writes=message.writes,
        findings=message.findings,
    )

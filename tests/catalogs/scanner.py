"""A scan of one provider, as a replicator makes it, over whatever a test says is listed there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from catalogs.driver import Driver, sha256
from cdir.v1 import adapter_service_pb2, entry_pb2, scan_pb2
from cdir.v1 import catalog_service_pb2 as catalog

__all__ = ["NEW", "NOW", "OLD", "Scanned", "claim", "kinds", "learn", "listed", "scan", "write_at"]

OLD, NOW, NEW = 1_600_000_000, 1_700_000_000, 1_750_000_000
"""Three times, in seconds since the epoch, all of them past."""


@dataclass
class Scanned:
    """What came of a scan."""

    counts: scan_pb2.ScanCounts
    refused: str
    scan: scan_pb2.Scan

    @property
    def found(self) -> dict[str, int]:
        """The counts that are not zero."""
        return {field.name: value for field, value in self.counts.ListFields()}


def listed(
    key: str, size: int = 7, modified: int = NOW, etag: str = "", *, directory: bool = False, special: bool = False
) -> adapter_service_pb2.ObjectInfo:
    """Return what a listing says of one object."""
    return adapter_service_pb2.ObjectInfo(
        key=key, size=size, modified=Timestamp(seconds=modified), etag=etag, directory=directory, special=special
    )


async def write_at(
    driver: Driver, path: str, modified: int = NOW, content: bytes = b"content", on: Iterable[str] | None = None
) -> entry_pb2.Entry:
    """Write a file whole that was modified at a time."""
    begun = await driver.begin_one(path)
    names = [target.provider for target in begun.targets] if on is None else list(on)
    await driver.displace(begun, names)
    commitment = driver.commitment(begun, content, names)
    commitment.modified.seconds = modified
    return await driver.commit_one(commitment)


async def claim(driver: Driver, provider: str, owner: str = "scanner") -> scan_pb2.Scan | None:
    """Claim the scan that is longest due at one provider."""
    others = [provider_id for name, provider_id in driver.providers.items() if name != provider]
    request = scan_pb2.ClaimScanRequest(owner=owner, exclude_providers=others)
    response = await driver.call("ClaimScan", request)
    return response.scan if response.HasField("scan") else None


async def scan(
    driver: Driver,
    provider: str,
    *objects: adapter_service_pb2.ObjectInfo,
    path: str = "/",
    workspace: str = "",
    complete: bool = True,
    pages: int = 1,
) -> Scanned:
    """Scan what lies below a path at one provider, where exactly ``objects`` are listed."""
    due = scan_pb2.MakeScanDueRequest(workspace=workspace, path=path, provider=provider)
    (wanted,) = (await driver.call("MakeScanDue", due)).scans
    claimed = await claim(driver, provider)
    assert claimed is not None
    assert claimed.scan_id == wanted.scan_id
    ordered = sorted(objects, key=lambda one: one.key.encode())
    size = -(-len(ordered) // pages) or 1
    as_of, refused, after = claimed.as_of, "", ""
    for page in range(pages):
        part = ordered[page * size : (page + 1) * size]
        until = "" if page == pages - 1 or not part else part[-1].key
        compared = await driver.call(
            "CompareListing",
            scan_pb2.CompareListingRequest(
                provider_id=driver.providers[provider],
                owner="scanner",
                scan_id=claimed.scan_id,
                as_of=as_of,
                ranges=[
                    scan_pb2.ListedRange(
                        prefix=claimed.prefix,
                        recursive=claimed.recursive,
                        after_key=after,
                        until_key=until,
                        objects=part,
                        complete=complete,
                    )
                ],
            ),
        )
        as_of, refused, after = compared.as_of, refused or compared.refused, until
    finish = scan_pb2.FinishScanRequest(scan_id=claimed.scan_id, owner="scanner", complete=complete)
    finished = await driver.call("FinishScan", finish)
    while finished.remaining:
        finished = await driver.call("FinishScan", finish)
    return Scanned(finished.scan.counts, refused or finished.refused, finished.scan)


async def learn(
    driver: Driver, entry: entry_pb2.Entry, provider: str, content: bytes, etag: str = "", modified: int | None = None
) -> scan_pb2.LearnOutcome:
    """Report what reading one copy has shown."""
    learnt = scan_pb2.LearntVersion(
        version_id=entry.version_id,
        provider_id=driver.providers[provider],
        key=entry.path[1:],
        size=len(content),
        sha256=sha256(content),
        etag=etag,
        modified=None if modified is None else Timestamp(seconds=modified),
    )
    response = await driver.call("LearnVersions", scan_pb2.LearnVersionsRequest(learnt=[learnt]))
    outcome: scan_pb2.LearnOutcome = response.outcomes[0]
    return outcome


def kinds(items: Iterable[catalog.DebtItem]) -> dict[str, str]:
    """Return the kind of each item of debt by provider."""
    return {item.replica.provider: catalog.DebtKind.Name(item.kind).removeprefix("DEBT_KIND_") for item in items}

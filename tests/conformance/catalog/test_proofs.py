"""Proofs: which copies are due, leasing them, and what the proof of one changes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from catalogs.driver import Driver, sha256
from cdir.errors import InvalidArgument, NotFound
from cdir.v1 import adapter_service_pb2, check_pb2, entry_pb2, scrub_pb2
from cdir.v1 import catalog_service_pb2 as catalog

OK = entry_pb2.REPLICA_STATE_OK
LATER = Timestamp(seconds=4_000_000_000)


def _now() -> Timestamp:
    return Timestamp(seconds=time.time_ns() // 10**9, nanos=time.time_ns() % 10**9)


async def _claim(driver: Driver, name: str = "a", owner: str = "prover", **fields: Any) -> list[scrub_pb2.ProofItem]:
    request = scrub_pb2.ClaimProofsRequest(
        owner=owner, provider_id=driver.providers[name], **{"before": LATER, **fields}
    )
    return list((await driver.call("ClaimProofs", request)).items)


async def _finish(driver: Driver, proven: list[scrub_pb2.ProofItem], owner: str = "prover", **fields: Any) -> int:
    request = scrub_pb2.FinishProofsRequest(owner=owner, proven=[item.proof_id for item in proven], **fields)
    count: int = (await driver.call("FinishProofs", request)).proven
    return count


async def _release(driver: Driver, items: list[scrub_pb2.ProofItem]) -> None:
    await _finish(driver, [], released=[item.proof_id for item in items])


async def _oldest(driver: Driver, name: str = "a") -> int:
    response = await driver.call("ReadProofs", scrub_pb2.ReadProofsRequest())
    (found,) = [one for one in response.providers if one.provider_id == driver.providers[name]]
    return int(found.oldest.ToNanoseconds()) if found.HasField("oldest") else 0


async def _prove(
    driver: Driver, *objects: adapter_service_pb2.ObjectInfo, as_of: Timestamp = LATER
) -> tuple[int, list[str]]:
    request = scrub_pb2.ProveObjectsRequest(provider_id=driver.providers["a"], objects=objects, as_of=as_of)
    response = await driver.call("ProveObjects", request)
    return response.proven, list(response.doubtful)


async def test_the_oldest_proof_comes_first_and_a_proof_makes_it_the_newest(mirrored: Driver) -> None:
    for name in ("x", "y", "z"):
        await mirrored.write(f"/{name}")
    begun = await _oldest(mirrored)
    assert begun > 0
    first, second = await _claim(mirrored, limit=2)
    assert (first.path, second.path, first.replica.key) == ("/x", "/y", "x")
    assert first.version.sha256 == sha256(b"content")
    assert [item.path for item in await _claim(mirrored, owner="other")] == ["/z"]
    assert await _finish(mirrored, [first]) == 1
    assert await _oldest(mirrored) > begun
    await _release(mirrored, [second])
    assert [item.path for item in await _claim(mirrored)] == ["/y", "/x"]


async def test_what_is_proven_since_is_left_out(mirrored: Driver) -> None:
    await mirrored.write("/x")
    before = _now()
    await mirrored.write("/y")
    items = await _claim(mirrored, before=before)
    assert [item.path for item in items] == ["/x"]
    await _finish(mirrored, items)
    assert await _claim(mirrored, before=before) == []


async def test_a_top_restricts_it_to_what_lies_there(mirrored: Driver) -> None:
    for path in ("/d/x", "/d/e/y", "/d-z", "/w"):
        await mirrored.make_directory("/d/e")
        await mirrored.write(path)
    assert {item.path for item in await _claim(mirrored, top="d")} == {"/d/x", "/d/e/y"}
    assert [item.path for item in await _claim(mirrored, top="w")] == ["/w"]


async def test_owed_and_unwanted_copies_are_not_proven(mirrored: Driver) -> None:
    entry = await mirrored.write("/x", on=["a", "b"])
    await mirrored.write("/y")
    await mirrored.move("/y", "/z")
    assert await _claim(mirrored, "c") == []
    assert [item.version.version_id for item in await _claim(mirrored)] == [entry.version_id]


async def test_older_contents_are_proven_too(mirrored: Driver) -> None:
    await mirrored.write("/x", b"old")
    await mirrored.write("/x", b"new")
    assert [item.version.generation for item in await _claim(mirrored)] == [1, 2]


async def test_a_lease_that_was_lost_proves_nothing(mirrored: Driver) -> None:
    await mirrored.write("/x")
    before = (await mirrored.replicas("/x"))["a"].proven
    items = await _claim(mirrored, owner="slow")
    await mirrored.call("ReleaseOwner", catalog.ReleaseOwnerRequest(owner="slow"))
    again = await _claim(mirrored, owner="quick")
    assert [item.proof_id for item in again] == [item.proof_id for item in items]
    assert await _finish(mirrored, items, owner="slow") == 0
    assert (await mirrored.replicas("/x"))["a"].proven == before
    assert await _finish(mirrored, again, owner="quick") == 1
    assert (await mirrored.replicas("/x"))["a"].proven.ToNanoseconds() > before.ToNanoseconds()


async def test_a_lease_is_renewed_by_its_owner_alone(mirrored: Driver) -> None:
    await mirrored.write("/x")
    (item,) = await _claim(mirrored, lease_seconds=60)

    async def renewed(owner: str, seconds: float) -> list[int]:
        request = scrub_pb2.RenewProofsRequest(owner=owner, proof_ids=[item.proof_id], lease_seconds=seconds)
        return list((await mirrored.call("RenewProofs", request)).lost)

    assert await renewed("other", 1e-3) == [item.proof_id]
    assert await _claim(mirrored, owner="other") == []
    assert await renewed("prover", 1e-3) == []
    again: list[scrub_pb2.ProofItem] = []
    async with asyncio.timeout(60):
        while not again:
            again = await _claim(mirrored, owner="other")
    assert [one.proof_id for one in again] == [item.proof_id]
    assert await renewed("prover", 60) == [item.proof_id], "one that has ended stays so"
    assert await _finish(mirrored, again, owner="other") == 1
    assert await renewed("other", 60) == [item.proof_id], "one ends with the proof"


async def test_a_lease_on_a_copy_that_is_owed_by_now_is_not_renewed(mirrored: Driver) -> None:
    await mirrored.write("/x")
    (item,) = await _claim(mirrored, lease_seconds=60)
    await mirrored.remove("/x")
    request = scrub_pb2.RenewProofsRequest(owner="prover", proof_ids=[item.proof_id], lease_seconds=60)
    assert list((await mirrored.call("RenewProofs", request)).lost) == [item.proof_id]


async def test_provers_never_get_the_same_copy(mirrored: Driver) -> None:
    for number in range(12):
        await mirrored.write(f"/f{number}")
    claims = await asyncio.gather(*(_claim(mirrored, owner=f"w{number}", limit=3) for number in range(6)))
    ids = [item.proof_id for items in claims for item in items]
    while rest := await _claim(mirrored, owner="last"):
        ids += [item.proof_id for item in rest]
    assert len(ids) == len(set(ids)) == 12


@pytest.mark.parametrize("change", ["write", "remove", "move", "remove directory", "move directory"])
async def test_a_copy_that_is_being_proven_can_be_changed(mirrored: Driver, change: str) -> None:
    await mirrored.make_directory("/d")
    await mirrored.write("/d/x")
    items = await _claim(mirrored)
    match change:
        case "write":
            await mirrored.write("/d/x", b"newer")
        case "remove":
            await mirrored.remove("/d/x")
        case "move":
            await mirrored.move("/d/x", "/y")
        case "remove directory":
            await mirrored.remove("/d", recursive=True)
        case "move directory":
            await mirrored.move("/d", "/e")
    assert await _finish(mirrored, items) == 0
    audit = await mirrored.call("AuditCatalog", check_pb2.AuditCatalogRequest())
    assert list(audit.findings) == []
    owed = {item.replica.provider for item in await mirrored.claim()}
    assert ("a" in owed) == (change != "write"), "a writer has moved the older content aside already"


@pytest.mark.parametrize(("kind", "another"), [("md5", "crc32c"), ("crc32c", "md5")])
async def test_checksums_prove_without_reading(mirrored: Driver, kind: str, another: str) -> None:
    digest = sha256(b"content").hex()
    entry = await mirrored.write("/x")
    await mirrored.record(
        catalog.ReplicaObservation(
            version_id=entry.version_id,
            provider_id=mirrored.providers["a"],
            key="x",
            state=OK,
            etag='"e"',
            checksum=f"{kind}:0a0b",
        )
    )
    before = await _oldest(mirrored)
    info = adapter_service_pb2.ObjectInfo
    assert await _prove(mirrored, info(key="x", size=7, checksum=f"{kind}:0A0B"), info(key="stranger", size=1)) == (
        1,
        [],
    )
    assert await _oldest(mirrored) > before
    assert await _prove(mirrored, info(key="x", size=7, checksum=f"sha256:{digest}")) == (1, [])
    assert await _prove(mirrored, info(key="x", size=7, checksum=f"{kind}:ffff")) == (0, ["x"])
    assert await _prove(mirrored, info(key="x", size=8, checksum=f"{kind}:0a0b")) == (0, ["x"])
    assert await _prove(mirrored, info(key="x", size=7)) == (0, [])
    assert await _prove(mirrored, info(key="x", size=7, checksum=f"{another}:ffff")) == (0, [])


async def test_a_listing_from_before_a_write_says_nothing_of_it(mirrored: Driver) -> None:
    as_of = _now()
    await mirrored.write("/x")
    stale = adapter_service_pb2.ObjectInfo(key="x", size=3, checksum="md5:ffff")
    assert await _prove(mirrored, stale, as_of=as_of) == (0, [])


async def test_bad_requests_are_refused(mirrored: Driver) -> None:
    with pytest.raises(InvalidArgument):
        await _claim(mirrored, owner="")
    with pytest.raises(InvalidArgument):
        await _claim(mirrored, before=None)
    unknown = scrub_pb2.ClaimProofsRequest(owner="w", provider_id="0" * 32, before=LATER)
    with pytest.raises(NotFound):
        await mirrored.call("ClaimProofs", unknown)
    timeless = scrub_pb2.ProveObjectsRequest(provider_id=mirrored.providers["a"])
    with pytest.raises(InvalidArgument):
        await mirrored.call("ProveObjects", timeless)


async def test_the_status_tells_the_oldest_proof(mirrored: Driver) -> None:
    await mirrored.make_directory("/d")
    await mirrored.write("/d/x")
    await mirrored.write("/y", on=["a", "b"])
    whole, below = await mirrored.status(), await mirrored.status("/d")
    oldest = (await mirrored.replicas("/d/x"))["a"].proven.ToNanoseconds()
    assert whole.providers[0].proven.ToNanoseconds() == below.providers[0].proven.ToNanoseconds() == oldest
    await _finish(mirrored, [item for item in await _claim(mirrored) if item.path == "/d/x"])
    assert (await mirrored.status()).providers[0].proven.ToNanoseconds() > oldest
    assert (await mirrored.status("/d")).providers[1].proven.ToNanoseconds() == oldest

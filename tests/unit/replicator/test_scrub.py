"""Scrubs: copies are proven by reading or by checksum, and what is wrong becomes debt."""

from __future__ import annotations

import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from cdir.errors import InvalidArgument, NotFound, RateLimited
from cdir.status import translated
from cdir.v1 import adapter_service_pb2, entry_pb2, scrub_pb2
from cdir_replicator.allowance import ScrubPace
from cdir_replicator.roles.scrub import ScrubRole
from unit.replicator.conftest import Bench

OK = entry_pb2.REPLICA_STATE_OK


def _role(bench: Bench, pace: ScrubPace) -> ScrubRole:
    return type(bench.another_replicator())(bench.catalog_channel, bench.adapters_channel, scrub_pace=pace).scrub


async def test_good_copies_are_proven(bench: Bench) -> None:
    await bench.write("/x", b"content")
    await bench.write("/y", bytes(5_000_000))
    before = (await bench.replicas("/x"))["a"].proven.ToNanoseconds()
    found = await bench.scrub()
    assert (found.proven, found.bytes, found.corrupt, found.missing) == (6, 3 * 5_000_007, 0, 0)
    assert found.calls == 3 + 3 * 2
    assert (await bench.replicas("/x"))["a"].proven.ToNanoseconds() > before


async def test_damage_is_found_and_repaired(bench: Bench) -> None:
    await bench.write("/x", b"content")
    await bench.write("/y", bytes(5_000_000))
    bench.corrupt("a", "x")
    bench.corrupt("b", "y")
    bench.root("c").joinpath("x").unlink()
    found = await bench.scrub()
    assert (found.proven, found.corrupt, found.missing, found.changed) == (3, 2, 1, 0)
    assert await bench.owed() == 3
    await bench.work_off()
    assert bench.files("a") == bench.files("b") == bench.files("c") == {"x": b"content", "y": bytes(5_000_000)}
    assert (await bench.scrub()).proven == 6


async def test_an_older_content_that_is_damaged_is_let_go(bench: Bench) -> None:
    older = await bench.write("/x", b"older")
    await bench.write("/x", b"newer")
    aside = f".cdir/versions/{older.version_id[:2]}/{older.version_id}"
    bench.corrupt("a", aside)
    found = await bench.scrub()
    assert (found.proven, found.corrupt) == (5, 1)
    await bench.work_off()
    assert bench.files("a") == {"x": b"newer"}


async def test_what_others_wrote_is_not_taken_for_damage(bench: Bench) -> None:
    await bench.write("/x", b"content")
    bench.root("b").joinpath("x").write_bytes(b"edited by others")
    found = await bench.scrub()
    assert (found.proven, found.corrupt, found.changed) == (2, 0, 1)
    await bench.work_off()
    assert bench.files("a")["x"] == bench.files("c")["x"] == b"edited by others"


async def test_a_path_and_a_provider_restrict_it(bench: Bench) -> None:
    for path in ("/x", "/y"):
        await bench.write(path, b"content")
    assert (await bench.scrub(path="/x")).proven == 3
    assert (await bench.scrub(provider="b")).proven == 2
    with pytest.raises(NotFound):
        await bench.scrub(path="/nothing")
    with pytest.raises(NotFound):
        await bench.scrub(provider="nobody")
    with pytest.raises(InvalidArgument):
        await bench.scrub(sample=1.5)


async def test_bounds_leave_the_newest_proofs_as_they_are(bench: Bench) -> None:
    for number in range(10):
        await bench.write(f"/f{number}", b"content")
    begun = time.time_ns()
    for bound in ({"calls": 4}, {"bytes": 28}, {"sample": 0.4}):
        found = await bench.scrub(provider="a", **bound)
        assert (found.proven, found.bounded) == (4, True)
    for number in range(10):
        # three times four, and always those proven longest ago: every one has had its turn
        assert (await bench.replicas(f"/f{number}"))["a"].proven.ToNanoseconds() > begun


async def test_a_provider_that_does_not_answer_is_named(bench: Bench) -> None:
    await bench.write("/x", b"content")
    bench.root("b").rename(bench.root("b-away"))
    found = await bench.scrub()
    assert (found.proven, list(found.unreachable), found.missing) == (2, ["b"], 0)
    assert (await bench.replicas("/x"))["b"].state == OK


async def test_a_checksum_proves_without_reading(bench: Bench) -> None:
    await bench.add_provider("m", "memory")
    await bench.write("/x", b"content")
    found = await bench.scrub(provider="m")
    assert (found.proven, found.by_checksum, found.bytes) == (1, 1, 0)
    header = adapter_service_pb2.ObjectHeader(provider=bench.providers["m"], key="x", modified=Timestamp(seconds=5))
    await bench.adapters.PutObject(adapter_service_pb2.PutObjectRequest(header=header, data=b"CONTENT"))
    found = await bench.scrub(provider="m")
    assert (found.proven, found.bytes) == (0, 0)
    assert found.changed + found.corrupt == 1
    await bench.work_off()
    found = await bench.scrub(provider="m")
    assert found.proven == found.by_checksum >= 1


async def test_the_background_proves_what_is_due_and_no_more(bench: Bench) -> None:
    for number in range(5):
        await bench.write(f"/f{number}", b"content")
    await bench.all_up()
    assert (await _role(bench, ScrubPace()).once()).proven == 0
    eager = _role(bench, ScrubPace(sample=0.0001, fresh_seconds=0.0))
    assert (await eager.once()).proven == 3  # at least one at each provider
    whole = ScrubPace(sample=144.0, fresh_seconds=0.0)
    assert (await _role(bench, whole).once()).proven == 15
    poor = ScrubPace(sample=144.0, fresh_seconds=0.0, calls_per_hour=4)
    assert (await _role(bench, poor).once()).calls == 4


async def test_a_paused_replicator_proves_nothing_in_the_background(bench: Bench) -> None:
    await bench.write("/x", b"content")
    await bench.all_up()
    bench.replicator.progress.paused = True
    bench.replicator.scrub._pace = ScrubPace(fresh_seconds=0.0)
    assert (await bench.replicator.scrub.once()).proven == 0


async def test_too_many_scrubs_are_refused(bench: Bench) -> None:
    await bench.write("/x", b"content")
    request = scrub_pb2.ScrubTreeRequest(path="/")
    waiting = [bench.replicator.scrub.scrub(request) for _ in range(17)]
    for scrub in waiting[:16]:
        await anext(scrub)
    with pytest.raises(RateLimited):
        await anext(waiting[16])
    for scrub in waiting:
        await scrub.aclose()


async def test_leases_of_a_prover_that_died_lapse(bench: Bench) -> None:
    await bench.write("/x", b"content")
    before = Timestamp(seconds=int(time.time()) + 100)
    claim = scrub_pb2.ClaimProofsRequest(
        owner="dead", provider_id=bench.providers["a"].provider_id, before=before, lease_seconds=0.05
    )
    with translated():
        assert len((await bench.catalog.ClaimProofs(claim)).items) == 1
    await bench.until(lambda: _proven_at_a(bench))


async def _proven_at_a(bench: Bench) -> bool:
    return (await bench.scrub(provider="a")).proven == 1

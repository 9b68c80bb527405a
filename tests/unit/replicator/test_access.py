"""Access that others change at a provider is seen, owed and put right; what nobody tells is never counted as right."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cdir.errors import CdirError, InvalidPath, ProviderUnavailable
from cdir.v1 import (
    adapter_service_pb2,
    catalog_service_pb2,
    directory_service_pb2,
    entry_pb2,
    provider_pb2,
    scrub_pb2,
)
from cdir_replicator.access import AccessWatch, Looked, Verdict, compare
from cdir_replicator.allowance import Allowance, ScrubPace
from cdir_replicator.service import Replicator
from unit.replicator.conftest import Bench

PRIVATE = entry_pb2.Acl(access=entry_pb2.ACL_ACCESS_PRIVATE)
KNOWN = entry_pb2.Acl(access=entry_pb2.ACL_ACCESS_AUTHENTICATED_READ)
PUBLIC = entry_pb2.Acl(access=entry_pb2.ACL_ACCESS_PUBLIC_READ)
ANYTHING = entry_pb2.Acl(access=entry_pb2.ACL_ACCESS_PUBLIC_READ_WRITE)
APPLIED, NARROWER = entry_pb2.ACL_STATE_APPLIED, entry_pb2.ACL_STATE_NARROWER
READ, WRITE, FULL = entry_pb2.ACL_RIGHT_READ, entry_pb2.ACL_RIGHT_WRITE, entry_pb2.ACL_RIGHT_FULL


def granting(access: entry_pb2.Acl, *grants: tuple[str, entry_pb2.AclRight.ValueType]) -> entry_pb2.Acl:
    given = [entry_pb2.AclGrant(grantee=grantee, right=right) for grantee, right in grants]
    return entry_pb2.Acl(access=access.access, grants=given)


@pytest.mark.parametrize(
    ("asked", "state", "in_force", "verdict"),
    [
        (PRIVATE, APPLIED, PRIVATE, Verdict.RIGHT),
        (PRIVATE, APPLIED, KNOWN, Verdict.WIDER),
        (KNOWN, APPLIED, PUBLIC, Verdict.WIDER),
        (PUBLIC, NARROWER, ANYTHING, Verdict.WIDER),
        (PUBLIC, APPLIED, PRIVATE, Verdict.OTHER),
        (PUBLIC, NARROWER, PRIVATE, Verdict.RIGHT),
        (PRIVATE, APPLIED, granting(PRIVATE, ("user:eve", READ)), Verdict.WIDER),
        (granting(PRIVATE, ("user:ada", READ)), APPLIED, granting(PRIVATE, ("user:ada", READ)), Verdict.RIGHT),
        (granting(PRIVATE, ("user:ada", READ)), APPLIED, PRIVATE, Verdict.OTHER),
        (granting(PRIVATE, ("user:ada", READ)), APPLIED, granting(PRIVATE, ("user:ada", FULL)), Verdict.WIDER),
        (granting(PRIVATE, ("user:ada", FULL)), APPLIED, granting(PRIVATE, ("user:ada", READ)), Verdict.OTHER),
        (granting(PRIVATE, ("user:ada", READ)), APPLIED, granting(PRIVATE, ("user:eve", READ)), Verdict.WIDER),
        (PUBLIC, APPLIED, granting(PUBLIC, ("user:eve", READ)), Verdict.OTHER),
        (PUBLIC, APPLIED, granting(PUBLIC, ("group:9", WRITE)), Verdict.WIDER),
        (granting(PRIVATE, ("email:a@b.c", READ)), APPLIED, granting(PRIVATE, ("user:1", READ)), Verdict.UNTELLABLE),
        (granting(PRIVATE, ("email:a@b.c", READ)), APPLIED, granting(PRIVATE, ("user:1", FULL)), Verdict.WIDER),
        (
            granting(PRIVATE, ("email:a@b.c", READ)),
            APPLIED,
            granting(PRIVATE, ("user:1", READ), ("user:2", READ)),
            Verdict.WIDER,
        ),
        (granting(PRIVATE, ("email:a@b.c", READ)), APPLIED, granting(PRIVATE, ("group:1", READ)), Verdict.WIDER),
    ],
)
def test_what_is_in_force_is_compared_with_what_was_set(
    asked: entry_pb2.Acl,
    state: entry_pb2.AclState.ValueType,
    in_force: entry_pb2.Acl,
    verdict: Verdict,
) -> None:
    assert compare(asked, state, in_force) is verdict


async def _set(bench: Bench, path: str, acl: entry_pb2.Acl) -> None:
    await bench.catalog.SetAcl(directory_service_pb2.SetAclRequest(path=path, acl=acl))
    await bench.work_off()


async def _provider(bench: Bench, name: str) -> provider_pb2.Provider:
    response = await bench.catalog.ReadProviders(catalog_service_pb2.ReadProvidersRequest(name=name))
    return response.providers[0].provider


def _mode(bench: Bench, name: str, key: str) -> int:
    return bench.root(name).joinpath(key).stat().st_mode & 0o777


async def _look(
    bench: Bench, name: str = "a", *, adapters: Any = None, calls: int | None = None, **fields: Any
) -> tuple[scrub_pb2.ScrubProgress, Looked]:
    progress = scrub_pb2.ScrubProgress()
    watch = AccessWatch(bench.catalog, adapters or bench.adapters, bench.replicator.wake)
    looked = await watch.look(await _provider(bench, name), "", Allowance(calls=calls), progress, **fields)
    return progress, looked


async def test_what_was_opened_is_closed_again_and_what_was_closed_is_opened(bench: Bench) -> None:
    await bench.write("/x", b"content")
    await bench.write("/free", b"content")
    await _set(bench, "/x", KNOWN)
    bench.root("a").joinpath("x").chmod(0o644)
    bench.root("b").joinpath("x").chmod(0o600)
    bench.root("a").joinpath("free").chmod(0o666)
    told, _ = await _look(bench, "a")
    assert (told.access_right, told.access_wider, told.access_other, told.calls) == (0, 1, 0, 1)
    told, _ = await _look(bench, "b")
    assert (told.access_right, told.access_wider, told.access_other) == (0, 0, 1)
    told, _ = await _look(bench, "c")
    assert (told.access_right, told.access_wider, told.access_other) == (1, 0, 0)
    assert await bench.owed() == 2
    await bench.work_off()
    assert [_mode(bench, name, "x") for name in "abc"] == [0o640] * 3
    assert _mode(bench, "a", "free") == 0o666  # nobody asked for anything there


async def test_an_older_content_stays_private(bench: Bench) -> None:
    older = await bench.write("/x", b"older")
    await _set(bench, "/x", PUBLIC)
    await bench.write("/x", b"newer")
    await bench.work_off()
    aside = f".cdir/versions/{older.version_id[:2]}/{older.version_id}"
    bench.root("a").joinpath(aside).chmod(0o644)
    assert (await _look(bench))[0].access_wider == 1
    await bench.work_off()
    assert _mode(bench, "a", aside) == 0o600


async def test_a_mend_that_is_interrupted_is_done_by_whoever_comes_next(bench: Bench) -> None:
    await bench.write("/x", b"content")
    await _set(bench, "/x", PRIVATE)
    bench.root("a").joinpath("x").chmod(0o666)
    assert (await _look(bench))[0].access_wider == 1
    claim = catalog_service_pb2.ClaimDebtRequest(owner="dead", lease_seconds=0.05)
    assert len((await bench.catalog.ClaimDebt(claim)).items) == 1
    assert await bench.owed() == 1
    await bench.work_off(bench.another_replicator())
    assert _mode(bench, "a", "x") == 0o600
    assert (await _look(bench))[0].access_right == 1


class _Failing:
    """Adapters that fail on some objects."""

    def __init__(self, adapters: Any, error: CdirError, *keys: str) -> None:
        self._adapters = adapters
        self._error = error
        self._keys = keys

    async def GetObjectAcl(
        self, request: adapter_service_pb2.GetObjectAclRequest, *, timeout: float
    ) -> adapter_service_pb2.GetObjectAclResponse:
        if request.key in self._keys:
            raise self._error
        response: adapter_service_pb2.GetObjectAclResponse = await self._adapters.GetObjectAcl(request, timeout=timeout)
        return response


async def test_a_copy_whose_access_cannot_be_read_is_told(bench: Bench) -> None:
    for name in "vwxyz":
        await bench.write(f"/{name}", b"content")
        await _set(bench, f"/{name}", PRIVATE)
        bench.root("a").joinpath(name).chmod(0o644)
    odd = _Failing(bench.adapters, InvalidPath("odd"), "w")
    told, looked = await _look(bench, adapters=odd)
    assert (told.access_right, told.access_wider, told.access_failed, looked) == (0, 4, 1, Looked(0, bounded=False))
    await bench.work_off()
    assert [_mode(bench, "a", name) for name in "vwxyz"] == [0o600, 0o644, 0o600, 0o600, 0o600]
    away = ProviderUnavailable("it is away", provider="a")
    told, looked = await _look(bench, adapters=_Failing(bench.adapters, away, "v"))
    assert (told.access_right, told.access_wider, told.access_failed) == (2, 1, 1)
    assert looked.error is away
    # the next look goes on behind what failed, and is not held up by it
    told, looked = await _look(bench, adapters=_Failing(bench.adapters, away, "v"), after=looked.last)
    assert (told.access_right, looked) == (1, Looked(0, bounded=False))


async def test_a_provider_that_cannot_tell_is_named(bench: Bench) -> None:
    await bench.write("/x", b"content")
    await _set(bench, "/x", PRIVATE)
    stored = await _provider(bench, "a")
    stored.capability.fields["acl"].bool_value = False
    progress = scrub_pb2.ScrubProgress()
    watch = AccessWatch(bench.catalog, bench.adapters, bench.replicator.wake)
    await watch.look(stored, "", Allowance(), progress)
    assert (list(progress.access_untold), progress.access_right, progress.calls) == (["a"], 0, 0)


async def test_the_calls_are_bounded_and_the_next_look_goes_on(bench: Bench) -> None:
    for number in range(10):
        await bench.write(f"/f{number}", b"content")
        await _set(bench, f"/f{number}", PRIVATE)
    told, looked = await _look(bench, most=4)
    assert (told.access_right, looked.bounded) == (4, True)
    told, looked = await _look(bench, calls=3, after=looked.last)
    assert (told.access_right, looked.bounded) == (3, True)
    told, looked = await _look(bench, after=looked.last)
    assert (told.access_right, looked) == (3, Looked(0, bounded=False))


async def test_the_background_goes_round(bench: Bench) -> None:
    for number in range(6):
        await bench.write(f"/f{number}", b"content")
        await _set(bench, f"/f{number}", PRIVATE)
        bench.root("a").joinpath(f"f{number}").chmod(0o604)
    role = Replicator(bench.catalog_channel, bench.adapters_channel, scrub_pace=ScrubPace()).scrub
    states = [
        catalog_service_pb2.ProviderObservation(provider_id=ref.provider_id, state=provider_pb2.PROVIDER_STATE_UP)
        for ref in bench.providers.values()
    ]
    await bench.catalog.RecordProviderStates(catalog_service_pb2.RecordProviderStatesRequest(observations=states))
    found = [await role.once() for _ in range(7)]
    assert [one.access_wider for one in found] == [1, 1, 1, 1, 1, 1, 0]
    await bench.work_off()
    assert {_mode(bench, "a", f"f{number}") for number in range(6)} == {0o600}
    async with asyncio.timeout(60):
        while (await role.once()).access_right < 3:
            pass

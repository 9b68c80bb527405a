"""Access control lists: wanted of entries, owed by copies, worked off as debt."""

from __future__ import annotations

from typing import Any

import pytest

from catalogs.driver import Driver
from cdir.errors import InvalidArgument, NotFound
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import check_pb2, entry_pb2, provider_pb2, scrub_pb2
from cdir.v1 import directory_service_pb2 as directory

ACL = catalog.DEBT_KIND_ACL
COPY = catalog.DEBT_KIND_COPY
RELOCATE = catalog.DEBT_KIND_RELOCATE
REMOVE = catalog.DEBT_KIND_REMOVE
DOWN = provider_pb2.PROVIDER_STATE_DOWN
OK = entry_pb2.REPLICA_STATE_OK

PRIVATE = entry_pb2.Acl(access=entry_pb2.ACL_ACCESS_PRIVATE)
SIGNED_IN = entry_pb2.Acl(access=entry_pb2.ACL_ACCESS_AUTHENTICATED_READ)
PUBLIC = entry_pb2.Acl(access=entry_pb2.ACL_ACCESS_PUBLIC_READ)


def applied(acl: entry_pb2.Acl) -> entry_pb2.AclOutcome:
    return entry_pb2.AclOutcome(asked=acl, state=entry_pb2.ACL_STATE_APPLIED)


async def set_acl(
    driver: Driver, path: str, acl: entry_pb2.Acl, *, recursive: bool = False
) -> directory.GetAclResponse:
    response = await driver.call("SetAcl", directory.SetAclRequest(path=path, acl=acl, recursive=recursive))
    standing: directory.GetAclResponse = response.standing
    return standing


async def get_acl(driver: Driver, path: str) -> directory.GetAclResponse:
    response: directory.GetAclResponse = await driver.call("GetAcl", directory.GetAclRequest(path=path))
    return response


def states(answer: directory.GetAclResponse) -> dict[str, str]:
    return {one.provider: entry_pb2.AclState.Name(one.state).removeprefix("ACL_STATE_") for one in answer.standings}


async def work_off(driver: Driver) -> list[tuple[int, str, str]]:
    """Do all debt as a provider that can do everything would; returns kind, key and access of each item."""
    done = []
    while items := await driver.claim():
        for item in items:
            fields: dict[str, Any] = {"done": True}
            if item.HasField("acl"):
                fields["acl"] = applied(item.acl)
            await driver.finish([item], **fields)
            access = entry_pb2.AclAccess.Name(item.acl.access).removeprefix("ACL_ACCESS_")
            done.append((int(item.kind), f"{item.replica.provider}:{item.target_key}", access))
    return sorted(done)


async def write(driver: Driver, path: str, content: bytes = b"content", on: tuple[str, ...] = ("a", "b", "c")) -> None:
    """Write a file as the gateway does: the ACL that comes with a target is set with the object there."""
    begun = await driver.begin_one(path)
    await driver.displace(begun, on)
    commitment = driver.commitment(begun, content, on)
    asked = {target.provider_id: target.acl for target in begun.targets if target.HasField("acl")}
    for copy in commitment.stored:
        if copy.provider_id in asked:
            copy.acl.CopyFrom(applied(asked[copy.provider_id]))
    await driver.commit_one(commitment)


async def sound(driver: Driver) -> None:
    """The catalog does not contradict itself."""
    audit = await driver.call("AuditCatalog", check_pb2.AuditCatalogRequest())
    assert [finding.message for finding in audit.findings] == []


async def test_an_acl_is_owed_by_every_copy_and_worked_off(mirrored: Driver) -> None:
    await write(mirrored, "/d/f")
    assert states(await get_acl(mirrored, "/d/f")) == dict.fromkeys("abc", "UNSPECIFIED")
    assert states(await set_acl(mirrored, "/d/f", PUBLIC)) == dict.fromkeys("abc", "OWED")
    assert (await mirrored.status()).owed == 3
    assert set((await mirrored.states("/d/f")).values()) == {"OK"}
    await sound(mirrored)
    assert await work_off(mirrored) == [(ACL, f"{name}:d/f", "PUBLIC_READ") for name in "abc"]
    answer = await get_acl(mirrored, "/d/f")
    assert (answer.acl, states(answer)) == (PUBLIC, dict.fromkeys("abc", "APPLIED"))
    assert (await mirrored.status()).owed == 0
    await sound(mirrored)


async def test_what_a_provider_cannot_express_is_told_and_not_owed(mirrored: Driver) -> None:
    await write(mirrored, "/f")
    await set_acl(mirrored, "/f", PRIVATE)
    items = {item.replica.provider: item for item in await mirrored.claim()}
    kept = entry_pb2.AclOutcome(asked=PRIVATE, state=entry_pb2.ACL_STATE_UNSUPPORTED, note="it has none")
    await mirrored.finish([items["a"]], done=True, acl=kept)
    await mirrored.finish([items["b"], items["c"]], done=True, acl=applied(PRIVATE))
    answer = await get_acl(mirrored, "/f")
    assert states(answer) == {"a": "UNSUPPORTED", "b": "APPLIED", "c": "APPLIED"}
    assert answer.standings[0].note == "it has none"
    assert await mirrored.claim() == []
    assert states(await get_acl(mirrored, "/")) == states(answer)
    # it may be able to by now
    assert states(await set_acl(mirrored, "/f", PRIVATE)) == dict.fromkeys("abc", "OWED")


async def test_what_a_provider_that_is_down_owes_waits_for_it(mirrored: Driver) -> None:
    await write(mirrored, "/f")
    await mirrored.observe("b", DOWN, "it is off")
    answer = await set_acl(mirrored, "/f", PRIVATE)
    assert [(one.provider, one.waits, one.note) for one in answer.standings] == [
        ("a", False, ""),
        ("b", True, "it is off"),
        ("c", False, ""),
    ]
    assert [key for _, key, _ in await work_off(mirrored)] == ["a:f", "c:f"]
    await mirrored.observe("b", provider_pb2.PROVIDER_STATE_UP)
    assert [key for _, key, _ in await work_off(mirrored)] == ["b:f"]


async def test_new_contents_get_it_with_the_write_and_older_ones_are_private(mirrored: Driver) -> None:
    await write(mirrored, "/f")
    await set_acl(mirrored, "/f", PUBLIC)
    await work_off(mirrored)
    await write(mirrored, "/f", b"second", on=("a", "b"))
    assert states(await get_acl(mirrored, "/f")) == {"a": "APPLIED", "b": "APPLIED", "c": "OWED"}
    done = await work_off(mirrored)
    assert (COPY, "c:f", "PUBLIC_READ") in done
    aside = [(kind, access) for kind, key, access in done if ":.cdir/" in key and kind == ACL]
    assert aside == [(ACL, "PRIVATE")] * 3, "what is there to be restored is for nobody else"
    assert states(await get_acl(mirrored, "/f")) == dict.fromkeys("abc", "APPLIED")
    await sound(mirrored)


async def test_a_write_that_began_with_another_acl_owes_the_one_wanted_now(mirrored: Driver) -> None:
    await write(mirrored, "/f")
    await set_acl(mirrored, "/f", PUBLIC)
    await work_off(mirrored)
    begun = await mirrored.begin_one("/f")
    assert {target.acl.access for target in begun.targets} == {PUBLIC.access}
    await set_acl(mirrored, "/f", PRIVATE)
    await mirrored.displace(begun, "abc")
    commitment = mirrored.commitment(begun, b"second", "abc")
    for copy in commitment.stored:
        copy.acl.CopyFrom(applied(PUBLIC))
    entry = await mirrored.commit_one(commitment)
    assert entry.owed == 3
    assert [item for item in await work_off(mirrored) if item[1].endswith(":f")] == [
        (ACL, f"{name}:f", "PRIVATE") for name in "abc"
    ]
    await sound(mirrored)


async def test_an_outcome_for_an_acl_that_is_wanted_no_more_settles_nothing(mirrored: Driver) -> None:
    await write(mirrored, "/f")
    await set_acl(mirrored, "/f", PUBLIC)
    items = await mirrored.claim()
    await set_acl(mirrored, "/f", PRIVATE)
    for item in items:
        await mirrored.finish([item], done=True, acl=applied(item.acl))
    assert states(await get_acl(mirrored, "/f")) == dict.fromkeys("abc", "OWED")
    assert {access for _, _, access in await work_off(mirrored)} == {"PRIVATE"}


async def test_a_rename_takes_the_acl_along_and_sets_it_anew(mirrored: Driver) -> None:
    """Some providers rename by copying, and a copy has what the provider gives by itself."""
    await write(mirrored, "/d/f")
    await set_acl(mirrored, "/d/f", PUBLIC)
    await work_off(mirrored)
    await mirrored.move("/d", "/e")
    done = await work_off(mirrored)
    assert [item for item in done if item[0] == RELOCATE] == [(RELOCATE, f"{n}:e/f", "UNSPECIFIED") for n in "abc"]
    assert [item for item in done if item[0] == ACL] == [(ACL, f"{name}:e/f", "PUBLIC_READ") for name in "abc"]
    await sound(mirrored)


async def test_a_move_that_is_taken_back_keeps_what_is_owed(mirrored: Driver) -> None:
    await write(mirrored, "/d/f")
    await set_acl(mirrored, "/d/f", PUBLIC)
    await mirrored.move("/d", "/e")
    await mirrored.move("/e", "/d")
    await sound(mirrored)
    assert await work_off(mirrored) == [(ACL, f"{name}:d/f", "PUBLIC_READ") for name in "abc"]


async def test_new_files_get_what_the_nearest_directory_says(mirrored: Driver) -> None:
    await mirrored.make_directory("/d/inner/deep")
    await write(mirrored, "/d/old")
    assert states(await set_acl(mirrored, "/", SIGNED_IN)) == {}
    await set_acl(mirrored, "/d", PRIVATE)
    await set_acl(mirrored, "/d/inner", PUBLIC)
    for path, wanted in (("/x", SIGNED_IN), ("/d/x", PRIVATE), ("/d/inner/deep/x", PUBLIC)):
        await write(mirrored, path)
        answer = await get_acl(mirrored, path)
        assert (answer.acl, states(answer)) == (wanted, dict.fromkeys("abc", "APPLIED"))
    assert not (await get_acl(mirrored, "/d/old")).HasField("acl"), "a file that was there keeps what it has"
    assert (await get_acl(mirrored, "/d/inner/deep")).default_acl == PUBLIC
    assert await mirrored.claim() == []


async def test_recursive_sets_it_on_all_below_and_on_what_is_kept_of_it(mirrored: Driver) -> None:
    for path in ("/d/f", "/d/inner/g", "/other"):
        await write(mirrored, path)
    await write(mirrored, "/d/f", b"second")
    await write(mirrored, "/d/gone")
    await mirrored.remove("/d/gone")
    await work_off(mirrored)
    answer = await set_acl(mirrored, "/d", PUBLIC, recursive=True)
    assert answer.unplaced
    assert [(one.provider, one.files) for one in answer.standings] == [(name, 2) for name in "abc"]
    assert set(states(answer).values()) == {"OWED"}
    await sound(mirrored)
    await mirrored.place()
    await sound(mirrored)
    done = [item for item in await work_off(mirrored) if item[1].startswith("a:")]
    assert [(key, access) for _, key, access in done if ".cdir" not in key] == [
        ("a:d/f", "PUBLIC_READ"),
        ("a:d/inner/g", "PUBLIC_READ"),
    ]
    assert [access for _, key, access in done if ".cdir" in key] == ["PRIVATE"] * 2
    assert set(states(await get_acl(mirrored, "/d")).values()) == {"APPLIED"}
    assert (await get_acl(mirrored, "/d/inner")).acl == PUBLIC
    assert not (await get_acl(mirrored, "/other")).HasField("acl")
    await sound(mirrored)


async def test_a_removed_tree_is_private_and_comes_back_as_its_directory_says(mirrored: Driver) -> None:
    await write(mirrored, "/d/f")
    await set_acl(mirrored, "/d/f", PUBLIC)
    await work_off(mirrored)
    await mirrored.remove("/d", recursive=True)
    await sound(mirrored)
    assert [access for kind, _, access in await work_off(mirrored) if kind == ACL] == ["PRIVATE"] * 3
    await write(mirrored, "/d/f", b"new")
    assert not (await get_acl(mirrored, "/d/f")).HasField("acl")
    await sound(mirrored)
    await mirrored.remove("/d/f")
    await work_off(mirrored)
    await set_acl(mirrored, "/d", SIGNED_IN)
    await write(mirrored, "/d/f", b"newer")
    assert (await get_acl(mirrored, "/d/f")).acl == SIGNED_IN
    await sound(mirrored)
    assert {access for kind, _, access in await work_off(mirrored) if kind == ACL} == {"PRIVATE"}


async def test_a_file_that_takes_the_place_of_another_keeps_its_own(mirrored: Driver) -> None:
    await write(mirrored, "/new")
    await write(mirrored, "/old")
    await set_acl(mirrored, "/new", PUBLIC)
    await work_off(mirrored)
    await mirrored.move("/new", "/old", overwrite=True)
    await sound(mirrored)
    await work_off(mirrored)
    assert (await get_acl(mirrored, "/old")).acl == PUBLIC
    await sound(mirrored)


async def test_grants_are_kept_in_order_and_compared_so(mirrored: Driver) -> None:
    await write(mirrored, "/f")
    read, full = entry_pb2.ACL_RIGHT_READ, entry_pb2.ACL_RIGHT_FULL
    grants = [
        entry_pb2.AclGrant(grantee="user:b", right=read),
        entry_pb2.AclGrant(grantee="email:a@b.org", right=full),
    ]
    asked = entry_pb2.Acl(access=PRIVATE.access, grants=grants)
    kept = (await set_acl(mirrored, "/f", asked)).acl
    assert [grant.grantee for grant in kept.grants] == ["email:a@b.org", "user:b"]
    (item,) = [one for one in await mirrored.claim() if one.replica.provider == "a"]
    assert item.acl == kept
    await mirrored.finish([item], done=True, acl=applied(item.acl))
    assert states(await get_acl(mirrored, "/f"))["a"] == "APPLIED"


@pytest.mark.parametrize(
    "acl",
    [
        entry_pb2.Acl(),
        entry_pb2.Acl(access=99),  # type: ignore[arg-type] # what another release might send
        *(
            entry_pb2.Acl(access=PRIVATE.access, grants=[entry_pb2.AclGrant(grantee=grantee, right=right)])
            for grantee, right in (
                ("", entry_pb2.ACL_RIGHT_READ),
                ("user:", entry_pb2.ACL_RIGHT_READ),
                ("somebody", entry_pb2.ACL_RIGHT_READ),
                ("user:a\nb", entry_pb2.ACL_RIGHT_READ),
                ("user:a", entry_pb2.ACL_RIGHT_UNSPECIFIED),
            )
        ),
        entry_pb2.Acl(
            access=PRIVATE.access,
            grants=[entry_pb2.AclGrant(grantee="user:a", right=entry_pb2.ACL_RIGHT_READ)] * 2,
        ),
    ],
)
async def test_nonsense_is_refused_and_changes_nothing(mirrored: Driver, acl: entry_pb2.Acl) -> None:
    await write(mirrored, "/f")
    with pytest.raises(InvalidArgument):
        await set_acl(mirrored, "/f", acl)
    assert not (await get_acl(mirrored, "/f")).HasField("acl")
    assert await mirrored.claim() == []


async def test_a_path_that_names_nothing(mirrored: Driver) -> None:
    for path in ("/nothing", "/d/nothing"):
        with pytest.raises(NotFound):
            await set_acl(mirrored, path, PRIVATE)
        with pytest.raises(NotFound):
            await get_acl(mirrored, path)


async def test_the_root_of_a_workspace_to_which_nothing_was_written(driver: Driver) -> None:
    assert not (await get_acl(driver, "/")).HasField("acl")
    assert (await set_acl(driver, "/", PRIVATE)).acl == PRIVATE
    assert (await get_acl(driver, "/")).acl == PRIVATE


async def _listed(driver: Driver, *, after: int = 0, top: str = "", limit: int = 0) -> list[scrub_pb2.AccessItem]:
    request = scrub_pb2.ReadAccessRequest(provider_id=driver.providers["a"], after=after, top=top, limit=limit)
    return list((await driver.call("ReadAccess", request)).items)


async def _doubt(driver: Driver, *items: scrub_pb2.AccessItem) -> list[int]:
    doubts = [scrub_pb2.AccessDoubt(item=item, error="others opened it") for item in items]
    return list((await driver.call("OweAccess", scrub_pb2.OweAccessRequest(doubts=doubts))).owed)


async def test_access_that_is_not_as_it_was_set_is_owed_again(mirrored: Driver) -> None:
    for path in ("/d/f", "/d/g", "/free"):
        await write(mirrored, path)
    assert await _listed(mirrored) == []
    await set_acl(mirrored, "/d/f", PUBLIC)
    await set_acl(mirrored, "/d/g", PRIVATE)
    assert await _listed(mirrored) == []  # what is owed is not compared with anything
    await work_off(mirrored)
    first, second = await _listed(mirrored)
    assert [(item.key, item.asked, item.state) for item in (first, second)] == [
        ("d/f", PUBLIC, entry_pb2.ACL_STATE_APPLIED),
        ("d/g", PRIVATE, entry_pb2.ACL_STATE_APPLIED),
    ]
    assert await _listed(mirrored, limit=1) == [first]
    assert await _listed(mirrored, after=first.access_id) == [second]
    assert await _listed(mirrored, top="d/g") == [second]
    assert await _listed(mirrored, top="d") == [first, second]
    assert await _doubt(mirrored, first) == [first.access_id]
    assert await _doubt(mirrored, first) == []
    answer = await get_acl(mirrored, "/d/f")
    assert states(answer) == {"a": "OWED", "b": "APPLIED", "c": "APPLIED"}
    assert answer.standings[0].note == "others opened it"
    await sound(mirrored)
    assert await work_off(mirrored) == [(ACL, "a:d/f", "PUBLIC_READ")]
    assert states(await get_acl(mirrored, "/d/f")) == dict.fromkeys("abc", "APPLIED")
    with pytest.raises(NotFound):
        await mirrored.call("ReadAccess", scrub_pb2.ReadAccessRequest(provider_id="nobody"))


async def test_a_doubt_that_comes_late_changes_nothing(mirrored: Driver) -> None:
    """What was read before another list was set, or the file was renamed, says nothing of what is there now."""
    await write(mirrored, "/f")
    await set_acl(mirrored, "/f", PUBLIC)
    await work_off(mirrored)
    (item,) = await _listed(mirrored)
    await set_acl(mirrored, "/f", PRIVATE)
    assert await _doubt(mirrored, item) == []
    await work_off(mirrored)
    assert await _doubt(mirrored, item) == []
    (item,) = await _listed(mirrored)
    await mirrored.move("/f", "/g")
    assert await _doubt(mirrored, item) == []
    await work_off(mirrored)
    assert await _doubt(mirrored, item) == []
    await sound(mirrored)

"""Cases about access control lists."""

from __future__ import annotations

from cdir.errors import NotFound, Unsupported
from cdir_adapters.acl import Access, Acl, Grant, Right
from cdir_adapters.testing.trial import MIB, Trial, case, expect, pattern, same, stream


@case(lambda capability: capability.acl, "acl")
async def acl_is_set_and_told(trial: Trial) -> None:
    """Every word but the last, which services may refuse: set, told, and the object as it was."""
    await trial.write("folder/object", b"content")
    for access in (Access.PUBLIC_READ, Access.PRIVATE, Access.AUTHENTICATED_READ, Access.PRIVATE):
        same(await trial.adapter.set_acl(trial.key("folder/object"), Acl(access)), Acl(access), "what was set")
        same(await trial.adapter.get_acl(trial.key("folder/object")), Acl(access), "what is in force")
    same(await trial.get("folder/object"), b"content", "the object after its ACL was set")


@case(lambda capability: capability.acl, "acl")
async def acl_of_missing(trial: Trial) -> None:
    with expect(NotFound):
        await trial.adapter.get_acl(trial.key("missing"))
    with expect(NotFound):
        await trial.adapter.set_acl(trial.key("missing"), Acl(Access.PRIVATE))
    assert await trial.is_missing("missing"), "setting an ACL made an object"


@case(lambda capability: capability.acl, "acl")
async def acl_changed_outside_is_seen(trial: Trial) -> None:
    await trial.write("object", b"content")
    await trial.adapter.set_acl(trial.key("object"), Acl(Access.PRIVATE))
    await trial.raw_open(trial.key("object"))
    same(await trial.adapter.get_acl(trial.key("object")), Acl(Access.PUBLIC_READ), "what others opened")
    await trial.adapter.set_acl(trial.key("object"), Acl(Access.PRIVATE))
    same(await trial.adapter.get_acl(trial.key("object")), Acl(Access.PRIVATE), "what was closed again")


@case(lambda capability: capability.acl and not capability.acl_grants, "acl without acl_grants")
async def acl_leaves_grants_out(trial: Trial) -> None:
    """What cannot be expressed is told by its absence, and nothing wider takes its place."""
    await trial.write("object", b"content")
    asked = Acl(Access.PRIVATE, (Grant("user:somebody", Right.READ),))
    same(await trial.adapter.set_acl(trial.key("object"), asked), Acl(Access.PRIVATE), "what was set")
    same(await trial.adapter.get_acl(trial.key("object")), Acl(Access.PRIVATE), "what is in force")


@case(lambda capability: not capability.acl, "a provider without acl")
async def acl_unsupported(trial: Trial) -> None:
    await trial.write("object", b"content")
    with expect(Unsupported):
        await trial.adapter.set_acl(trial.key("object"), Acl(Access.PRIVATE))
    with expect(Unsupported):
        await trial.adapter.get_acl(trial.key("object"))
    same(await trial.get("object"), b"content", "the object after an unsupported ACL")


@case(lambda capability: capability.write_access, "write_access")
async def write_with_access(trial: Trial) -> None:
    for size in (7, 20 * MIB):
        for access in (Access.PUBLIC_READ, Access.PRIVATE):
            data = pattern(size)
            if size < MIB:
                stored = await trial.write("object", data, access=access)
            else:
                stored = await trial.write_stream("object", stream(data, 4 * MIB), size, access=access)
            same(stored.access, access, "what the write says")
            same(await trial.adapter.get_acl(trial.key("object")), Acl(access), "what is in force")
    same(await trial.get("object"), pattern(20 * MIB), "the object")


@case(lambda capability: not capability.write_access, "a provider without write_access")
async def write_with_access_unsupported(trial: Trial) -> None:
    await trial.write("object", b"first")
    with expect(Unsupported):
        await trial.write("object", b"second", access=Access.PRIVATE)
    same(await trial.get("object"), b"first", "the object after an unsupported write")

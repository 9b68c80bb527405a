"""Access control lists: words and modes, and what is done where a provider refuses some of them."""

import dataclasses
from typing import Any

import pytest

from cdir.errors import CdirError, InvalidArgument, NotFound, PermissionDenied, ProviderUnavailable, Unsupported
from cdir.v1 import entry_pb2
from cdir_adapters.acl import Access, Acl, Grant, Right, acl_of_message, message_of_acl, outcome_of
from cdir_adapters.adapter import ObjectInfo, Source
from cdir_adapters.controlling import access_to_write, apply_acl, outcome_of_write
from cdir_adapters.layers import stack
from cdir_adapters.modes import acl_of_mode, mode_of, require_mode
from cdir_adapters.probe import probe
from cdir_adapters.providers.memory import MemoryAdapter
from cdir_adapters.testing.trial import MODIFIED

READER = Grant("email:ada@example.org", Right.READ)
APPLIED, NARROWER, UNSUPPORTED = (
    entry_pb2.ACL_STATE_APPLIED,
    entry_pb2.ACL_STATE_NARROWER,
    entry_pb2.ACL_STATE_UNSUPPORTED,
)


class Refusing(MemoryAdapter):
    """Raises ``error`` for lists that ``refuses`` says so of."""

    error: CdirError = PermissionDenied("it is not allowed")

    def refuses(self, acl: Acl) -> bool:
        return False

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        if self.refuses(acl):
            raise self.error
        return await super().set_acl(key, acl)


async def opened(kind: type[MemoryAdapter], access: Access | None = Access.PUBLIC_READ) -> MemoryAdapter:
    adapter = kind("store")
    await adapter.write("object", b"content", size=7, modified=MODIFIED, access=access)
    return adapter


def test_messages_say_the_same() -> None:
    for access in Access:
        acl = Acl(access, (Grant("group:staff", Right.FULL), READER))
        assert acl_of_message(message_of_acl(acl)) == acl
    newer = entry_pb2.Acl(access=99)  # type: ignore[arg-type] # what a newer build may say
    assert acl_of_message(newer) == Acl(Access.PRIVATE)


def test_what_is_missing_is_named() -> None:
    asked = message_of_acl(Acl(Access.PUBLIC_READ, (READER,)))
    assert outcome_of(asked, Acl(Access.PUBLIC_READ, (READER,))).state == APPLIED
    outcome = outcome_of(asked, Acl(Access.PRIVATE))
    assert (outcome.state, outcome.asked) == (NARROWER, asked)
    assert outcome.note == "it is private there: it cannot express public-read, email:ada@example.org (read)"


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (0o600, Acl(Access.PRIVATE)),
        (0o700, Acl(Access.PRIVATE)),
        (0o640, Acl(Access.AUTHENTICATED_READ)),
        (0o644, Acl(Access.PUBLIC_READ)),
        (0o604, Acl(Access.PUBLIC_READ)),
        (0o666, Acl(Access.PUBLIC_READ_WRITE)),
        (0o602, Acl(Access.PUBLIC_READ_WRITE)),
        (0o664, Acl(Access.PUBLIC_READ, (Grant("group:5", Right.WRITE),))),
    ],
)
def test_modes(mode: int, wanted: Acl) -> None:
    assert acl_of_mode(0o100000 | mode, 5) == wanted


def test_every_word_has_a_mode_that_says_it() -> None:
    for access in Access:
        assert acl_of_mode(mode_of(access), 5).access is access
        assert require_mode(0o100000 | mode_of(access), access, "disk") == Acl(access)


@pytest.mark.parametrize("mode", [None, 0o644, 0o755, 0o640])
def test_a_file_system_without_modes_is_found_out(mode: int | None) -> None:
    with pytest.raises(Unsupported, match="does not keep modes"):
        require_mode(mode, Access.PRIVATE, "card")


async def test_what_is_refused_is_narrowed_as_far_as_can_be() -> None:
    class NoGrants(Refusing):
        error = InvalidArgument("nobody is called so")

        def refuses(self, acl: Acl) -> bool:
            return bool(acl.grants)

    class NothingPublic(Refusing):
        def refuses(self, acl: Acl) -> bool:
            return acl.access is not Access.PRIVATE

    class Nothing(Refusing):
        error = Unsupported("it is turned off")

        def refuses(self, acl: Acl) -> bool:
            return True

    asked = message_of_acl(Acl(Access.AUTHENTICATED_READ, (READER,)))
    for kind, state, left, said in (
        (NoGrants, NARROWER, Access.AUTHENTICATED_READ, "nobody is called so"),
        (NothingPublic, NARROWER, Access.PRIVATE, "it is not allowed"),
        (Nothing, UNSUPPORTED, Access.PUBLIC_READ, "it is turned off"),
    ):
        adapter = await opened(kind)
        outcome = await apply_acl(adapter, "object", asked)
        assert (outcome.state, outcome.asked) == (state, asked), kind
        assert said in outcome.note
        assert (await adapter.get_acl("object")).access is left


async def test_what_passes_is_no_outcome() -> None:
    class Unreachable(Refusing):
        error = ProviderUnavailable("it is off")

        def refuses(self, acl: Acl) -> bool:
            return True

    adapter = await opened(Unreachable, None)
    asked = message_of_acl(Acl(Access.PUBLIC_READ))
    with pytest.raises(ProviderUnavailable):
        await apply_acl(adapter, "object", asked)
    with pytest.raises(NotFound):
        await apply_acl(MemoryAdapter("empty"), "object", asked)
    assert await outcome_of_write(adapter, await adapter.stat("object"), asked) is None


async def test_a_provider_without_lists_says_so() -> None:
    adapter = await opened(MemoryAdapter, None)
    adapter.capability = dataclasses.replace(adapter.capability, acl=False, acl_grants=False, write_access=False)
    asked = message_of_acl(Acl(Access.PRIVATE))
    assert access_to_write(adapter, asked) is None
    outcome = await outcome_of_write(adapter, await adapter.stat("object"), asked)
    assert outcome is not None
    assert outcome.state == UNSUPPORTED
    assert "store (memory) has no access control lists" in outcome.note


async def test_what_was_stored_with_the_object_is_not_set_again() -> None:
    class Untouchable(Refusing):
        def refuses(self, acl: Acl) -> bool:
            return True

    adapter = await opened(Untouchable, None)
    asked = message_of_acl(Acl(Access.PUBLIC_READ))
    stored = await adapter.write("object", b"", size=0, modified=MODIFIED, access=access_to_write(adapter, asked))
    outcome = await outcome_of_write(adapter, stored, asked)
    assert outcome is not None
    assert outcome.state == APPLIED
    assert await outcome_of_write(adapter, stored, None) is None


async def test_a_narrowed_layer_leaves_grants_out() -> None:
    adapter = MemoryAdapter("store")
    narrow = stack(adapter, capability=dataclasses.replace(adapter.capability, acl_grants=False))
    await narrow.write("object", b"", size=0, modified=MODIFIED)
    assert await narrow.set_acl("object", Acl(Access.PRIVATE, (READER,))) == Acl(Access.PRIVATE)


# what a probe finds


class Forgetting(MemoryAdapter):
    """Takes lists and forgets them."""

    async def get_acl(self, key: str) -> Acl:
        return Acl(Access.PRIVATE)


class Emptying(MemoryAdapter):
    """Takes the request for one that stores an object."""

    async def set_acl(self, key: str, acl: Acl) -> Acl:
        await self.write(key, b"", size=0, modified=MODIFIED)
        return await super().set_acl(key, acl)


class Failing(MemoryAdapter):
    async def get_acl(self, key: str) -> Acl:
        raise ProviderUnavailable("the service failed")


class ThatBlocks(Refusing):
    def refuses(self, acl: Acl) -> bool:
        return acl.access is not Access.PRIVATE

    async def write(self, key: str, source: Source, *, access: Access | None = None, **options: Any) -> ObjectInfo:
        return await super().write(key, source, **options)


class Late(MemoryAdapter):
    """Forgets what a write is to be stored with."""

    async def write(self, key: str, source: Source, *, access: Access | None = None, **options: Any) -> ObjectInfo:
        stored = await super().write(key, source, **options)
        return dataclasses.replace(stored, access=access)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (MemoryAdapter, (True, True, True)),
        (Forgetting, (False, False, False)),
        (Emptying, (False, False, False)),
        (Failing, (False, False, False)),
        (ThatBlocks, (True, True, True)),
        (Late, (True, True, False)),
    ],
)
async def test_what_a_probe_finds(kind: type[MemoryAdapter], wanted: tuple[bool, bool, bool]) -> None:
    found = await probe(kind("store"))
    assert (found.acl, found.acl_grants, found.write_access) == wanted

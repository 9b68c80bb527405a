"""The suite itself: adapters that are wrong in one way fail the case about it, and nothing is left behind."""

import dataclasses
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from cdir.errors import AlreadyExists, IntegrityError, NotFound, ProviderUnavailable
from cdir_adapters.adapter import FULL, ByteRange, FetchedObject, ObjectInfo, Page, Source, WriteMode
from cdir_adapters.providers.memory import MemoryAdapter
from cdir_adapters.shapes import pages_of
from cdir_adapters.testing.conformance import Outcome, run_conformance
from cdir_adapters.testing.faults import FaultyAdapter


class KeepsShortWrites(MemoryAdapter):
    """Takes the end of a stream for its commit."""

    async def write(self, key: str, source: Source, *, size: int | None, **options: Any) -> ObjectInfo:
        try:
            return await super().write(key, source, size=size, **options)
        except IntegrityError:
            await super().write(key, b"part", size=4, **options)
            raise


class RacesCreators(MemoryAdapter):
    async def write(
        self, key: str, source: Source, *, mode: WriteMode = WriteMode.OVERWRITE, **options: Any
    ) -> ObjectInfo:
        return await super().write(key, source, **options)


class MissesTheEnd(MemoryAdapter):
    async def fetch(self, key: str, *, range: ByteRange = FULL, **options: Any) -> FetchedObject:
        found = await super().fetch(key, range=range, **options)
        return FetchedObject(found.info, found.data[:-1] if range.offset else found.data)


class ListsOnePage(MemoryAdapter):
    async def list(self, prefix: str, **options: Any) -> AsyncIterator[Page]:
        async for page in super().list(prefix, **options):
            yield Page(page.objects[:50])
            return


class ListsNeighbours(MemoryAdapter):
    async def list(
        self, prefix: str, *, recursive: bool = False, start_after: str | None = None
    ) -> AsyncIterator[Page]:
        found = [info for key, info in self.everything() if key.startswith(prefix)]
        for page in pages_of(found):
            yield page

    def everything(self) -> Iterable[tuple[str, ObjectInfo]]:
        return sorted((key, stored.info) for key, stored in self._objects.items())


class FailsOnMissingDelete(MemoryAdapter):
    async def delete(self, key: str, **options: Any) -> None:
        await self.stat(key)
        await super().delete(key)


class LosesMetadataOnCopy(MemoryAdapter):
    async def copy(self, source: str, target: str) -> ObjectInfo:
        found = await self.fetch(source)
        assert found.info.modified is not None
        return await self.write(target, found.data, size=None, modified=found.info.modified)


class ClaimsLess(MemoryAdapter):
    """Does what its record says it cannot."""

    capability = dataclasses.replace(MemoryAdapter.capability, write_if_absent=False)

    async def write(
        self, key: str, source: Source, *, mode: WriteMode = WriteMode.OVERWRITE, **options: Any
    ) -> ObjectInfo:
        if mode is WriteMode.CREATE and key in self._objects:
            raise AlreadyExists(key)
        return await super().write(key, source, **options)


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        (KeepsShortWrites, "write_bad_size_leaves_old"),
        (RacesCreators, "write_create"),
        (RacesCreators, "write_create_race"),
        (MissesTheEnd, "read_ranges"),
        (ListsOnePage, "list_many"),
        (ListsNeighbours, "list_recursively"),
        (ListsNeighbours, "list_one_level"),
        (FailsOnMissingDelete, "delete_missing"),
        (LosesMetadataOnCopy, "copy_object"),
        (ClaimsLess, "write_create_unsupported"),
    ],
)
async def test_what_is_wrong_is_found(kind: type[MemoryAdapter], case: str) -> None:
    results = {result.name: result async for result in run_conformance(kind("wrong"))}
    assert results[case].outcome is Outcome.FAILED
    assert results[case].message
    assert "\n" not in results[case].message
    assert results["check_passes"].outcome is Outcome.PASSED


async def test_a_right_adapter_passes_and_is_left_clean() -> None:
    adapter = MemoryAdapter("right")
    results = [result async for result in run_conformance(adapter, "scratch")]
    assert {result.outcome for result in results} == {Outcome.PASSED, Outcome.SKIPPED}
    assert all(result.message.startswith("needs ") for result in results if result.outcome is Outcome.SKIPPED)
    with pytest.raises(NotFound):
        await adapter.stat("scratch")
    assert [page async for page in adapter.list("")] == []


async def test_a_run_left_early_tidies_up() -> None:
    adapter = FaultyAdapter(MemoryAdapter("right"))
    adapter.fail("copy", ProviderUnavailable("gone"), times=99)
    results = run_conformance(adapter)
    async for result in results:
        if result.name == "copy_object":
            assert result.message == "ProviderUnavailable: gone"
            break
    await results.aclose()
    assert [page async for page in adapter.list("")] == []

import dataclasses
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cdir.errors import IntegrityError, NotFound, PermissionDenied, ProviderUnavailable, Unsupported
from cdir_adapters.adapter import Adapter, FetchedObject, ObjectInfo, Page, Source, Usage, WriteMode
from cdir_adapters.layers import stack
from cdir_adapters.probe import probe
from cdir_adapters.providers.local import LocalAdapter
from cdir_adapters.providers.memory import MemoryAdapter
from cdir_adapters.testing.faults import FaultyAdapter

DECLARED = MemoryAdapter.capability


async def left(adapter: Adapter) -> list[str]:
    return [found.key async for page in adapter.list("", recursive=True) for found in page.objects]


class Careless(MemoryAdapter):
    """Accepts conditions and ignores them, as several servers do."""

    async def write(
        self,
        key: str,
        source: Source,
        *,
        mode: WriteMode = WriteMode.OVERWRITE,
        if_match: str | None = None,
        **options: Any,
    ) -> ObjectInfo:
        return await super().write(key, source, **options)

    async def fetch(self, key: str, *, if_match: str | None = None, **options: Any) -> FetchedObject:
        return await super().fetch(key, **options)


def _next_day(info: ObjectInfo) -> datetime:
    assert info.modified is not None
    return info.modified + timedelta(days=1)


class Forgetful(MemoryAdapter):
    """Keeps neither metadata nor fractions of a second, and lists its own times."""

    async def write(
        self, key: str, source: Source, *, modified: datetime, metadata: Mapping[str, str] | None = None, **options: Any
    ) -> ObjectInfo:
        return await super().write(key, source, modified=modified.replace(microsecond=0), **options)

    async def list(self, prefix: str, **options: Any) -> AsyncIterator[Page]:
        async for page in super().list(prefix, **options):
            yield Page(tuple(dataclasses.replace(info, modified=_next_day(info)) for info in page.objects))


class Poor(MemoryAdapter):
    """Copies nothing, tells nothing, and folds the case of names."""

    async def write(self, key: str, source: Source, **options: Any) -> ObjectInfo:
        return await super().write(key.lower(), source, **options)

    async def stat(self, key: str) -> ObjectInfo:
        return await super().stat(key.lower())

    async def delete(self, key: str, **options: Any) -> None:
        await super().delete(key.lower(), **options)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        raise NotFound("an odd answer")

    async def move(self, source: str, target: str) -> ObjectInfo:
        return await super().copy(source, target)

    async def usage(self) -> Usage:
        raise Unsupported("no")


async def test_what_holds_is_kept() -> None:
    for adapter in (MemoryAdapter("memory"), stack(MemoryAdapter("memory"))):
        assert await probe(adapter) == DECLARED
        assert await left(adapter) == []


async def test_a_disk_is_probed_before_its_sentinel_exists(tmp_path: Path) -> None:
    async with LocalAdapter("disk", {"root": str(tmp_path)}) as adapter:
        found = await probe(adapter)
        assert found.narrowed_by(LocalAdapter.capability) == found
        assert found.write_if_absent
        assert list(tmp_path.iterdir()) in ([], [tmp_path / ".cdir"])
        assert not list(tmp_path.glob(".cdir/*"))


async def test_conditions_that_are_ignored_are_found() -> None:
    adapter = Careless("careless")
    found = await probe(adapter)
    assert found == dataclasses.replace(DECLARED, write_if_absent=False, write_if_match=False, read_if_match=False)
    assert await left(adapter) == []


async def test_what_is_not_kept_is_found() -> None:
    found = await probe(Forgetful("forgetful"))
    assert found == dataclasses.replace(
        DECLARED, metadata=False, modified_listed=False, modified_precision=timedelta(seconds=1)
    )


async def test_what_is_missing_is_found() -> None:
    adapter = Poor("poor")
    found = await probe(adapter)
    assert (found.copy, found.move, found.usage, found.case_sensitive) == (False, False, False, False)
    assert found.write_if_absent
    assert await left(adapter) == []


@pytest.mark.parametrize("verb", ["write", "fetch", "stat", "list", "copy", "move", "usage"])
@pytest.mark.parametrize("error", [ProviderUnavailable("gone"), PermissionDenied("no")])
async def test_what_stands_in_the_way_is_raised(verb: str, error: Exception) -> None:
    adapter = FaultyAdapter(MemoryAdapter("memory"))
    adapter.fail(verb, error, at=2 if verb == "stat" else 1, times=99)
    with pytest.raises(type(error)) as raised:
        await probe(adapter)
    assert raised.value is error
    assert await left(adapter.inner) == []


async def test_a_provider_that_gives_back_other_bytes_is_refused() -> None:
    adapter = FaultyAdapter(MemoryAdapter("memory"))
    adapter.corrupt("fetch")
    with pytest.raises(IntegrityError):
        await probe(adapter)
    assert await left(adapter.inner) == []


async def test_it_takes_few_calls() -> None:
    adapter = FaultyAdapter(MemoryAdapter("memory"))
    await probe(adapter)
    del adapter.calls["delete"]
    assert adapter.calls.total() <= 30

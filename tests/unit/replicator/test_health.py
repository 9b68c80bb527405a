"""Checks of providers and what the catalog is told."""

from __future__ import annotations

import json
from typing import Any

from cdir.v1 import catalog_service_pb2, provider_pb2

UP = provider_pb2.PROVIDER_STATE_UP
DOWN = provider_pb2.PROVIDER_STATE_DOWN
UNKNOWN = provider_pb2.PROVIDER_STATE_UNKNOWN
PAUSED = provider_pb2.PROVIDER_STATE_PAUSED


async def states(bench: Any) -> dict[str, int]:
    return {name: (await bench.state_of(name)).state for name in "abc"}


async def test_a_new_provider_is_up_after_its_first_check(bench: Any) -> None:
    await bench.add_provider("d", "memory")
    assert (await bench.state_of("d")).state == UNKNOWN
    assert await bench.replicator.health.once() == 1
    assert (await bench.state_of("d")).state == UP
    # the others were not due again
    assert await bench.replicator.health.once() == 0
    assert await states(bench) == {"a": UP, "b": UP, "c": UP}


async def test_a_provider_that_went_away_is_noticed_and_its_return_too(bench: Any) -> None:
    health = bench.replicator.health
    hidden = bench.folder / "hidden"
    bench.root("b").rename(hidden)
    assert await health.once() == 0
    health.suspect(bench.providers["b"].provider_id)
    assert await health.once() == 1
    assert await states(bench) == {"a": UP, "b": DOWN, "c": UP}
    found = await bench.state_of("b")
    assert str(bench.root("b")) in found.state_reason
    assert "\n" not in found.state_reason
    # one that is known to be down has its turn, however often it is suspected
    health.suspect(bench.providers["b"].provider_id)
    assert await health.once() == 0
    hidden.rename(bench.root("b"))

    async def back() -> bool:
        return bool((await bench.state_of("b")).state == UP)

    await bench.until(back, health.once)
    assert (await bench.state_of("b")).state_reason == ""


async def test_a_provider_with_another_mark_is_unknown(bench: Any) -> None:
    mark = bench.root("c") / ".cdir/provider"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"home_id": "f" * 32}))
    bench.replicator.health.suspect(bench.providers["c"].provider_id)
    await bench.replicator.health.once()
    found = await bench.state_of("c")
    assert found.state == UNKNOWN
    assert "another cdir home" in found.state_reason


async def test_a_paused_provider_is_left_alone(bench: Any) -> None:
    stored = await bench.catalog.ReadProviders(catalog_service_pb2.ReadProvidersRequest(name="a"))
    record = stored.providers[0]
    await bench.catalog.ChangeProvider(
        catalog_service_pb2.ChangeProviderRequest(
            provider=record, expected_revision=record.provider.revision, keep_secrets=True, paused=True
        )
    )
    bench.root("a").rename(bench.folder / "hidden")
    bench.replicator.health.suspect(bench.providers["a"].provider_id)
    await bench.replicator.health.once()
    assert (await bench.state_of("a")).state == PAUSED


async def test_a_second_replicator_agrees(bench: Any) -> None:
    other = bench.another_replicator()
    assert await other.health.once() == 3
    assert await states(bench) == {"a": UP, "b": UP, "c": UP}

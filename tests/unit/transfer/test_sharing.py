"""Large contents read from several providers at once, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from cdir.errors import CdirError, NotFound, ProviderUnavailable
from cdir.v1.adapter_service_pb2 import ReadObjectResponse
from cdir_transfer.digest import BLOCK_SIZE
from unit.transfer.simulated import MBIT, Link, World, large_content, run

WINDOW = 4
PLACES = 6
"""Requests at a provider at once, where several share the work."""


def distant() -> dict[str, Link]:
    """Links of 100, 50 and 40 Mbit/s, none of which is full with less than two connections."""
    return {
        "a": Link(0.03, 0.2, 100 * MBIT, 40 * MBIT),
        "b": Link(0.08, 0.2, 50 * MBIT, 25 * MBIT),
        "c": Link(0.15, 0.2, 40 * MBIT, 15 * MBIT),
    }


def rate(links: dict[str, Link]) -> float:
    return sum(link.rate for link in links.values())


class Reading:
    """Reads a content of so many blocks to its end, after one that showed what each provider delivers."""

    def __init__(self, links: dict[str, Link], blocks: int, pause: float = 0.0, **settings: int) -> None:
        self.links = links
        self.count = blocks
        self.pause = pause
        self.settings = settings
        self.began = self.seconds = 0.0
        self.most_ahead = 0

    def run(self, at_half: Callable[[Reading], None] = lambda _: None) -> Reading:
        run(lambda: self._read(at_half))
        return self

    async def _read(self, at_half: Callable[[Reading], None]) -> None:
        self.world = world = World(self.links, **self.settings)
        self.blocks, version = large_content(self.count)
        world.adapters.contents["first"], first = large_content(12)
        world.adapters.contents["file"] = self.blocks
        async with aclosing(world.open(first, "first").blocks()) as blocks:
            async for _ in blocks:
                pass
        await asyncio.sleep(self.pause)
        for link in self.links.values():
            link.delivered = link.requests = link.most_flows = 0
        spares = world.reader._spares
        full = spares.left
        self.began = world.now()
        async with aclosing(world.open(version, "file").blocks()) as blocks:
            read = 0
            async for block in blocks:
                assert block == self.blocks[read], "in order"
                read += 1
                self.most_ahead = max(self.most_ahead, full - spares.left)
                if read == self.count // 2:
                    at_half(self)
        assert read == self.count
        assert spares.left == full
        self.seconds = world.now() - self.began

    def delivered(self) -> int:
        return sum(link.delivered for link in self.links.values())


def test_what_several_providers_deliver_adds_up() -> None:
    reading = Reading(distant(), 32).run()
    assert reading.seconds <= reading.count * BLOCK_SIZE / rate(reading.links) / 0.9
    shares = [link.delivered / link.rate for link in reading.links.values()]
    assert max(shares) / min(shares) < 1.35, "each in proportion to what it can deliver"
    assert max(link.most_flows for link in reading.links.values()) <= PLACES
    assert reading.delivered() <= 1.01 * reading.count * BLOCK_SIZE
    assert reading.most_ahead <= 24


def test_what_several_providers_deliver_adds_up_for_few_blocks_as_well() -> None:
    reading = Reading(distant(), 4).run()
    assert reading.seconds <= reading.count * BLOCK_SIZE / rate(reading.links) / 0.8
    assert reading.delivered() <= 1.01 * reading.count * BLOCK_SIZE


def test_what_was_far_is_still_far_after_a_long_pause() -> None:
    reading = Reading(distant(), 8, pause=600).run()
    assert reading.seconds <= reading.count * BLOCK_SIZE / rate(reading.links) / 0.7


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_provider_that_becomes_ten_times_slower_costs_little(name: str) -> None:
    floor = 0.0

    def slow_down(reading: Reading) -> None:
        nonlocal floor
        link = reading.links[name]
        link.rate /= 10
        link.connection_rate /= 10
        left = reading.count * BLOCK_SIZE - reading.delivered()
        floor = reading.world.now() - reading.began + left / rate(reading.links)

    reading = Reading(distant(), 64).run(slow_down)
    assert reading.seconds <= 1.05 * floor
    assert reading.delivered() <= 1.01 * reading.count * BLOCK_SIZE
    assert max(link.most_flows for link in reading.links.values()) <= PLACES


def test_a_provider_that_was_slow_is_soon_used_again() -> None:
    links = distant()

    async def reads() -> None:
        world = World(links)
        blocks, version = large_content(4)
        world.adapters.contents["file"] = blocks

        async def share_of_the_best() -> float:
            before = {name: link.delivered for name, link in links.items()}
            async with aclosing(world.open(version, "file").blocks()) as reading:
                async for _ in reading:
                    pass
            delivered = {name: link.delivered - before[name] for name, link in links.items()}
            return delivered["a"] / sum(delivered.values())

        await share_of_the_best()
        usual = await share_of_the_best()
        for factor in (1 / 100, 100):
            links["a"].rate *= factor
            links["a"].connection_rate *= factor
            if factor < 1:
                assert await share_of_the_best() < usual / 4
                assert await share_of_the_best() < usual / 4
        await asyncio.sleep(1)
        assert await share_of_the_best() > 0.8 * usual

    run(reads)


def test_a_provider_that_falls_silent_holds_up_nothing_for_long() -> None:
    def silence(reading: Reading) -> None:
        reading.links["a"].silent = True

    reading = Reading(distant(), 32).run(silence)
    floor = reading.count * BLOCK_SIZE / 2 / rate(reading.links) + reading.count * BLOCK_SIZE / 2 / (90 * MBIT)
    assert reading.seconds <= 1.1 * floor


def test_beside_a_near_provider_a_distant_one_is_not_asked() -> None:
    near = {"near": Link(0.001, 0, 8000 * MBIT, 4000 * MBIT), **distant()}
    reading = Reading(near, 24).run()
    assert reading.links["near"].requests == 6, "four blocks to a request"
    assert reading.delivered() == 24 * BLOCK_SIZE
    assert reading.links["near"].most_flows <= WINDOW
    last = {**distant(), "near": Link(0.001, 0, 8000 * MBIT, 4000 * MBIT)}
    assert Reading(last, 24).run().links["near"].delivered >= 23 * BLOCK_SIZE, "whatever the preference"


@pytest.mark.parametrize("fault", ["breaks", "damaged", "cut short", "another size", "silent"])
def test_what_is_wrong_with_a_run_costs_no_block(fault: str) -> None:
    async def spoilt(answer: ReadObjectResponse, _: str) -> ReadObjectResponse:
        match fault:
            case "breaks":
                raise ProviderUnavailable("the connection broke")
            case "damaged":
                answer.data = b"X" + answer.data[1:]
            case "cut short":
                answer.data = answer.data[:100]
            case "another size":
                answer.size += 1
            case "silent":
                await asyncio.Event().wait()
        return answer

    def spoil(reading: Reading) -> None:
        reading.world.adapters.spoil = spoilt

    near = {"near": Link(0.001, 0, 8000 * MBIT, 4000 * MBIT), **distant()}
    reading = Reading(near, 24).run(spoil)
    assert reading.links["near"].requests > 6, "what was missing is asked for again"
    assert reading.seconds < 5


def test_two_equal_near_providers_cost_no_more_than_one() -> None:
    links = {name: Link(0.001, 0, 8000 * MBIT, 4000 * MBIT) for name in "ab"}
    Reading(links, 24).run()
    assert [link.requests for link in links.values()] == [6, 0]


def test_memory_is_bounded_by_the_spare_blocks() -> None:
    reading = Reading(distant(), 24, spare_blocks=3).run()
    assert reading.most_ahead <= 3


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_what_is_wrong_with_a_part_is_found_out_by_reading_the_block(fault: str) -> None:
    async def spoilt(answer: ReadObjectResponse, provider_id: str) -> ReadObjectResponse:
        if provider_id == "b":
            if fault == "missing":
                raise NotFound("gone")
            answer.data = b"X" + answer.data[1:]
        return answer

    def spoil(reading: Reading) -> None:
        reading.world.adapters.spoil = spoilt

    reading = Reading(distant(), 24).run(spoil)
    assert isinstance(reading, Reading), "every block was compared"
    assert all(isinstance(error, CdirError) for _, error in reading.world.notes.failures)

"""Serving: addresses, sockets, health, tokens, and the end."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cdir import status
from cdir.errors import ConfigInvalid, ProviderUnavailable, Unauthenticated
from cdir_runtime.channel import open_channel
from cdir_runtime.server import is_loopback, serve

pytestmark = pytest.mark.timeout(90)

SERVICE = "cdir.test.Gate"


class Gate:
    """A service whose one call waits until it is let through."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def passing(self, request: BytesValue, _context: Any) -> BytesValue:
        if request.value == b"wait":
            self.entered.set()
            try:
                await self.opened.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return request

    def register(self, server: grpc.aio.Server) -> None:
        handler = grpc.unary_unary_rpc_method_handler(
            self.passing,
            request_deserializer=BytesValue.FromString,
            response_serializer=BytesValue.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Pass": handler}),))


def passing(channel: grpc.aio.Channel, value: bytes = b"", **options: Any) -> Any:
    call = channel.unary_unary(
        f"/{SERVICE}/Pass",
        request_serializer=BytesValue.SerializeToString,
        response_deserializer=BytesValue.FromString,
    )
    return call(BytesValue(value=value), **options)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="cdir-"))
    yield path
    shutil.rmtree(path)


async def test_a_free_port() -> None:
    async with serve("127.0.0.1:0", [Gate().register]) as address:
        host, _, port = address.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
        async with open_channel(address) as channel:
            assert (await passing(channel, b"x")).value == b"x"


async def test_a_port_in_use() -> None:
    async with serve("127.0.0.1:0", [Gate().register]) as address:
        with pytest.raises(ConfigInvalid, match=f"cannot listen on {address}: the port is in use"):
            async with serve(address, [Gate().register]):
                pass


@pytest.mark.parametrize("address", ["", "localhost", "localhost:http", "127.0.0.1:99999", "unix:"])
async def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigInvalid):
        async with serve(address, []):
            pass


def test_a_channel_to_what_is_no_address() -> None:
    for address in ("", "localhost", "unix:", "unix:/" + "x" * 120):
        with pytest.raises(ConfigInvalid):
            open_channel(address)


async def test_a_socket_is_private_and_removed_at_the_end(folder: Path) -> None:
    path = folder / "s.sock"
    async with serve(f"unix:{path}", [Gate().register]) as address:
        assert address == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with open_channel(address) as channel:
            assert (await passing(channel, b"x")).value == b"x"
    assert not path.exists()


async def test_a_stale_socket_is_replaced(folder: Path) -> None:
    path = folder / "s.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert path.exists()
    async with serve(f"unix:{path}", [Gate().register]) as address, open_channel(address) as channel:
        assert (await passing(channel, b"x")).value == b"x"


async def test_a_socket_that_somebody_answers_on_is_kept(folder: Path) -> None:
    path = folder / "s.sock"
    async with serve(f"unix:{path}", [Gate().register]) as address:
        with pytest.raises(ConfigInvalid, match="another process answers there"):
            async with serve(address, [Gate().register]):
                pass
        async with open_channel(address) as channel:
            assert (await passing(channel, b"x")).value == b"x"


async def test_a_file_in_the_sockets_place_is_kept(folder: Path) -> None:
    path = folder / "s.sock"
    path.write_text("precious")
    with pytest.raises(ConfigInvalid, match="is no socket"):
        async with serve(f"unix:{path}", []):
            pass
    assert path.read_text() == "precious"


async def test_a_socket_path_that_is_too_long(folder: Path) -> None:
    with pytest.raises(ConfigInvalid, match="bytes long and may be 100"):
        async with serve(f"unix:{folder}/{'x' * 100}", []):
            pass


async def test_a_socket_in_a_missing_folder(folder: Path) -> None:
    with pytest.raises(ConfigInvalid, match="there is no folder"):
        async with serve(f"unix:{folder}/missing/s.sock", []):
            pass


async def test_health_of_each_service_and_while_draining(folder: Path) -> None:
    gate = Gate()
    states: list[int] = []
    async with serve(f"unix:{folder}/s.sock", [gate.register], drain=60) as address:
        channel = open_channel(address)
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        states.append((await watch.read()).status)
        waiting = passing(channel, b"wait")
        await gate.entered.wait()

        async def finish() -> None:
            states.append((await watch.read()).status)
            watch.cancel()
            gate.opened.set()

        finishing = asyncio.create_task(finish())
    await finishing
    assert states == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    assert (await waiting).value == b"wait"
    await channel.close()


async def test_calls_that_outlast_the_drain_are_cancelled(folder: Path) -> None:
    gate = Gate()
    async with serve(f"unix:{folder}/s.sock", [gate.register], drain=0.2) as address:
        channel = open_channel(address)
        waiting = passing(channel, b"wait")
        await gate.entered.wait()
    await gate.cancelled.wait()
    with pytest.raises(ProviderUnavailable), status.translated():
        await waiting
    await channel.close()


async def test_a_service_that_is_not_there(folder: Path) -> None:
    async with open_channel(f"unix:{folder}/s.sock") as channel:
        with pytest.raises(ProviderUnavailable, match="cannot reach the service"), status.translated():
            await passing(channel)


async def test_a_service_that_was_restarted_is_found_again(folder: Path) -> None:
    address = f"unix:{folder}/s.sock"
    async with open_channel(address) as channel:
        async with serve(address, [Gate().register]):
            await passing(channel)
        with pytest.raises(ProviderUnavailable), status.translated():
            await passing(channel)
        async with serve(address, [Gate().register]):
            assert (await passing(channel, b"x", wait_for_ready=True, timeout=60)).value == b"x"


async def test_the_token() -> None:
    async with serve("127.0.0.1:0", [Gate().register], token="right") as address:
        for token in (None, "wrong", ""):
            async with open_channel(address, token=token) as channel:
                with pytest.raises(Unauthenticated), status.translated():
                    await passing(channel)
                health: Any = health_pb2_grpc.HealthStub(channel)
                await health.Check(health_pb2.HealthCheckRequest())
        async with open_channel(address, token="right") as channel:
            assert (await passing(channel, b"x", metadata=(("a", "b"),))).value == b"x"
            await channel.channel_ready()
            assert "right" not in repr(channel)


async def test_the_services_can_be_listed() -> None:
    async with serve("127.0.0.1:0", [Gate().register]) as address, open_channel(address) as channel:
        make_stub: Any = reflection_pb2_grpc.ServerReflectionStub
        stub = make_stub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await call.read()
        assert SERVICE in {service.name for service in answer.list_services_response.service}
        assert await call.read() is grpc.aio.EOF


def test_which_addresses_only_this_machine_can_reach() -> None:
    local = ("unix:/tmp/x", "localhost:1", "127.0.0.1:1", "127.1.2.3:1", "[::1]:1")
    assert all(is_loopback(address) for address in local)
    assert not any(is_loopback(address) for address in ("0.0.0.0:1", "10.0.0.1:1", "[::]:1", "example.com:1"))


async def test_the_umask_is_left_as_it_was(folder: Path) -> None:
    before = os.umask(0o022)
    try:
        async with serve(f"unix:{folder}/s.sock", []):
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)

"""Starts the services in order, waits until each is healthy, watches them, and stops them in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2

from cdir.errors import ConfigInvalid, ProviderUnavailable
from cdir.status import translated
from cdir.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from cdir_split.postgres import Cluster

__all__ = ["Plan", "run"]

_HEALTHY_SECONDS = 60.0
"""How long a service may take until it is healthy; far beyond what any of them needs."""

_RELEASE_SECONDS = 30.0

_DRAIN_SECONDS = 30.0
"""How long a service may go on with calls in flight after it was asked to stop."""

_MAX_SOCKET_FOLDER = 80
"""Longest folder, in bytes, that Unix sockets are made in: a whole socket path may have about 107."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start and where.

    ``folder`` keeps the key, the token and, unless ``database_url`` names another that nobody else uses, the database.
    ``listen`` is the gateway's ``host:port``; the other services listen on Unix sockets in a folder that only this
    user may enter.
    """

    folder: Path
    listen: str
    database_url: str | None = None

    @property
    def token_file(self) -> Path:
        """File with the token that clients sign in with."""
        return self.folder / "token"


async def run(plan: Plan) -> None:
    """Run the deployment until SIGINT or SIGTERM, then drain it.

    Raises :class:`ConfigInvalid` when it cannot start as planned, and :class:`ProviderUnavailable` when one of the
    processes ends by itself; the others are stopped first.
    """
    _require_free(plan.listen)
    await asyncio.to_thread(_prepare, plan)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with _socket_folder(plan.folder) as sockets:
        supervisor = _Supervisor(plan, sockets)
        tasks = [asyncio.create_task(supervisor.run()), asyncio.create_task(stop.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await supervisor.stop()


class _Supervisor:
    """The processes of one deployment."""

    def __init__(self, plan: Plan, sockets: Path) -> None:
        self._plan = plan
        self._addresses = {name: f"unix:{sockets / name}" for name in ("catalog", "adapters", "replicator")}
        self._addresses["gateway"] = plan.listen
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._cluster: Cluster | None = None

    async def run(self) -> None:
        """Start everything and watch it; returns only by an exception."""
        database_url = self._plan.database_url
        if database_url is None:
            self._cluster = Cluster(self._plan.folder / "postgres")
            self._children["postgres"] = await self._cluster.start()
            database_url = self._cluster.url
        environment = self._environment(database_url)
        for together in (("catalog", "adapters"), ("replicator", "gateway")):
            for name in together:
                await self._start(name, environment)
            for name in together:
                await self._wait_healthy(name)
            if "catalog" in together:
                await self._release_leases()
        _say_how_to_use(self._plan, {name: process.pid for name, process in self._children.items()})
        ends = [asyncio.create_task(process.wait()) for process in self._children.values()]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        self._require_alive()

    async def stop(self) -> None:
        """Drain and stop what runs, the last started first."""
        for name, process in reversed(self._children.items()):
            if process.returncode is not None:
                continue
            # An open session would keep PostgreSQL waiting after SIGTERM.
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
            try:
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    def _environment(self, database_url: str) -> Mapping[str, str]:
        return {
            **os.environ,
            "CDIR_HOME": str(self._plan.folder),
            "CDIR_CATALOG_ADDRESS": self._addresses["catalog"],
            "CDIR_ADAPTERS_ADDRESS": self._addresses["adapters"],
            "CDIR_REPLICATOR_ADDRESS": self._addresses["replicator"],
            "CDIR_DATABASE_URL": database_url,
            "CDIR_KEY_FILE": str(self._plan.folder / "key"),
            "CDIR_PROVIDER_CARD": str(self._plan.folder / "providers.json"),
            "CDIR_TOKEN_FILE": str(self._plan.token_file),
        }

    async def _start(self, name: str, environment: Mapping[str, str]) -> None:
        self._children[name] = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"cdir_{name}",
            stdin=asyncio.subprocess.DEVNULL,
            env={**environment, "CDIR_LISTEN": self._addresses[name]},
            # A session of its own: Ctrl-C reaches the launcher alone, which stops everything in order.
            start_new_session=True,
        )

    async def _release_leases(self) -> None:
        """Let lapse what the processes of an earlier run held: they are gone, since we are alone with this catalog."""
        async with grpc.aio.insecure_channel(self._addresses["catalog"]) as channel:
            with translated():
                await catalog_service_pb2_grpc.CatalogServiceStub(channel).ReleaseOwner(
                    catalog_service_pb2.ReleaseOwnerRequest(), timeout=_RELEASE_SECONDS
                )

    async def _wait_healthy(self, name: str) -> None:
        async with grpc.aio.insecure_channel(self._addresses[name]) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                async with asyncio.timeout(_HEALTHY_SECONDS):
                    while True:
                        self._require_alive()
                        with contextlib.suppress(grpc.aio.AioRpcError):
                            answer = await check(health_pb2.HealthCheckRequest(), timeout=2)
                            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                                return
                        await asyncio.sleep(0.05)
            except TimeoutError:
                raise ProviderUnavailable(
                    f"the {name} did not become healthy within {_HEALTHY_SECONDS:g} s; its log stands above"
                ) from None

    def _require_alive(self) -> None:
        for name, process in self._children.items():
            if process.returncode is not None:
                how = (
                    f"was killed by {signal.Signals(-process.returncode).name}"
                    if process.returncode < 0
                    else f"ended with exit status {process.returncode}"
                )
                raise ProviderUnavailable(f"{name} {how}; its log stands above, and everything else was stopped")


def _say_how_to_use(plan: Plan, pids: Mapping[str, int]) -> None:
    processes = ", ".join(f"{name} {pid}" for name, pid in pids.items())
    sys.stdout.write(
        f"cdir is up: {processes}\n"
        f"  export CDIR_ADDRESS={plan.listen}\n"
        f"  export CDIR_TOKEN=$(cat {plan.token_file})\n"
        "Ctrl-C stops it.\n"
    )
    sys.stdout.flush()


def _require_free(listen: str) -> None:
    """Raise :class:`ConfigInvalid` unless the gateway can listen there."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigInvalid(f"{listen!r} is no address to listen on; write HOST:PORT, as 127.0.0.1:7070")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise ConfigInvalid(
                f"cannot listen on {listen}: {error.strerror}; stop what uses it, or choose another with --listen"
            ) from error


def _prepare(plan: Plan) -> None:
    """Make the folder, and at the first start the token of clients."""
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(plan.token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(secrets.token_urlsafe(32).encode())
    except OSError as error:
        raise ConfigInvalid(f"{plan.folder} cannot be used: {error.strerror}; choose another with --folder") from error


@contextlib.contextmanager
def _socket_folder(folder: Path) -> Iterator[Path]:
    """A folder for the services' Unix sockets: in ``folder`` unless that makes their paths too long."""
    if len(os.fsencode(folder)) <= _MAX_SOCKET_FOLDER:
        sockets = folder / "run"
        sockets.mkdir(mode=0o700, exist_ok=True)
        yield sockets
        return
    sockets = Path(tempfile.mkdtemp(prefix="cdir-"))
    try:
        yield sockets
    finally:
        shutil.rmtree(sockets, ignore_errors=True)

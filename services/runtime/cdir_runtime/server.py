"""Serving gRPC on one address: tuned, with health and reflection, and drained before it ends."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cdir.errors import ConfigInvalid
from cdir_runtime.channel import TRANSPORT_OPTIONS, socket_path
from cdir_runtime.interceptors import ErrorInterceptor, TokenInterceptor

__all__ = ["Registrar", "is_loopback", "serve"]

logger = logging.getLogger(__name__)

Registrar = Callable[[grpc.aio.Server], None]
"""Adds one servicer to a server, as ``partial(add_CatalogServiceServicer_to_server, servicer)`` does."""

_SERVER_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    *TRANSPORT_OPTIONS,
    # Two processes on one port would share its connections between them; it is an error instead.
    ("grpc.so_reuseport", 0),
    # Take the keepalive pings that our channels send, instead of ending their connections for it.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@asynccontextmanager
async def serve(
    address: str, registrars: Iterable[Registrar], *, token: str | None = None, drain: float = 10.0
) -> AsyncIterator[str]:
    """Serve on ``address`` and yield the address that was bound.

    ``address`` is ``unix:/path`` or ``host:port``; port 0 picks a free one. With a ``token`` every call but health
    checks must carry it. At the end health turns to NOT_SERVING, no new calls are taken, running ones have ``drain``
    seconds to finish and are then cancelled.

    A Unix socket is open to this user only (mode 0600). A socket file that nobody answers on is replaced. Raises
    :class:`ConfigInvalid` when the address cannot be bound, saying why.
    """
    interceptors: list[grpc.aio.ServerInterceptor] = [ErrorInterceptor()]
    if token is not None:
        interceptors.append(TokenInterceptor(token))
    server = grpc.aio.server(interceptors=interceptors, options=_SERVER_OPTIONS)
    names = _register(server, registrars)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    for name in ("", *names):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    started = False
    path = socket_path(address)
    try:
        bound = _bind_port(server, address) if path is None else _bind_socket(server, path)
        await server.start()
        started = True
        logger.info("serving %s on %s", ", ".join(names), bound)
        yield bound
    finally:
        if started:
            logger.debug("draining %s", address)
            await health_servicer.enter_graceful_shutdown()
        await asyncio.shield(server.stop(drain if started else None))
        if path is not None and started:
            with suppress(FileNotFoundError):
                await asyncio.to_thread(os.unlink, path)


def is_loopback(address: str) -> bool:
    """Say whether only this machine can reach ``address``."""
    if socket_path(address) is not None:
        return True
    host = address.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


class _Recorder:
    """Passes registrations on to a server and notes the names of the services."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        handlers = tuple(handlers)
        self.names += [handler.service_name() for handler in handlers if isinstance(handler, grpc.ServiceRpcHandler)]
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self._server.add_registered_method_handlers(service_name, method_handlers)


def _register(server: grpc.aio.Server, registrars: Iterable[Registrar]) -> list[str]:
    recorder = _Recorder(server)
    for register in registrars:
        register(cast("grpc.aio.Server", recorder))
    return recorder.names


def _bind_port(server: grpc.aio.Server, address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigInvalid(f"{address!r} is no address: use host:port or unix:/path", option="listen")
    _check_port(host.strip("[]"), int(port), address)
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigInvalid(f"cannot listen on {address}: {error}", option="listen") from error
    if bound == 0:
        raise ConfigInvalid(f"cannot listen on {address}", option="listen")
    return f"{host}:{bound}"


def _check_port(host: str, port: int, address: str) -> None:
    """Bind the port for a moment: the kernel's reason is clear, and gRPC's own attempt would also write to stderr."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        why = "the port is in use by another process" if error.errno == errno.EADDRINUSE else error.strerror
        raise ConfigInvalid(f"cannot listen on {address}: {why}", option="listen") from error


def _bind_socket(server: grpc.aio.Server, path: str) -> str:
    _clear_stale_socket(path)
    # gRPC makes the socket file; nobody else may open it in the moment before its mode is set
    previous = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
        os.chmod(path, 0o600)
    except (RuntimeError, OSError) as error:
        raise ConfigInvalid(f"cannot listen on the socket {path}: {error}", option="listen") from error
    finally:
        os.umask(previous)
    return f"unix:{path}"


def _clear_stale_socket(path: str) -> None:
    """Remove a socket file that a killed process left behind; refuse one that somebody answers on."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ConfigInvalid(f"cannot listen on {path}: there is no folder {folder}", option="listen")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigInvalid(f"cannot listen on {path}: a file of that name exists and is no socket", option="listen")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise ConfigInvalid(f"cannot listen on {path}: {error.strerror or error}", option="listen") from error
    raise ConfigInvalid(f"cannot listen on {path}: another process answers there", option="listen")

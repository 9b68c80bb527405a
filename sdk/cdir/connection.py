"""The channel to a gateway: where it is, who asks, how long a call may take, and what a failed call means."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
import grpc.aio

from cdir.conversion import server_from
from cdir.errors import DeadlineExceeded, ProviderUnavailable
from cdir.model import Server
from cdir.status import translated
from cdir.v1 import directory_service_pb2
from cdir.v1.directory_service_pb2_grpc import DirectoryServiceStub

if TYPE_CHECKING:
    from cdir.v1.directory_service_pb2_grpc import DirectoryServiceAsyncStub
    from cdir.v1.endpoint_service_pb2_grpc import EndpointServiceAsyncStub
    from cdir.v1.provider_service_pb2_grpc import ProviderServiceAsyncStub
    from cdir.v1.recovery_service_pb2_grpc import RecoveryServiceAsyncStub
    from cdir.v1.vault_service_pb2_grpc import VaultServiceAsyncStub

__all__ = ["CALL_SECONDS", "CONNECT_SECONDS", "Connection"]

CALL_SECONDS: Final = 60.0
"""Deadline of a call that the catalog answers: far more than it needs, so that it only ever ends what hangs."""

CONNECT_SECONDS: Final = 10.0
"""Deadline of the first call, which shows whether anybody answers at all."""

_MAX_MESSAGE: Final = 32 * 1024 * 1024
"""A listing page of 10 000 entries with long paths must fit."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Connection:
    """One channel to one gateway. Made by :func:`cdir.connect`; closed with :meth:`close`."""

    def __init__(self, address: str, token: str | None = None) -> None:
        """Prepare a channel; nothing is sent yet.

        ``address`` is ``host:port`` or ``unix:/path``, or ``https://host[:port]`` for a gateway behind TLS.
        """
        self.address = address
        self.metadata: tuple[tuple[str, str], ...] = _author()
        if token:
            self.metadata = (*self.metadata, ("authorization", f"Bearer {token}"))
        options = [("grpc.max_receive_message_length", _MAX_MESSAGE), ("grpc.max_send_message_length", _MAX_MESSAGE)]
        if address.startswith("https://"):
            host = address.removeprefix("https://").rstrip("/")
            target = host if ":" in host else f"{host}:443"
            self._channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
        else:
            self._channel = grpc.aio.insecure_channel(address.removeprefix("http://"), options=options)
        self.directory: DirectoryServiceAsyncStub = DirectoryServiceStub(self._channel)
        self._providers: ProviderServiceAsyncStub | None = None
        self._server: Server | None = None

    @property
    def providers(self) -> ProviderServiceAsyncStub:
        """Stub of the ProviderService; imported when first used, most commands never do."""
        if self._providers is None:
            from cdir.v1.provider_service_pb2_grpc import ProviderServiceStub

            self._providers = ProviderServiceStub(self._channel)
        return self._providers

    @property
    def endpoints(self) -> EndpointServiceAsyncStub:
        """Stub of the EndpointService; imported when it is used."""
        from cdir.v1.endpoint_service_pb2_grpc import EndpointServiceStub

        return EndpointServiceStub(self._channel)

    @property
    def recovery(self) -> RecoveryServiceAsyncStub:
        """Stub of the RecoveryService; imported when it is used."""
        from cdir.v1.recovery_service_pb2_grpc import RecoveryServiceStub

        return RecoveryServiceStub(self._channel)

    @property
    def vault(self) -> VaultServiceAsyncStub:
        """Stub of the VaultService; imported when it is used."""
        from cdir.v1.vault_service_pb2_grpc import VaultServiceStub

        return VaultServiceStub(self._channel)

    @property
    def server(self) -> Server:
        """Who answers; known once the connection is open."""
        if self._server is None:
            raise ProviderUnavailable("not connected; use `async with cdir.connect() as client`")
        return self._server

    async def open(self) -> None:
        """Ask who is there. Raises :class:`ProviderUnavailable` when nobody answers."""
        try:
            answer = await self.call(
                self.directory.GetServer, directory_service_pb2.GetServerRequest(), seconds=CONNECT_SECONDS
            )
        except (ProviderUnavailable, DeadlineExceeded) as error:
            raise ProviderUnavailable(
                f"no cdir answers at {self.address}; start it with `cdir up`, or set CDIR_ADDRESS to where it runs",
                address=self.address,
            ) from error
        self._server = server_from(answer)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        *,
        seconds: float = CALL_SECONDS,
    ) -> _Response:
        """Make one unary call with its deadline; a failure is raised as a :class:`~cdir.errors.CdirError`."""
        with translated():
            return await method(request, timeout=seconds, metadata=self.metadata)

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        await self._channel.close(None)


def _author() -> tuple[tuple[str, str], ...]:
    """Say whose changes these are: the user of this process, where its name fits into a header."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return ()
    return (("cdir-user", user),) if user.isascii() and user.isprintable() else ()

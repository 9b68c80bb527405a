"""Objects at their providers, and the vault, for code without asyncio; see :mod:`cdir.blocking`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cdir.blocking_loop import Loop, pieces_of
from cdir.client import Client

if TYPE_CHECKING:
    from cdir.endpoints import EndpointObject, PlacedFile, RemovedObjects
    from cdir.vault import Forgotten, Rotation, VaultProtection, VaultStatus

__all__ = ["BlockingEndpoints", "BlockingVault"]


class BlockingEndpoints:
    """:class:`cdir.endpoints.Endpoints` without asyncio."""

    def __init__(self, client: Client, loop: Loop) -> None:
        self._endpoints = client.endpoints
        self._loop = loop

    def stat(self, place: str) -> EndpointObject:
        return self._loop.run(self._endpoints.stat(place))

    def list(self, place: str, *, recursive: bool = False) -> Iterator[EndpointObject]:
        return self._loop.iterate(self._endpoints.list(place, recursive=recursive))

    def read(self, place: str) -> Iterator[bytes]:
        return self._loop.iterate(self._endpoints.read(place))

    def write(
        self,
        place: str,
        content: bytes | Iterable[bytes],
        *,
        size: int | None = None,
        modified_ns: int | None = None,
        replace: bool = False,
        dry_run: bool = False,
    ) -> PlacedFile:
        """Store one object, from bytes or from pieces of at most 4 MiB; the pieces are asked for in a thread."""
        if isinstance(content, bytes):
            size = len(content)
            content = [content[start : start + _PIECE] for start in range(0, size, _PIECE)]
        return self._loop.run(
            self._endpoints.write(
                place, pieces_of(content), size=size, modified_ns=modified_ns, replace=replace, dry_run=dry_run
            )
        )

    def copy(
        self,
        source: str,
        target: str,
        *,
        recursive: bool = False,
        replace: bool = False,
        parallel: int = 4,
        dry_run: bool = False,
    ) -> Iterator[PlacedFile]:
        return self._loop.iterate(
            self._endpoints.copy(
                source, target, recursive=recursive, replace=replace, parallel=parallel, dry_run=dry_run
            )
        )

    def remove(self, place: str, *, recursive: bool = False, dry_run: bool = False) -> Iterator[RemovedObjects]:
        return self._loop.iterate(self._endpoints.remove(place, recursive=recursive, dry_run=dry_run))


_PIECE = 1024 * 1024


class BlockingVault:
    """:class:`cdir.vault.Vault` without asyncio."""

    def __init__(self, client: Client, loop: Loop) -> None:
        self._vault = client.vault
        self._loop = loop

    def status(self) -> VaultStatus:
        return self._loop.run(self._vault.status())

    def unlock(self, passphrase: str | None = None) -> None:
        self._loop.run(self._vault.unlock(passphrase))

    def rotate(self) -> Rotation:
        return self._loop.run(self._vault.rotate())

    def forget(self, *, dry_run: bool = False) -> Forgotten:
        return self._loop.run(self._vault.forget(dry_run=dry_run))

    def protect(self, protection: VaultProtection, passphrase: str | None = None) -> None:
        self._loop.run(self._vault.protect(protection, passphrase))

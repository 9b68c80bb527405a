"""The provider card: a small file beside the catalog that says which providers there are and how to reach them.

Without it the loss of the catalog would be the loss of the way to the copies from which it can be rebuilt. Secrets
stand in it as the catalog has them, sealed. The card is written after every change of the providers and read only when
a catalog is new and empty.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from google.protobuf import json_format
from sqlalchemy.engine import Connection

from cdir.errors import ConfigInvalid
from cdir.v1 import catalog_service_pb2, provider_pb2
from cdir_catalog.database import Database
from cdir_catalog.schema import identity, providers, workspaces
from cdir_catalog.store.providers import AWAITS_REBUILD, create_provider, read_providers

__all__ = ["ProviderCard"]

logger = logging.getLogger(__name__)

_FORMAT = 1


class _Known(NamedTuple):
    home_id: str
    providers: list[catalog_service_pb2.StoredProvider]


class ProviderCard:
    """The card at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()

    async def introduce(self, database: Database) -> None:
        """Give an empty catalog the identity and the providers of the card, paused until it is rebuilt."""
        known = await asyncio.to_thread(self._read)
        if known is not None:
            await database.write(lambda connection: _introduce(connection, known))

    async def keep(self, database: Database) -> None:
        """Write down what the catalog knows. The catalog works on without it, so that a failure is only logged."""
        async with self._lock:
            known = await database.read(_known)
            try:
                await asyncio.to_thread(self._write, known)
            except OSError as error:
                logger.warning("%s cannot be written, so that a lost catalog is lost: %s", self._path, error)

    def _read(self) -> _Known | None:
        try:
            values = json.loads(self._path.read_bytes())
            if values["format"] != _FORMAT:
                raise ConfigInvalid(f"{self._path} was written by a newer release of cdir; upgrade cdir")
            stored = [
                json_format.ParseDict(one, catalog_service_pb2.StoredProvider(), ignore_unknown_fields=True)
                for one in values["providers"]
            ]
            return _Known(str(values["home_id"]), stored)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigInvalid(f"{self._path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, json_format.ParseError) as error:
            raise ConfigInvalid(
                f"{self._path} is damaged; delete it and add the providers again with --adopt"
            ) from error

    def _write(self, known: _Known) -> None:
        if not known.providers:
            self._path.unlink(missing_ok=True)  # nothing would be missed
            return
        values: dict[str, Any] = {
            "format": _FORMAT,
            "home_id": known.home_id,
            "providers": [json_format.MessageToDict(one) for one in known.providers],
        }
        text = json.dumps(values, indent=1, sort_keys=True).encode()
        replacement = self._path.with_name(f"{self._path.name}.new")
        descriptor = os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        replacement.replace(self._path)


def _known(connection: Connection) -> _Known:
    home_id = connection.execute(sa.select(identity.c.home_id)).scalar_one()
    stored = read_providers(connection, catalog_service_pb2.ReadProvidersRequest(with_secrets=True)).providers
    awaiting = set(
        connection.scalars(sa.select(providers.c.provider_id).where(providers.c.state_reason == AWAITS_REBUILD))
    )
    for one in stored:
        # what was observed is not known for long, and would have the card written again and again
        for name in ("state_since", "state_reason"):
            one.provider.ClearField(name)
        if one.provider.state != provider_pb2.PROVIDER_STATE_PAUSED or one.provider.provider_id in awaiting:
            one.provider.ClearField("state")
    return _Known(home_id, list(stored))


def _introduce(connection: Connection, known: _Known) -> None:
    for table in (providers, workspaces):
        if connection.scalar(sa.select(table.c.id).limit(1)) is not None:
            return
    connection.execute(identity.delete())
    connection.execute(identity.insert().values(home_id=known.home_id))
    for one in known.providers:
        create_provider(connection, catalog_service_pb2.CreateProviderRequest(provider=one), "")
        asked = one.provider.state == provider_pb2.PROVIDER_STATE_PAUSED
        connection.execute(
            providers.update()
            .where(providers.c.provider_id == one.provider.provider_id)
            .values(paused=1, state_reason="" if asked else AWAITS_REBUILD)
        )

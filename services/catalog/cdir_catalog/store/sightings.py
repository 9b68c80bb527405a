"""What was seen at the providers, told before a rebuild."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cdir.errors import NotFound
from cdir.paths import RESERVED_ROOT_NAME
from cdir.v1 import catalog_recovery_pb2 as pb
from cdir_catalog.keys import ASIDE_PREFIX
from cdir_catalog.schema import providers, sightings
from cdir_catalog.wire import from_timestamp

__all__ = ["record_sightings"]


def record_sightings(
    connection: Connection, request: pb.RecordSightingsRequest, _author: str
) -> pb.RecordSightingsResponse:
    """CatalogService.RecordSightings."""
    known = connection.scalar(sa.select(providers.c.id).where(providers.c.provider_id == request.provider_id))
    if known is None:
        raise NotFound(f"there is no provider {request.provider_id!r}")
    mine = sightings.c.provider == request.provider_id
    if request.first:
        connection.execute(sightings.delete().where(mine))
    seen: dict[str, dict[str, Any]] = {
        one.key: {
            "key": one.key,
            "provider": request.provider_id,
            "size": one.size,
            "modified_at": from_timestamp(one.modified) if one.HasField("modified") else None,
            "exact": int(one.exact),
            "etag": one.etag,
            "checksum": one.checksum,
        }
        for one in request.sightings
        if one.key.startswith(ASIDE_PREFIX) or not one.key.startswith(f"{RESERVED_ROOT_NAME}/")
    }
    if seen:
        # a listing of a provider that is written to meanwhile may show an object twice
        connection.execute(sightings.delete().where(mine, sightings.c.key.in_(seen)))
        connection.execute(sightings.insert(), list(seen.values()))
    return pb.RecordSightingsResponse()

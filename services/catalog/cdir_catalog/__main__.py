"""``python -m cdir_catalog``: serve the catalog on ``CDIR_LISTEN`` (default 127.0.0.1:7071)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from cdir.v1.catalog_service_pb2_grpc import add_CatalogServiceServicer_to_server
from cdir_catalog.service import open_catalog
from cdir_runtime.server import serve
from cdir_runtime.service import run_service, until_stopped
from cdir_runtime.settings import Settings


async def run(settings: Settings) -> None:
    card = Path(settings.provider_card) if settings.provider_card else None
    async with open_catalog(settings.require("database_url"), card) as servicer:
        registrar = partial(add_CatalogServiceServicer_to_server, servicer)
        async with serve(settings.listen or "127.0.0.1:7071", [registrar]):
            await until_stopped()


def main() -> int:
    return run_service("catalog", run)


if __name__ == "__main__":
    sys.exit(main())

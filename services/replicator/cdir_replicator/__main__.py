"""``python -m cdir_replicator``: run a replicator, served on ``CDIR_LISTEN`` (default 127.0.0.1:7073)."""

from __future__ import annotations

import sys
from functools import partial

from cdir.v1.replicator_service_pb2_grpc import add_ReplicatorServiceServicer_to_server
from cdir_replicator.allowance import ScrubPace
from cdir_replicator.service import open_replicator
from cdir_runtime.channel import open_channel
from cdir_runtime.server import serve
from cdir_runtime.service import run_service, until_stopped
from cdir_runtime.settings import Settings


async def run(settings: Settings) -> None:
    async with (
        open_channel(settings.catalog_address) as catalog,
        open_channel(settings.adapters_address) as adapters,
        open_replicator(
            catalog,
            adapters,
            scan_calls_per_minute=settings.scan_calls_per_minute(),
            scrub_pace=ScrubPace.of(settings),
        ) as servicer,
        serve(settings.listen or "127.0.0.1:7073", [partial(add_ReplicatorServiceServicer_to_server, servicer)]),
    ):
        await until_stopped()


def main() -> int:
    return run_service("replicator", run)


if __name__ == "__main__":
    sys.exit(main())

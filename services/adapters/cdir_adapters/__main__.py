"""``python -m cdir_adapters``: serve the adapters on ``CDIR_LISTEN`` (default 127.0.0.1:7072)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from cdir.v1.adapter_service_pb2_grpc import add_AdapterServiceServicer_to_server
from cdir_adapters.service import open_adapters
from cdir_runtime.channel import open_channel
from cdir_runtime.server import serve
from cdir_runtime.service import run_service, until_stopped
from cdir_runtime.settings import Settings
from cdir_runtime.vault import Vault


async def run(settings: Settings) -> None:
    vault = await Vault.open(Path(settings.require("key_file")), settings.passphrase_file)
    async with open_channel(settings.catalog_address) as catalog, open_adapters(catalog, vault) as servicer:
        registrar = partial(add_AdapterServiceServicer_to_server, servicer)
        async with serve(settings.listen or "127.0.0.1:7072", [registrar]):
            await until_stopped()


def main() -> int:
    return run_service("adapters", run)


if __name__ == "__main__":
    sys.exit(main())

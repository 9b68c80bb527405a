"""The daemon of a home: the one-process deployment, served on the home's socket."""

from __future__ import annotations

import json
import os
import sys
from contextlib import AsyncExitStack

from cdir.errors import ConfigInvalid
from cdir.locations import home as find_home
from cdir_embedded.composition import open_deployment
from cdir_embedded.home import database_url, occupy, require_catalog
from cdir_replicator.allowance import ScrubPace
from cdir_runtime.server import is_loopback, serve
from cdir_runtime.service import until_stopped
from cdir_runtime.settings import Settings
from cdir_runtime.vault import Vault

__all__ = ["run"]

_DRAIN_SECONDS = 3.0


async def run(settings: Settings, listen: str | None, *, new_catalog: bool = False) -> None:
    """Serve until asked to stop. ``listen`` is a second address, for callers that are not on this machine's socket.

    Whoever opens the socket is this user, so local files may be named there; a second address makes that uncertain, and
    then nobody may. ``new_catalog`` begins an empty catalog where the home's is gone. Once everything answers, one line
    of JSON on standard output says so: ``{"address", "pid"}``.
    """
    token = settings.token()
    if listen is not None and token is None and not is_loopback(listen):
        raise ConfigInvalid(
            f"{listen} can be reached from other machines; set CDIR_TOKEN_FILE so that callers must sign in",
            option="listen",
        )
    home = find_home()
    with occupy(home):
        if not new_catalog:
            require_catalog(home)
        async with AsyncExitStack() as exits:
            deployment = await exits.enter_async_context(
                open_deployment(
                    database_url(home),
                    await Vault.open(home.key, settings.passphrase_file),
                    local_files=listen is None,
                    scan_calls_per_minute=settings.scan_calls_per_minute(),
                    scrub_pace=ScrubPace.of(settings),
                    provider_card=home.provider_card,
                )
            )
            address = await exits.enter_async_context(serve(home.address, deployment.registrars, drain=_DRAIN_SECONDS))
            if listen is not None:
                await exits.enter_async_context(serve(listen, deployment.registrars, token=token, drain=_DRAIN_SECONDS))
            sys.stdout.write(json.dumps({"address": address, "pid": os.getpid()}) + "\n")
            sys.stdout.flush()
            await until_stopped()

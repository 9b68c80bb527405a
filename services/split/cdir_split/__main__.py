"""``python -m cdir_split``: run every service as a process of its own until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click
import platformdirs

from cdir.errors import CdirError
from cdir_split.launcher import Plan, run


def _default_folder() -> Path:
    """PostgreSQL runs as another user when we are root, and cannot enter root's own data folder."""
    return Path("/var/lib/cdir") if os.geteuid() == 0 else platformdirs.user_data_path("cdir") / "split"


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=_default_folder, help="Where key and data are kept.")
@click.option("--listen", default="127.0.0.1:7070", show_default=True, help="HOST:PORT of the gateway.")
@click.option(
    "--database-url", envvar="CDIR_DATABASE_URL", help="A PostgreSQL that runs already [default: a private one]."
)
def main(folder: Path, listen: str, database_url: str | None) -> None:
    """Run catalog, adapters, replicator and gateway, each as its own process, on PostgreSQL."""
    try:
        asyncio.run(run(Plan(folder.absolute(), listen, database_url)))
    except CdirError as error:
        click.echo(f"cdir: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

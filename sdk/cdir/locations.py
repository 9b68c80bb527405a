"""Where cdir keeps its state on this machine, and where its daemon listens."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Home", "default_address", "home"]


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one user's cdir: configuration, sealed credentials, embedded catalog, the daemon's files."""

    path: Path

    @property
    def socket(self) -> Path:
        """Where the daemon listens; only its owner may connect."""
        return self.path / "daemon.sock"

    @property
    def pid(self) -> Path:
        """Holds the daemon's process id while it runs."""
        return self.path / "daemon.pid"

    @property
    def lock(self) -> Path:
        """Locked by the daemon for as long as it runs."""
        return self.path / "daemon.lock"

    @property
    def log(self) -> Path:
        """What the daemon has to say."""
        return self.path / "daemon.log"

    @property
    def current(self) -> Path:
        """The current virtual directory of ``cdir cd``."""
        return self.path / "current"

    @property
    def cli_log(self) -> Path:
        """Tracebacks of defects in the command line."""
        return self.path / "cli.log"

    @property
    def catalog(self) -> Path:
        """The embedded catalog: a SQLite file, beside which the database keeps two more while it is open."""
        return self.path / "catalog.sqlite3"

    @property
    def key(self) -> Path:
        """The key under which credentials are sealed."""
        return self.path / "key"

    @property
    def vault(self) -> Path:
        """The keys that seal credentials, wrapped; there is none before they are changed for the first time."""
        return self.path / "vault.json"

    @property
    def provider_card(self) -> Path:
        """Says which providers there are, for the day on which the catalog is lost."""
        return self.path / "providers.json"

    @property
    def address(self) -> str:
        """The daemon's address for gRPC."""
        return f"unix:{self.socket}"


def home() -> Home:
    """Return the home: ``CDIR_HOME``, else the platform's per-user data folder. It need not exist yet."""
    configured = os.environ.get("CDIR_HOME")
    return Home(Path(configured).expanduser().absolute() if configured else _default())


def _default() -> Path:
    if sys.platform == "linux":
        # what platformdirs answers there, without the time it takes to import
        data = os.environ.get("XDG_DATA_HOME", "").strip()
        return (Path(data) if data else Path.home() / ".local" / "share") / "cdir"
    from platformdirs import user_data_path

    return user_data_path("cdir", appauthor=False)


def default_address() -> str:
    """Return ``CDIR_ADDRESS``, else the address of the daemon in the home."""
    return os.environ.get("CDIR_ADDRESS") or home().address

"""What a service of the split deployment is told by its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cdir.errors import ConfigInvalid

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that services share; each reads those it needs. Printable: the token and the key stay in files."""

    listen: str = ""
    """``CDIR_LISTEN``: ``host:port`` or ``unix:/path`` to serve on. Each service names its own default port."""
    catalog_address: str = "127.0.0.1:7071"
    """``CDIR_CATALOG_ADDRESS``: where the catalog is."""
    adapters_address: str = "127.0.0.1:7072"
    """``CDIR_ADAPTERS_ADDRESS``: where the adapters are."""
    replicator_address: str = "127.0.0.1:7073"
    """``CDIR_REPLICATOR_ADDRESS``: where the replicator is."""
    database_url: str = ""
    """``CDIR_DATABASE_URL``: the catalog's database, ``postgresql://…`` or ``sqlite:///…``. May hold a password."""
    key_file: str = ""
    """``CDIR_KEY_FILE``: file with the 32 bytes that credentials are sealed under, readable by its owner alone."""
    token_file: str = ""
    """``CDIR_TOKEN_FILE``: file with the token that callers of the gateway must send; empty asks for none."""
    log_level: str = "info"
    """``CDIR_LOG_LEVEL``: debug, info, warning or error."""
    log_format: str = "text"
    """``CDIR_LOG_FORMAT``: text or json."""

    def __repr__(self) -> str:
        return f"Settings(listen={self.listen!r}, …)"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read ``CDIR_…`` variables; unset or empty ones keep their defaults."""
        source = os.environ if environment is None else environment
        given = {name: source.get(f"CDIR_{name.upper()}", "") for name in cls.__dataclass_fields__}
        return cls(**{name: value for name, value in given.items() if value})

    def require(self, name: str) -> str:
        """Return a setting that has no default. Raises :class:`ConfigInvalid` naming the variable to set."""
        value: str = getattr(self, name)
        if not value:
            raise ConfigInvalid(f"CDIR_{name.upper()} is not set", option=f"CDIR_{name.upper()}")
        return value

    def token(self) -> str | None:
        """Return the token to ask callers for, or ``None`` when no file is named. Raises :class:`ConfigInvalid`."""
        if not self.token_file:
            return None
        try:
            token = Path(self.token_file).read_text().strip()
        except OSError as error:
            raise ConfigInvalid(f"cannot read the token file {self.token_file}: {error.strerror}") from error
        if not token:
            raise ConfigInvalid(f"the token file {self.token_file} is empty")
        return token

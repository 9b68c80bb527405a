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
    passphrase_file: str = ""
    """``CDIR_PASSPHRASE_FILE``: file with the passphrase of the vault, which may be ``/dev/fd/N``; empty leaves a vault
    that has one locked until somebody says it."""
    provider_card: str = ""
    """``CDIR_PROVIDER_CARD``: file in which the catalog writes down its providers; empty keeps none."""
    token_file: str = ""
    """``CDIR_TOKEN_FILE``: file with the token that callers of the gateway must send; empty asks for none."""
    scan_calls: str = "600"
    """``CDIR_SCAN_CALLS``: calls per minute that looking for what other programs did may cost each provider."""
    scrub_sample: str = "0.01"
    """``CDIR_SCRUB_SAMPLE``: share of each provider's copies that is read to prove them within a day; 0 reads none."""
    scrub_bytes: str = "268435456"
    """``CDIR_SCRUB_BYTES``: bytes per hour that proving copies in the background may read."""
    scrub_calls: str = "2000"
    """``CDIR_SCRUB_CALLS``: calls per hour that proving copies in the background may make."""
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

    def scan_calls_per_minute(self) -> int:
        """Return ``CDIR_SCAN_CALLS`` as a number. Raises :class:`ConfigInvalid` unless it is one, and at least 1."""
        if not self.scan_calls.isdecimal() or not int(self.scan_calls):
            raise ConfigInvalid(
                f"CDIR_SCAN_CALLS is {self.scan_calls!r}; set it to a number of calls per minute",
                option="CDIR_SCAN_CALLS",
            )
        return int(self.scan_calls)

    def share(self, name: str) -> float:
        """Return a setting that is a number from 0 to 1. Raises :class:`ConfigInvalid` when it is none."""
        try:
            value = float(getattr(self, name))
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise self._no_number(name, "a share from 0 to 1")
        return value

    def whole(self, name: str) -> int:
        """Return a setting that is a whole number of at least 1. Raises :class:`ConfigInvalid` when it is none."""
        text: str = getattr(self, name)
        if not text.isdecimal() or not int(text):
            raise self._no_number(name, "a whole number of at least 1")
        return int(text)

    def _no_number(self, name: str, wanted: str) -> ConfigInvalid:
        variable = f"CDIR_{name.upper()}"
        return ConfigInvalid(f"{variable} is {getattr(self, name)!r}; set it to {wanted}", option=variable)

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

"""What the options of an ``ftp`` provider mean."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping

from cdir.errors import ConfigInvalid
from cdir_adapters.registry import OptionValue

__all__ = ["FtpSettings", "TlsMode"]

_CONNECTIONS = range(2, 33)
_UNSENDABLE = re.compile(r"[\r\n\0]")


class TlsMode(enum.StrEnum):
    EXPLICIT = "explicit"
    """Begin in the clear on the usual port and ask for TLS before signing in."""
    IMPLICIT = "implicit"
    """TLS from the first byte, usually on port 990."""
    OFF = "off"
    """Everything in the clear, the password too."""


@dataclasses.dataclass(frozen=True, slots=True)
class FtpSettings:
    """Validated options. Its text form holds no secret."""

    host: str
    port: int
    user: str
    root: str
    """Absolute, or relative to the folder where the server puts its user; no slash at the end unless it is ``/``."""
    tls: TlsMode
    fingerprint: str | None
    """SHA-256 of the one certificate that is trusted, in lower-case hex."""
    verify_tls: bool
    """Whether the certificate must be trusted; else any will do."""
    ca_file: str | None
    connections: int
    """Control connections at once, two at least."""
    password: str = dataclasses.field(repr=False)

    @classmethod
    def from_options(cls, options: Mapping[str, OptionValue]) -> FtpSettings:
        """Read validated options. Raises ConfigInvalid."""

        def text(name: str) -> str | None:
            value = options.get(name)
            if value in (None, ""):
                return None
            if _UNSENDABLE.search(str(value)):
                raise ConfigInvalid(f"ftp: option {name} must not hold a line break", option=name)
            return str(value)

        host = text("host")
        if host is None:
            raise ConfigInvalid("kind ftp needs the option host", option="host")
        if "/" in host:
            raise ConfigInvalid("ftp: option host must be a name or an address, not a URL", option="host")
        tls = TlsMode(text("tls") or TlsMode.EXPLICIT)
        fingerprint, verify_tls = text("fingerprint"), bool(options.get("verify_tls", True))
        if tls is TlsMode.OFF and (fingerprint or not verify_tls):
            raise ConfigInvalid("ftp: fingerprint and verify_tls=false have no meaning with tls=off", option="tls")
        if fingerprint and not verify_tls:
            raise ConfigInvalid("ftp: give fingerprint or verify_tls=false, not both", option="verify_tls")
        connections = int(options.get("connections", 6))
        if connections not in _CONNECTIONS:
            raise ConfigInvalid(
                f"ftp: option connections must be from {_CONNECTIONS[0]} to {_CONNECTIONS[-1]}: one reads while"
                " another one writes",
                option="connections",
            )
        root = text("root") or ""
        user = text("user")
        return cls(
            host=host,
            port=int(options.get("port") or (990 if tls is TlsMode.IMPLICIT else 21)),
            user=user or "anonymous",
            root=root.rstrip("/") or ("/" if root else ""),
            tls=tls,
            fingerprint=_digest_of(fingerprint) if fingerprint else None,
            verify_tls=verify_tls,
            ca_file=text("ca_file"),
            connections=connections,
            # servers that let anybody in want something that looks like an address of mail
            password=text("password") or ("" if user else "cdir@localhost"),
        )

    @property
    def location(self) -> str:
        """Where the root is, for a person."""
        scheme = {TlsMode.OFF: "ftp", TlsMode.EXPLICIT: "ftpes", TlsMode.IMPLICIT: "ftps"}[self.tls]
        port = "" if self.port == (990 if self.tls is TlsMode.IMPLICIT else 21) else f":{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{self.user}@{host}{port}/{self.root or '~'}"


def _digest_of(fingerprint: str) -> str:
    digest = fingerprint.lower().removeprefix("sha256:").replace(":", "").replace(" ", "")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ConfigInvalid(
            "ftp: option fingerprint must be the SHA-256 of the server's certificate in hex, as in"
            " 'openssl x509 -fingerprint -sha256'",
            option="fingerprint",
        )
    return digest

"""What the options of an ``azure`` provider mean."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from cdir.errors import ConfigInvalid, InvalidPath
from cdir_adapters.providers.azure.properties import NAMES
from cdir_adapters.registry import OptionValue

__all__ = ["AzureSettings"]

_CONTAINER = re.compile(r"(?!.*--)[a-z0-9](?:[a-z0-9-]{1,61})[a-z0-9]|\$web")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_LONGEST_NAME = 1024
"""Characters."""
_PUBLIC_CLOUD = "core.windows.net"
_EMULATOR = {
    "AccountName": "devstoreaccount1",
    # the emulator's published key, the same on every machine
    "AccountKey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "BlobEndpoint": "http://127.0.0.1:10000/devstoreaccount1",
}


@dataclasses.dataclass(frozen=True, slots=True)
class AzureSettings:
    """Validated options. Its text form holds no secret."""

    container: str
    endpoint: str
    """URL of the account's blob service, without a slash at the end."""
    prefix: str
    """Empty, or ends with a slash: what stands before every key."""
    account: str | None
    ca_file: str | None
    account_key: str | None = dataclasses.field(repr=False)
    sas_token: str | None = dataclasses.field(repr=False)
    """Without its question mark. Exactly one of the two is there."""

    @classmethod
    def from_options(cls, options: Mapping[str, OptionValue]) -> AzureSettings:
        """Read validated options. Raises ConfigInvalid for values that cannot be or that contradict each other."""

        def text(name: str) -> str | None:
            value = options.get(name)
            return str(value) if value not in (None, "") else None

        container = text("container") or ""
        if not _CONTAINER.fullmatch(container):
            raise ConfigInvalid(
                "azure: option container must have 3 to 63 small letters, digits and single hyphens inside",
                option="container",
            )
        given = {name: text(name) for name in ("account", "endpoint", "key", "sas")}
        connection = text("connection_string")
        if connection is not None:
            doubled = [name for name, value in given.items() if value is not None]
            if doubled:
                raise ConfigInvalid(
                    f"azure: connection_string says what {doubled[0]} says too; give one of them", option=doubled[0]
                )
            given = _of_connection_string(connection)
        account, key, sas = given["account"], given["key"], given["sas"]
        if account is not None and not _ACCOUNT.fullmatch(account):
            raise ConfigInvalid("azure: an account's name has 3 to 24 small letters and digits", option="account")
        endpoint = given["endpoint"] or (f"https://{account}.blob.{_PUBLIC_CLOUD}" if account else None)
        if endpoint is None:
            raise ConfigInvalid("azure: give account, endpoint or connection_string", option="account")
        if (key is None) == (sas is None):
            raise ConfigInvalid("azure: give exactly one of key, sas, connection_string", option="key")
        if key is not None:
            if account is None:
                raise ConfigInvalid("azure: key needs account", option="account")
            _check_key(key)
        prefix = (text("prefix") or "").strip("/")
        return cls(
            container=container,
            endpoint=_checked_endpoint(endpoint),
            prefix=f"{prefix}/" if prefix else "",
            account=account,
            ca_file=text("ca_file"),
            account_key=key,
            sas_token=None if sas is None else _checked_sas(sas),
        )

    @property
    def location(self) -> str:
        """Where the root is, for a person."""
        parts = urlsplit(self.endpoint)
        return f"azure://{self.container}/{self.prefix}".rstrip("/") + f" at {parts.netloc}{parts.path}"

    def name_of(self, key: str) -> str:
        """Return the name of the blob that holds ``key``. Raises InvalidPath when it would be too long."""
        name = self.prefix + NAMES.encode(key)
        if len(name) > _LONGEST_NAME:
            raise InvalidPath(
                f"{key} is too long: with the provider's prefix its name has {len(name)} characters, and Azure"
                f" holds {_LONGEST_NAME}",
                key=key,
            )
        return name

    def key_of(self, name: str) -> str:
        """Return the key of a blob below the prefix."""
        return NAMES.decode(name[len(self.prefix) :])


def _checked_endpoint(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.query or parts.username or parts.password:
        raise ConfigInvalid("azure: option endpoint must not hold credentials; give key or sas", option="endpoint")
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.fragment:
        raise ConfigInvalid(f"azure: option endpoint must be an http or https URL, not {endpoint!r}", option="endpoint")
    return endpoint.rstrip("/")


def _check_key(key: str) -> None:
    try:
        if base64.b64decode(key, validate=True):
            return
    except binascii.Error:
        pass
    raise ConfigInvalid("azure: key is not a key: it must be base64 text", option="key")


def _checked_sas(sas: str) -> str:
    token = sas.strip().removeprefix("?")
    if not parse_qs(token).get("sig") or not token.isascii() or not token.isprintable() or "://" in token:
        raise ConfigInvalid(
            "azure: sas is not a token: it must be the query of a signed URL, as in 'sv=…&sig=…'",
            option="sas",
        )
    return token


def _of_connection_string(text: str) -> dict[str, str | None]:
    """Return the options that a connection string stands for, as the portal shows them."""
    said: dict[str, str] = {}
    for part in filter(None, text.strip().split(";")):
        name, separator, value = part.partition("=")
        if not separator:
            raise ConfigInvalid(
                "azure: connection_string must be 'Name=Value' pairs with semicolons between",
                option="connection_string",
            )
        said[name.strip().lower()] = value.strip()
    if said.get("usedevelopmentstorage", "").lower() == "true":
        said = {name.lower(): value for name, value in _EMULATOR.items()}
    account = said.get("accountname") or None
    endpoint = said.get("blobendpoint")
    if not endpoint and account:
        protocol = said.get("defaultendpointsprotocol", "https")
        endpoint = f"{protocol}://{account}.blob.{said.get('endpointsuffix', _PUBLIC_CLOUD)}"
    if not endpoint:
        raise ConfigInvalid(
            "azure: connection_string names neither AccountName nor BlobEndpoint", option="connection_string"
        )
    return {
        "account": account,
        "endpoint": endpoint,
        "key": said.get("accountkey") or None,
        "sas": said.get("sharedaccesssignature") or None,
    }

"""What the options of an ``sftp`` provider mean, the pinned host key above all."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import asyncssh
from asyncssh.public_key import CERT_TYPE_USER, SSHOpenSSHCertificate

from cdir.errors import ConfigInvalid, Unauthenticated
from cdir_adapters.registry import OptionValue

__all__ = ["HostSettings", "SftpSettings", "TrustedKey"]

_AUTHORITY = "@cert-authority"
"""What marks the key of an authority, as in OpenSSH's known_hosts."""

_SIGNATURES = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
"""Host key algorithms by the type of the key, where the two have different names."""

_ALL_SIGNATURES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
"""What a server is asked for when only a fingerprint, or nothing, is known of its key."""


_CERTIFICATES = tuple(f"{kind}-cert-v01@openssh.com" for kind in _ALL_SIGNATURES)


@dataclasses.dataclass(frozen=True, slots=True)
class TrustedKey:
    """The one host key that is trusted, or the one authority whose certificates for hosts are."""

    fingerprint: str
    """``SHA256:`` and base64."""
    signatures: tuple[str, ...]
    """The host key algorithms with which the server can show it."""
    authority: bool = False

    @classmethod
    def parse(cls, text: str, option: str) -> TrustedKey:
        """Read ``type base64`` or a SHA256 fingerprint, of an authority when marked as such. Raises ConfigInvalid."""
        words = text.split()
        authority = bool(words) and words[0] == _AUTHORITY
        if authority:
            words = words[1:]
        if len(words) == 1 and words[0].startswith("SHA256:"):
            return cls(words[0].rstrip("="), _CERTIFICATES if authority else _ALL_SIGNATURES, authority)
        try:
            key = asyncssh.import_public_key(" ".join(words[:2]))
        except (asyncssh.KeyImportError, ValueError):
            raise ConfigInvalid(
                f"sftp: option {option} must be a public key such as 'ssh-ed25519 AAAA…' or a fingerprint 'SHA256:…',"
                f" with {_AUTHORITY} before it when it signs the certificates of hosts",
                option=option,
            ) from None
        if authority:
            return cls(key.get_fingerprint(), _CERTIFICATES, authority)
        kind = words[0]
        return cls(key.get_fingerprint(), _SIGNATURES.get(kind, (kind,)))


@dataclasses.dataclass(frozen=True, slots=True)
class HostSettings:
    """One SSH server, as somebody who signs in there."""

    name: str
    port: int
    user: str
    trusted: TrustedKey | None
    key_option: str
    """Name of the option that ``trusted`` comes from."""

    @property
    def where(self) -> str:
        return f"{self.name}:{self.port}"

    @property
    def signatures(self) -> tuple[str, ...]:
        """Host key algorithms to ask the server for."""
        return self.trusted.signatures if self.trusted else _ALL_SIGNATURES

    @classmethod
    def parse_jump(cls, text: str, user: str, trusted: TrustedKey | None) -> HostSettings:
        """Read ``[user@]host[:port]``. Raises ConfigInvalid."""
        account, _, rest = text.rpartition("@")
        with contextlib.suppress(ValueError):  # of a port that is no number
            parts = urlsplit(f"//{rest}")
            if parts.hostname and not (parts.path or parts.query or parts.fragment):
                return cls(parts.hostname, parts.port or 22, account or user, trusted, "jump_host_key")
        raise ConfigInvalid("sftp: option jump must be user@host:port; user and port may be left out", option="jump")


@dataclasses.dataclass(frozen=True, slots=True)
class SftpSettings:
    """Validated options. Its text form holds no secret."""

    server: HostSettings
    jump: HostSettings | None
    """What the connection to the server goes over."""
    root: str
    """Absolute, or relative to the home folder; without a slash at the end unless it is ``/``."""
    key_file: str | None
    password: str | None = dataclasses.field(repr=False)
    passphrase: str | None = dataclasses.field(repr=False)

    @classmethod
    def from_options(cls, options: Mapping[str, OptionValue]) -> SftpSettings:
        """Read validated options. Raises ConfigInvalid."""

        def text(name: str) -> str | None:
            value = options.get(name)
            return str(value) if value not in (None, "") else None

        host = text("host")
        if host is None:
            raise ConfigInvalid("kind sftp needs the option host", option="host")
        root = text("root") or ""
        user = text("user") or getpass.getuser()
        jump = text("jump")

        def trusted(option: str) -> TrustedKey | None:
            value = text(option)
            return TrustedKey.parse(value, option) if value else None

        if jump is None and text("jump_host_key"):
            raise ConfigInvalid("sftp: option jump_host_key needs jump", option="jump_host_key")
        return cls(
            server=HostSettings(host, int(options.get("port", 22)), user, trusted("host_key"), "host_key"),
            jump=None if jump is None else HostSettings.parse_jump(jump, user, trusted("jump_host_key")),
            root=root.rstrip("/") or ("/" if root else ""),
            key_file=text("key_file"),
            password=text("password"),
            passphrase=text("passphrase"),
        )

    @property
    def location(self) -> str:
        """Where the root is, for a person."""
        server = self.server
        port = "" if server.port == 22 else f":{server.port}"
        return f"{server.user}@{server.name}{port}:{self.root or '~'}"

    def login(self) -> dict[str, Any]:
        """Arguments of :func:`asyncssh.connect` to sign in with. Reads the key file, so it blocks.

        With neither key nor password, the SSH agent and the user's own keys are tried, as ``ssh`` does. A certificate
        beside the key, ``KEY-cert.pub``, is shown with it. Raises ConfigInvalid for a key or certificate that cannot be
        used, Unauthenticated for a wrong passphrase.
        """
        if self.key_file is None and self.password is None:
            return {}
        arguments: dict[str, Any] = {"agent_path": None, "client_keys": None}
        if self.password is not None:
            arguments["password"] = self.password
        if self.key_file is not None:
            key = self._read_key(self.key_file)
            certificate = _read_certificate(self.key_file, key)
            arguments["client_keys"] = [key if certificate is None else (key, certificate)]
        return arguments

    def _read_key(self, path: str) -> asyncssh.SSHKey:
        try:
            return asyncssh.read_private_key(path, self.passphrase)
        except OSError as error:
            raise ConfigInvalid(f"sftp: the key {path} cannot be read: {error.strerror}", option="key_file") from None
        except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError) as error:
            if "decrypt" in str(error).lower() or isinstance(error, asyncssh.KeyEncryptionError):
                raise Unauthenticated(
                    f"sftp: the passphrase of the key {path} is wrong; set passphrase", option="passphrase"
                ) from None
            if "bcrypt" in str(error):
                raise ConfigInvalid(
                    f"sftp: the key {path} is encrypted in OpenSSH's own form, which needs a library that is not"
                    " installed: pip install bcrypt",
                    option="key_file",
                ) from None
            if "passphrase" in str(error).lower():
                raise ConfigInvalid(f"sftp: the key {path} is encrypted; set passphrase", option="passphrase") from None
            raise ConfigInvalid(f"sftp: {path} is not a private key that can be used", option="key_file") from None


def _read_certificate(key_file: str, key: asyncssh.SSHKey) -> asyncssh.SSHCertificate | None:
    path = f"{key_file}-cert.pub"
    try:
        certificate = asyncssh.read_certificate(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigInvalid(f"sftp: {path} cannot be read: {error.strerror}", option="key_file") from None
    except asyncssh.KeyImportError:
        raise ConfigInvalid(f"sftp: {path} is not a certificate that can be used", option="key_file") from None
    if certificate.key.public_data != key.public_data:
        raise ConfigInvalid(f"sftp: {path} is the certificate of another key", option="key_file")
    if isinstance(certificate, SSHOpenSSHCertificate):
        try:
            certificate.validate(CERT_TYPE_USER, None)
        except ValueError as error:
            raise ConfigInvalid(f"sftp: {path}: {error}; have the key signed anew", option="key_file") from None
    return certificate

"""What the options of an ``sftp`` provider mean, the pinned host key above all."""

from __future__ import annotations

import dataclasses
import getpass
from collections.abc import Mapping
from typing import Any

import asyncssh

from cdir.errors import ConfigInvalid, Unauthenticated
from cdir_adapters.registry import OptionValue

__all__ = ["PinnedKey", "SftpSettings"]

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


@dataclasses.dataclass(frozen=True, slots=True)
class PinnedKey:
    """The one host key that is trusted."""

    fingerprint: str
    """``SHA256:`` and base64."""
    signatures: tuple[str, ...]
    """The host key algorithms with which the server can show it."""

    @classmethod
    def parse(cls, text: str) -> PinnedKey:
        """Read ``type base64`` or a SHA256 fingerprint. Raises ConfigInvalid."""
        words = text.split()
        if len(words) == 1 and words[0].startswith("SHA256:"):
            return cls(words[0].rstrip("="), _ALL_SIGNATURES)
        try:
            key = asyncssh.import_public_key(" ".join(words[:2]))
        except (asyncssh.KeyImportError, ValueError):
            raise ConfigInvalid(
                "sftp: option host_key must be a public key such as 'ssh-ed25519 AAAA…' or a fingerprint 'SHA256:…'",
                option="host_key",
            ) from None
        kind = words[0]
        return cls(key.get_fingerprint(), _SIGNATURES.get(kind, (kind,)))


@dataclasses.dataclass(frozen=True, slots=True)
class SftpSettings:
    """Validated options. Its text form holds no secret."""

    host: str
    port: int
    user: str
    root: str
    """Absolute, or relative to the home folder; without a slash at the end unless it is ``/``."""
    pinned: PinnedKey | None
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
        host_key = text("host_key")
        return cls(
            host=host,
            port=int(options.get("port", 22)),
            user=text("user") or getpass.getuser(),
            root=root.rstrip("/") or ("/" if root else ""),
            pinned=PinnedKey.parse(host_key) if host_key else None,
            key_file=text("key_file"),
            password=text("password"),
            passphrase=text("passphrase"),
        )

    @property
    def location(self) -> str:
        """Where the root is, for a person."""
        port = "" if self.port == 22 else f":{self.port}"
        return f"{self.user}@{self.host}{port}:{self.root or '~'}"

    @property
    def signatures(self) -> tuple[str, ...]:
        """Host key algorithms to ask the server for."""
        return self.pinned.signatures if self.pinned else _ALL_SIGNATURES

    def login(self) -> dict[str, Any]:
        """Arguments of :func:`asyncssh.connect` to sign in with. Reads the key file, so it blocks.

        With neither key nor password, the SSH agent and the user's own keys are tried, as ``ssh`` does. Raises
        ConfigInvalid for a key that cannot be read, Unauthenticated for a wrong passphrase.
        """
        arguments: dict[str, Any] = {"username": self.user}
        if self.password is not None:
            arguments["password"] = self.password
        if self.key_file is not None:
            arguments["client_keys"] = [self._read_key(self.key_file)]
        elif self.password is not None:
            arguments["client_keys"] = None
        if self.key_file is not None or self.password is not None:
            arguments["agent_path"] = None
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

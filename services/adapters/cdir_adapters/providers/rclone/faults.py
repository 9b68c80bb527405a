"""The one place where what rclone says, and what happens on the way to it, become errors of cdir."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Final

import aiohttp

from cdir.errors import (
    CdirError,
    ConfigInvalid,
    DirectoryNotEmpty,
    IntegrityError,
    InvalidPath,
    IsDirectory,
    NotDirectory,
    NotFound,
    PermissionDenied,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    Unauthenticated,
    Unsupported,
)

__all__ = ["Faults"]

_LONGEST_SAID: Final = 300
"""Characters of rclone's own words in a message."""

_SIGNS: Final[tuple[tuple[re.Pattern[str], type[CdirError], str], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind, what)
    for pattern, kind, what in (
        # rclone has no codes for most errors, only words: its own, and those of some seventy services.
        # The first that fits counts, so what is certain comes before words that others use as well.
        (r"is a directory", IsDirectory, "{key} is a folder"),
        (r"not a directory|file exists", NotDirectory, "{key}: a part of the path is not a folder"),
        (r"(directory|folder|bucket|container)\b.* not empty", DirectoryNotEmpty, "the folder {key} is not empty"),
        (
            r"didn't find section|didn't find backend|unable to decrypt config|failed to (load|decrypt) config"
            r"|base64 decode failed when reveal|knownhosts|host key|certificate|unknown authority"
            r"|no such host|unsupported protocol scheme|missing (required|config)|need(s)? to be set|not set in config",
            ConfigInvalid,
            "the remote cannot be used as it is configured",
        ),
        (
            r"\b429\b|too many requests|rate.?limit|slow.?down|throttl|request rate|flood",
            RateLimited,
            "the service asks to slow down",
        ),
        (
            r"unable to authenticate|unauthori[sz]ed|\b401\b|invalid_grant"
            r"|invalid.{0,20}(credential|password|login|token)"
            r"|(authentication|login|logon|auth)\S* (failed|failure|incorrect)|InvalidAccessKeyId|SignatureDoesNotMatch"
            r"|(token|session)\b.{0,20}expired|expired.{0,20}token|empty token|couldn't fetch token|not logged in"
            r"|wrong password|\b530\b",
            Unauthenticated,
            "the credentials are not accepted; check secrets, or sign in again with: rclone config reconnect",
        ),
        (
            r"no space left|quota|insufficient.{0,10}(storage|space)|storage (is )?full|not enough (space|storage)"
            r"|\b507\b|disk full|over.?limit",
            QuotaExceeded,
            "no space is left there; make room",
        ),
        (
            r"permission denied|access.?denied|forbidden|\b403\b|read-only file system|operation not permitted",
            PermissionDenied,
            "the credentials do not allow this, or the service forbids it",
        ),
        (r"name too long|filename.{0,10}long|path.{0,10}too long", InvalidPath, "{key} is too long for the service"),
        (r"corrupted on transfer|hashes? differ|sizes differ", IntegrityError, "{key} arrived with other bytes"),
        (
            r"(object|directory|file|bucket|container|drive|share) not found|no such file|doesn't exist|does not exist"
            r"|NoSuchKey|NoSuchBucket",
            NotFound,
            "{key} does not exist",
        ),
        (
            r"doesn't support|not supported|not implemented|unimplemented",
            Unsupported,
            "the service does not offer this",
        ),
    )
)


@dataclasses.dataclass(frozen=True, slots=True)
class Faults:
    """Makes errors of cdir in the name of one provider."""

    provider: str
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    """What must not be repeated, should rclone do so."""

    @contextlib.contextmanager
    def translated(self, doing: str, key: str = "") -> Iterator[None]:
        """Raise what the block raises as an error of cdir; ``doing`` completes "while …"."""
        try:
            yield
        except CdirError:
            raise
        except (aiohttp.ClientError, OSError, TimeoutError):
            raise self.unavailable("the rclone process ended or broke the connection off", doing, key) from None

    def error(self, status: int, said: str, doing: str, key: str = "") -> CdirError:
        """The error of cdir for words of rclone."""
        words = self.clean(said)
        # a name says nothing about what went wrong, whatever words it holds
        signs = said
        for name in {key, key.rpartition("/")[2]} - {""}:
            signs = signs.replace(name, "…")
        kind: type[CdirError]
        kind, what = ProviderUnavailable, "the service, or rclone, failed"
        for pattern, sign_of, meaning in _SIGNS:
            if pattern.search(signs):
                kind, what = sign_of, meaning
                break
        if status == 404 and kind is ProviderUnavailable:
            kind, what = NotFound, "{key} does not exist"
        what = what.format(key=key or "the root")
        error = kind(f"provider {self.provider}: {what} (rclone: {words}; while {doing})", provider=self.provider)
        if key:
            error.context["key"] = key
        return error

    def answer(self, status: int, body: bytes, doing: str, key: str = "") -> CdirError:
        """The error of cdir for an answer of rclone."""
        try:
            said = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError):
            said = f"status {status}"
        return self.error(status, str(said), doing, key)

    def clean(self, said: str) -> str:
        """Return words of rclone as one short line without a secret."""
        words = " ".join("".join(c if c.isprintable() else " " for c in said).split())
        for secret in self.secrets:
            words = words.replace(secret, "…")
        return words if len(words) <= _LONGEST_SAID else f"{words[:_LONGEST_SAID]}…"

    def unavailable(self, what: str, doing: str, key: str = "") -> ProviderUnavailable:
        """The error for what says nothing about the provider's content."""
        error = ProviderUnavailable(f"provider {self.provider}: {what} (while {doing})", provider=self.provider)
        if key:
            error.context["key"] = key
        return error

    def config(self, what: str, option: str) -> ConfigInvalid:
        """The error for options that cannot work."""
        return ConfigInvalid(f"provider {self.provider}: {what}", provider=self.provider, option=option)

"""Tokens from credentials, by Google's library. Credentials pass through here and nowhere else."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import re
import ssl
from pathlib import Path
from typing import Any, Final

import google.auth
import requests
from google.auth import exceptions
from google.auth.transport.requests import Request
from google.oauth2.credentials import Credentials as UserCredentials
from google.oauth2.service_account import Credentials as ServiceAccountCredentials

from cdir.errors import CdirError, ConfigInvalid, ProviderUnavailable, Unauthenticated
from cdir_adapters.providers.gcs.settings import GcsSettings, account_of

__all__ = ["SignIn", "Token"]

_SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.read_write",)
_TIMEOUT: Final = 30.0
"""Seconds for one request for a token."""
_MAX_FILE: Final = 64 * 1024
_DOING: Final = "signing in"


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """What requests carry; told apart by identity, since a service may give one text twice."""

    text: str = dataclasses.field(repr=False)
    """Empty: requests go without."""


class SignIn:
    """Holds one token for all requests of a provider. However many find that it has ended, one asks for another.

    The library blocks, so all of it runs in threads.
    """

    def __init__(self, settings: GcsSettings, provider: str) -> None:
        self._settings = settings
        self._provider = provider
        self._credentials: Any = None
        self._project: str | None = None
        self._session: requests.Session | None = None
        self._token: Token | None = Token("") if settings.anonymous else None
        self._signing_in = asyncio.Lock()

    async def token(self) -> Token:
        """Return a token, asking for one when there is none or its time is nearly over."""
        token = self._valid()
        return token if token is not None else await self.renewed(None)

    async def renewed(self, refused: Token | None) -> Token:
        """Return another token than ``refused``, which the service does not accept any more.

        Raises Unauthenticated, ConfigInvalid or ProviderUnavailable.
        """
        async with self._signing_in:
            token = self._valid()
            if token is None or (token is refused and not self._settings.anonymous):
                token = self._token = Token(await asyncio.to_thread(self._ask))
            return token

    async def project(self) -> str | None:
        """The project of the options, else that of the credentials."""
        if self._settings.project is None:
            await self.token()
        return self._settings.project or self._project

    async def aclose(self) -> None:
        """Close what was opened. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await asyncio.to_thread(session.close)

    def _valid(self) -> Token | None:
        """Return the token when, as far as known, its time is not over."""
        return self._token if self._settings.anonymous or (self._credentials and self._credentials.valid) else None

    def _ask(self) -> str:
        try:
            if self._credentials is None:
                self._credentials, self._project = self._load()
            if self._session is None:
                self._require_certificates()
                self._session = requests.Session()
                # credentials go to nobody but the address that they name
                self._session.max_redirects = 0
                # else what .netrc says of the address would be sent there too
                self._session.auth = lambda request: request
            # told with each request: what the environment names would count for more than what the session is told
            request = functools.partial(Request(self._session), timeout=_TIMEOUT, verify=self._settings.ca_file)
            self._credentials.refresh(request)
        except exceptions.TransportError as error:
            if isinstance(error.__cause__, requests.TooManyRedirects):
                raise self._error(ConfigInvalid, "the address for tokens sends requests elsewhere") from None
            if isinstance(error.__cause__, requests.exceptions.SSLError):
                raise self._error(
                    ConfigInvalid,
                    "the certificate of the address for tokens is not trusted; set ca_file if it is your own",
                ) from None
            raise self._error(ProviderUnavailable, "the address for tokens cannot be reached") from None
        except exceptions.RefreshError as error:
            if error.retryable:
                raise self._error(ProviderUnavailable, "the address for tokens gives none at the moment") from None
            # the rest of its text is whatever was answered
            code = re.match(r"[a-z_]{1,40}(?=:|$)", str(error.args[0] if error.args else ""))
            said = f" ({code[0]})" if code else ""
            # a signed assertion is good for an hour only
            clock = " and this machine's clock" if code and code[0] == "invalid_grant" else ""
            raise self._error(Unauthenticated, f"the credentials are not accepted{said}; check them{clock}") from None
        except exceptions.DefaultCredentialsError:
            raise self._error(
                ConfigInvalid, "this machine has no Google credentials of its own; give credentials"
            ) from None
        except (exceptions.GoogleAuthError, ValueError, TypeError):
            # a key that cannot be read, or an answer that cannot
            raise self._error(ConfigInvalid, "the credentials cannot be used; check them") from None
        token: str = self._credentials.token
        return token

    def _require_certificates(self) -> None:
        ca_file = self._settings.ca_file
        if ca_file is not None:
            try:
                ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise self._error(
                    ConfigInvalid, f"ca_file {ca_file} cannot be read ({error.strerror or 'no certificates'})"
                ) from None

    def _load(self) -> tuple[Any, str | None]:
        given = self._settings.credentials
        if given is None:
            return google.auth.default(scopes=_SCOPES)
        if not given.startswith("{"):
            try:
                with Path(given).open() as file:
                    given = file.read(_MAX_FILE)
            except (OSError, UnicodeDecodeError) as error:
                said = error.strerror if isinstance(error, OSError) else "it is no text"
                raise self._error(ConfigInvalid, f"the file of credentials cannot be read: {said}") from None
        account = account_of(given)
        if account["type"] == "authorized_user":
            return UserCredentials.from_authorized_user_info(account, scopes=_SCOPES), account.get("quota_project_id")
        return ServiceAccountCredentials.from_service_account_info(account, scopes=_SCOPES), account.get("project_id")

    def _error(self, kind: type[CdirError], what: str) -> CdirError:
        return kind(f"provider {self._provider}: {what} (while {_DOING})", provider=self._provider)

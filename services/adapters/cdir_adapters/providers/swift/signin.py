"""Signing in: from credentials to a token and the URL of the account. It passes through here and nowhere else."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from cdir.errors import CdirError, ConfigInvalid
from cdir_adapters.providers.swift.faults import SIGNING_IN, Faults, fault_of_answer
from cdir_adapters.providers.swift.settings import SwiftSettings
from cdir_adapters.proxies import proxy_for

__all__ = ["Account", "SignIn"]

_MAX_ANSWER: Final = 4 * 1024 * 1024
"""Bytes of the answer of a sign-in; a catalog of many regions takes a few hundred kilobytes."""
_RENEW_BEFORE: Final = 60.0
"""Seconds before the end of a token's time at which another one is asked for; a refused one is renewed anyway."""


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """What a sign-in gives."""

    url: str
    """Without a slash at the end."""
    token: str = dataclasses.field(repr=False)
    ends: float | None = None
    """When the token ends, in the event loop's time; ``None`` when nobody said."""


class SignIn:
    """Holds one token for all requests of a provider. However many find that it has ended, one signs in again."""

    def __init__(
        self, settings: SwiftSettings, faults: Faults, http: Callable[[], Awaitable[aiohttp.ClientSession]]
    ) -> None:
        self._settings = settings
        self._faults = faults
        self._http = http
        self._account: Account | None = None
        self._signing_in = asyncio.Lock()

    async def account(self) -> Account:
        """Return an account, signing in when there is none yet or its time is over."""
        account = self._valid()
        return account if account is not None else await self.renewed(None)

    async def renewed(self, refused: Account | None) -> Account:
        """Return another account than ``refused``, whose token the service does not accept any more."""
        async with self._signing_in:
            account = self._valid()
            if account is None or account is refused:
                account = self._account = await self._sign_in()
            return account

    def _valid(self) -> Account | None:
        """Return the account whose token is, as far as known, valid."""
        account = self._account
        if account is None or (account.ends is not None and asyncio.get_running_loop().time() >= account.ends):
            return None
        return account

    async def _sign_in(self) -> Account:
        account = await (self._first_version() if self._settings.auth_version == 1 else self._third_version())
        url = self._settings.storage_url or account.url.rstrip("/")
        if self._settings.storage_url is None:
            self._require_safe(url)
        return dataclasses.replace(account, url=url)

    def _require_safe(self, url: str) -> None:
        """A token that was got over TLS does not travel in the clear because a service tells a wrong URL."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https"} and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise self._wrong("the sign-in gives no URL of the account; set storage_url")
        if parts.scheme == "http" and self._settings.auth_url.startswith("https:"):
            raise self._wrong(f"the sign-in is encrypted, but gives the account's URL as {url}; set storage_url")

    def _wrong(self, what: str) -> CdirError:
        provider = self._faults.provider
        return ConfigInvalid(f"provider {provider}: {what} (while {SIGNING_IN})", provider=provider)

    async def _first_version(self) -> Account:
        """A GET with two headers, answered by headers."""
        settings = self._settings
        headers = {"X-Auth-User": settings.user or "", "X-Auth-Key": settings.key or ""}
        answered, _ = await self._ask("GET", settings.auth_url, headers=headers)
        token = answered.get("X-Auth-Token") or answered.get("X-Storage-Token")
        if not token:
            raise self._wrong(f"{settings.auth_url} answers without a token; check auth_url and auth_version")
        valid = answered.get("X-Auth-Token-Expires", "")
        return Account(answered.get("X-Storage-Url", ""), token, _ends(float(valid)) if valid.isdecimal() else None)

    async def _third_version(self) -> Account:
        """Keystone: a POST with JSON, answered by the token in a header and a catalog of services."""
        url = f"{self._settings.auth_url}/auth/tokens"
        request = json.dumps({"auth": self._identity()}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        answered, body = await self._ask("POST", url, headers=headers, data=request)
        token = answered.get("X-Subject-Token")
        try:
            described = json.loads(body)["token"]
            catalog = described.get("catalog", [])
            ends = str(described.get("expires_at") or "")
            endpoint = self._endpoint(catalog) if self._settings.storage_url is None else ""
        except (ValueError, KeyError, TypeError, AttributeError):
            token = None
        if not token:
            raise self._wrong(f"{url} answers without a token; check auth_url and auth_version")
        return Account(endpoint, token, _ends(_seconds_until(ends)))

    def _identity(self) -> dict[str, Any]:
        settings = self._settings
        if settings.application_credential_id:
            # such a credential is bound to its project; a scope beside it is refused
            credential = {
                "id": settings.application_credential_id,
                "secret": settings.application_credential_secret,
            }
            return {"identity": {"methods": ["application_credential"], "application_credential": credential}}
        user = {"name": settings.user, "domain": {"name": settings.user_domain}, "password": settings.key}
        project: dict[str, Any] = {"name": settings.project, "domain": {"name": settings.project_domain}}
        if settings.project_id:
            project = {"id": settings.project_id}
        return {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": project},
        }

    def _endpoint(self, catalog: list[dict[str, Any]]) -> str:
        """Find the account's URL in a catalog. Raises ConfigInvalid, naming what there is."""
        found = [
            endpoint
            for service in catalog
            if service.get("type") == "object-store"
            for endpoint in service["endpoints"]
            if endpoint.get("interface") == self._settings.interface
        ]
        regions = {str(endpoint.get("region_id") or endpoint.get("region")): str(endpoint["url"]) for endpoint in found}
        region = self._settings.region
        if not regions:
            raise self._wrong(f"the catalog names no {self._settings.interface} object store for this project")
        if region is None and len(regions) > 1:
            raise self._wrong(f"there are several regions; set region to one of {', '.join(sorted(regions))}")
        if region is not None and region not in regions:
            raise self._wrong(f"there is no region {region}; set region to one of {', '.join(sorted(regions))}")
        return regions[region] if region is not None else next(iter(regions.values()))

    async def _ask(
        self, method: str, url: str, *, headers: Mapping[str, str], data: bytes | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        """Send the credentials, to nobody but ``url``: a redirect is an error."""
        with self._faults.translated(SIGNING_IN):
            http = await self._http()
            async with http.request(
                method, url, headers=headers, data=data, allow_redirects=False, proxy=proxy_for(URL(url))
            ) as answer:
                if answer.status not in {200, 201, 204}:
                    fault = await fault_of_answer(answer, self._settings.secrets)
                    raise self._faults.error(fault, SIGNING_IN)
                body = bytearray()
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > _MAX_ANSWER:
                        answer.close()
                        raise self._faults.broken("the answer is too long", SIGNING_IN)
                return answer.headers, bytes(body)


def _ends(seconds: float | None) -> float | None:
    """Return when a token is to be renewed that is valid so long; ``None`` when that is no guide to it."""
    if seconds is None or seconds <= 2 * _RENEW_BEFORE:
        return None
    return asyncio.get_running_loop().time() + seconds - _RENEW_BEFORE


def _seconds_until(moment: str) -> float | None:
    try:
        ends = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return (ends.replace(tzinfo=ends.tzinfo or UTC) - datetime.now(UTC)).total_seconds()

"""A sign-in of version 3, as Keystone documents it, whose tokens a real Swift cluster takes.

Keystone itself takes half a minute to install and ten seconds to begin, so this is a small server of the tests' own. It
insists on requests of exactly the documented form, gives tokens that it got from the cluster's own sign-in, and names
the cluster in its catalog. It runs in the event loop of the test.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from servers.swift_cluster import SwiftCluster

__all__ = ["KeystoneV3", "keystone_v3"]

_PROJECTS: list[dict[str, Any]] = [
    {"name": "research", "domain": {"name": "Science"}},
    {"id": "5f4dcc3b5aa765d61d8327deb882cf99"},
]


class KeystoneV3:
    """A running server."""

    user = "ada"
    user_domain = "Staff"
    password = "s3cr3t-of-ada"
    project = "research"
    project_domain = "Science"
    project_id = "5f4dcc3b5aa765d61d8327deb882cf99"
    credential_id = "aa809205ed614a0e854bac92c0768bb9"
    credential_secret = "s3cr3t-of-the-credential"

    def __init__(self, cluster: SwiftCluster) -> None:
        self.cluster = cluster
        self.signed_in = 0
        """How often somebody was given a token."""
        self.valid = timedelta(hours=1)
        """How long tokens are said to be valid."""
        self.regions = {"north": cluster.storage_url}
        """The cluster under the names of its regions."""
        self.answer: str | None = None
        """The body to answer with instead of the right one."""
        self.port = 0

    @property
    def auth_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v3"

    async def handle(self, request: web.Request) -> web.Response:
        """``POST /v3/auth/tokens``."""
        try:
            auth = json.loads(await request.read())["auth"]
            known = self._knows(auth)
        except (ValueError, KeyError, TypeError):
            return _refusal(400, "Bad Request", "Expecting to find valid JSON of an identity.")
        if not known:
            return _refusal(401, "Unauthorized", "The request you have made requires authentication.")
        self.signed_in += 1
        body = json.dumps({"token": self._token()}) if self.answer is None else self.answer
        headers = {"X-Subject-Token": await self.cluster.token(), "Vary": "X-Auth-Token"}
        return web.Response(status=201, text=body, headers=headers, content_type="application/json")

    def _knows(self, auth: dict[str, Any]) -> bool:
        identity = auth["identity"]
        if identity["methods"] == ["application_credential"]:
            credential = {"id": self.credential_id, "secret": self.credential_secret}
            # such a credential is bound to a project and must not ask for one
            return set(auth) == {"identity"} and identity["application_credential"] == credential
        if identity["methods"] != ["password"]:
            return False
        user = {"name": self.user, "domain": {"name": self.user_domain}, "password": self.password}
        return identity["password"]["user"] == user and auth["scope"]["project"] in _PROJECTS

    def _token(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        endpoints = [
            {
                "id": f"{interface}-{region}",
                "interface": interface,
                "region": region,
                "region_id": region,
                "url": url if interface == "public" else "http://127.0.0.1:9/internal",
            }
            for region, url in self.regions.items()
            for interface in ("admin", "internal", "public")
        ]
        identity = {"id": "1", "name": "keystone", "type": "identity", "endpoints": []}
        store = {"id": "2", "name": "swift", "type": "object-store", "endpoints": endpoints}
        return {
            "methods": ["password"],
            "issued_at": f"{now:%Y-%m-%dT%H:%M:%S}.000000Z",
            "expires_at": f"{now + self.valid:%Y-%m-%dT%H:%M:%S}.000000Z",
            "catalog": [identity, store],
        }


def _refusal(status: int, title: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": status, "message": message, "title": title}}, status=status)


@asynccontextmanager
async def keystone_v3(cluster: SwiftCluster) -> AsyncIterator[KeystoneV3]:
    """Start the server on a free loopback port."""
    keystone = KeystoneV3(cluster)
    application = web.Application()
    application.router.add_post("/v3/auth/tokens", keystone.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        keystone.port = runner.addresses[0][1]
        yield keystone
    finally:
        await runner.cleanup()

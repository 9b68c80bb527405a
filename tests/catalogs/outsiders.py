"""The model of gateway, worker and providers, with others at work behind cdir's back, and listings that may lie."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from catalogs.driver import sha256
from catalogs.scanner import listed, scan
from catalogs.world import World
from cdir.v1 import catalog_service_pb2 as catalog
from cdir.v1 import entry_pb2, scan_pb2

__all__ = ["Outsiders"]

_OK = entry_pb2.REPLICA_STATE_OK
_MISSING = entry_pb2.REPLICA_STATE_MISSING
_CORRUPT = entry_pb2.REPLICA_STATE_CORRUPT
_UNKNOWN = entry_pb2.REPLICA_STATE_UNKNOWN


@dataclass
class Outsiders(World):
    """Objects are tokens: the version id of what cdir wrote, a name of its own for what others put there."""

    sizes: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    """Which bytes a version turned out to be that others had made, by version id."""
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def edit(self, provider: str, key: str, *, size: int, age: int) -> None:
        """Somebody puts other bytes at a key; ``age`` in seconds says how much older than anything they are."""
        token = f"outside {next(self.numbers)}"
        self.sizes[token] = size
        self.modified[token] = max(1, 1000 + len(self.sizes) - age)
        self.objects[self.driver.providers[provider]][key] = token

    def listing(self, provider: str) -> dict[str, str]:
        """Return what lies at a provider at this moment under the names of files."""
        there = self.objects[self.driver.providers[provider]]
        return {key: token for key, token in there.items() if not key.startswith(".cdir/")}

    async def scan(self, provider: str, shown: Mapping[str, str]) -> None:
        """Scan a provider that shows ``shown``, true or not."""
        if self.driver.providers[provider] in self.down:
            return
        objects = [
            listed(key, self.sizes.get(token, 1), self.modified.get(token, 1), f'"{token}"')
            for key, token in shown.items()
        ]
        await scan(self.driver, provider, *objects)

    def _is(self, version: entry_pb2.Version, token: str | None) -> bool:
        """Say whether bytes pass for a version: by its digest where that is known, else by its size."""
        if token is None:
            return False
        if version.version_id in self.tokens:
            return self.tokens[version.version_id] == token
        if version.sha256:
            return version.version_id == token
        return self.sizes.get(token, 1) == version.size

    async def _learn(self, version: entry_pb2.Version, provider: str, key: str, token: str) -> None:
        if version.sha256:
            return
        self.tokens.setdefault(version.version_id, token)
        learnt = scan_pb2.LearntVersion(
            version_id=version.version_id,
            provider_id=provider,
            key=key,
            size=version.size,
            sha256=sha256(token.encode()),
        )
        await self.driver.call("LearnVersions", scan_pb2.LearnVersionsRequest(learnt=[learnt]))

    async def _do(self, item: catalog.DebtItem) -> entry_pb2.ReplicaState.ValueType | None:
        provider, key, version = item.replica.provider_id, item.replica.key, item.version
        there = self.objects[provider]
        if provider in self.down or item.kind == catalog.DEBT_KIND_REMOVE:
            return await super()._do(item)
        if item.occupant.version_id and self._move(provider, item.target_key, item.occupant.aside_key):
            await self._report_rename(item.occupant, provider, item.target_key)
        if item.kind == catalog.DEBT_KIND_COPY:
            for source in item.sources:
                for place in [source.key, *source.alternate_keys]:
                    token = self.objects[source.provider_id].get(place)
                    if token is not None and self._is(version, token) and source.provider_id not in self.down:
                        await self._learn(version, source.provider_id, place, token)
                        there[item.target_key] = token
                        return None
            return _UNKNOWN
        if item.kind == catalog.DEBT_KIND_RELOCATE:
            if self._move(provider, key, item.target_key) or item.target_key in there:
                return None
            lost = catalog.ReplicaObservation(
                version_id=version.version_id, provider_id=provider, key=key, state=_MISSING
            )
            await self.driver.record(lost)
            return _UNKNOWN
        token = there.get(key)
        if token is None:
            return _MISSING
        if not self._is(version, token):
            return _CORRUPT
        await self._learn(version, provider, key, token)
        return None

    def present(self) -> set[str]:
        """Return the bytes that lie anywhere."""
        return {token for there in self.objects.values() for token in there.values()}

    async def check_reachable(self, acknowledged: Mapping[str, str]) -> None:
        """What was acknowledged and lies somewhere is what a version of its path is said to be, at some place."""
        present = self.present()
        for token, path in acknowledged.items():
            if token not in present:
                continue
            held: set[str] = set()
            for version in await self.driver.versions(path):
                resolved = await self.driver.resolve(path, generation=version.generation)
                for replica in resolved.replicas:
                    for key in [replica.key, *replica.alternate_keys]:
                        held.add(self.objects[replica.provider_id].get(key, ""))
            assert token in held, (token, path, held)

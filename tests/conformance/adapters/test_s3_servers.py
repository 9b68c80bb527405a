"""The kind ``s3`` on the S3 faces of what people run themselves: OpenStack Swift's, and Ceph's."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import aiobotocore.config
import aiobotocore.session
import pytest
import pytest_asyncio

from cdir_adapters.adapter import Adapter
from cdir_adapters.capability import Capability
from cdir_adapters.layers.narrow import NarrowAdapter
from cdir_adapters.layers.retry import RetryAdapter, RetrySettings
from cdir_adapters.probe import probe
from cdir_adapters.providers.s3 import S3Adapter
from cdir_adapters.testing.conformance import CASES, AdapterConformance
from servers import ceph, swift_cluster
from servers.ceph import CephServer, ceph_server
from servers.requirement import require
from servers.swift_cluster import SwiftCluster

Options = Mapping[str, str | int | bool]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swift() -> AsyncIterator[SwiftCluster]:
    require(swift_cluster)
    async with swift_cluster.swift_cluster() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rgw() -> AsyncIterator[CephServer]:
    require(ceph)
    async with ceph_server() as server:
        yield server


class ServerConformance(AdapterConformance):
    """Objects go around the adapter by another client. The adapter is held to what its probe has found, as a provider
    that is added is."""

    left_out: ClassVar[frozenset[str]] = frozenset()
    """Cases that fail by a fault of the server itself."""
    found: ClassVar[Capability | None] = None
    client: Any
    bucket: str

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        assert self.left_out <= {case.name for case in CASES}
        chosen = [case for case in CASES if case.name not in self.left_out]
        metafunc.parametrize("case", chosen, ids=[case.name for case in chosen])

    async def open(self, options: Options) -> AsyncIterator[Adapter]:
        self.bucket = str(options["bucket"])
        config = aiobotocore.config.AioConfig(signature_version="s3v4", s3={"addressing_style": "path"})
        session = aiobotocore.session.AioSession()
        creating = session.create_client(
            "s3",
            endpoint_url=options["endpoint"],
            region_name="us-east-1",
            aws_access_key_id=options["access_key"],
            aws_secret_access_key=options["secret_key"],
            config=config,
        )
        async with creating as self.client, S3Adapter("store", options) as adapter:
            await adapter.prepare()
            if self.found is None:
                type(self).found = await probe(adapter)
            assert self.found is not None
            yield RetryAdapter(NarrowAdapter(adapter, self.found), RetrySettings(attempts=8, budget=60.0))

    async def raw_put(self, key: str, data: bytes) -> None:
        await self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    async def raw_open(self, key: str) -> None:
        await self.client.put_object_acl(Bucket=self.bucket, Key=key, ACL="public-read")

    async def raw_get(self, key: str) -> bytes | None:
        try:
            answer = await self.client.get_object(Bucket=self.bucket, Key=key)
        except self.client.exceptions.NoSuchKey:
            return None
        async with answer["Body"] as body:
            data: bytes = await body.read()
            return data


@pytest.mark.slow
class TestSwift(ServerConformance):
    """Swift's own middleware ``s3api``."""

    @pytest.fixture
    async def adapter(self, swift: SwiftCluster) -> AsyncIterator[Adapter]:
        async for adapter in self.open(swift.s3_options(f"cdir-{uuid.uuid4().hex}")):
            yield adapter


@pytest.mark.slow
class TestCeph(ServerConformance):
    """Ceph's gateway."""

    @pytest.fixture
    async def adapter(self, rgw: CephServer) -> AsyncIterator[Adapter]:
        async for adapter in self.open(rgw.options(f"cdir-{uuid.uuid4().hex}")):
            yield adapter

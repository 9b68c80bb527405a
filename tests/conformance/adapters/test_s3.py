import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import aiobotocore.config
import aiobotocore.session
import pytest
import pytest_asyncio
from servers import moto_s3, rclone_s3
from servers.faulty_proxy import FaultyProxy, faulty_proxy
from servers.moto_s3 import MotoS3Server, moto_s3_server
from servers.process import free_port
from servers.rclone_s3 import RcloneS3Server, rclone_s3_server
from servers.requirement import require

from cdir.errors import (
    AlreadyExists,
    CdirError,
    ConfigInvalid,
    NotFound,
    PreconditionFailed,
    ProviderUnavailable,
    Retry,
    Unauthenticated,
)
from cdir_adapters.adapter import ByteRange, WriteMode
from cdir_adapters.capability import ChecksumKind
from cdir_adapters.providers.s3 import S3Adapter
from cdir_adapters.testing.conformance import AdapterConformance
from cdir_adapters.testing.trial import CASES, MIB, MODIFIED, pattern, stalling, stream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rclone() -> AsyncIterator[RcloneS3Server]:
    require(rclone_s3)
    async with rclone_s3_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def moto() -> AsyncIterator[MotoS3Server]:
    require(moto_s3)
    async with moto_s3_server() as server:
        yield server


@pytest.fixture
def bucket() -> str:
    return f"cdir-{uuid.uuid4().hex}"


@asynccontextmanager
async def raw_client(server: RcloneS3Server | MotoS3Server) -> AsyncIterator[Any]:
    """A client that does not go through the adapter."""
    config = aiobotocore.config.AioConfig(signature_version="s3v4", s3={"addressing_style": "path"})
    async with aiobotocore.session.get_session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=config,
    ) as client:
        yield client


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., S3Adapter]]:
    """Opens adapters that are closed in the end."""
    async with AsyncExitStack() as stack:

        def open_adapter(options: Mapping[str, str | int | bool], **changes: str | int | bool) -> S3Adapter:
            adapter = S3Adapter("store", {**options, **changes})
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield open_adapter


class S3Conformance(AdapterConformance):
    """Objects go around the adapter by another client, since a file server's own cache must see them too."""

    root = ""
    left_out: frozenset[str] = frozenset()
    """Cases that fail by a fault of the server itself."""
    client: Any
    bucket: str

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        assert self.left_out <= {case.name for case in CASES}
        chosen = [case for case in CASES if case.name not in self.left_out]
        metafunc.parametrize("case", chosen, ids=[case.name for case in chosen])

    async def raw_put(self, key: str, data: bytes) -> None:
        await self.client.put_object(Bucket=self.bucket, Key=self.root + key, Body=data)

    async def raw_get(self, key: str) -> bytes | None:
        try:
            answer = await self.client.get_object(Bucket=self.bucket, Key=self.root + key)
        except self.client.exceptions.NoSuchKey:
            return None
        async with answer["Body"] as body:
            data: bytes = await body.read()
            return data


class TestRclone(S3Conformance):
    """A server over files that ignores conditions and answers ranges with status 200.

    Left out: an object below another one cannot be a file, and deleting such a name deletes the object above; a folder
    that vanishes with its last object makes a put into it fail with status 500.
    """

    many = 1100
    left_out = frozenset({"below_file_is_missing", "list_in_order", "write_and_delete_concurrently"})

    @pytest.fixture
    async def adapter(self, rclone: RcloneS3Server, bucket: str) -> AsyncIterator[S3Adapter]:
        self.bucket = bucket
        async with raw_client(rclone) as self.client, S3Adapter("store", rclone.options(bucket)) as adapter:
            # what the probe finds when such a provider is added
            adapter.capability = dataclasses.replace(
                adapter.capability, write_if_absent=False, write_if_match=False, read_if_match=False
            )
            await adapter.prepare()
            yield adapter


class TestMoto(S3Conformance):
    """A server close to Amazon's, with the provider's root below a prefix.

    Left out: writers of one key at the same time get status 500 now and then.
    """

    root = "our/share/"
    left_out = frozenset({"write_same_key_concurrently"})
    options: Mapping[str, str] = {}

    @pytest.fixture
    async def adapter(self, moto: MotoS3Server, bucket: str) -> AsyncIterator[S3Adapter]:
        self.bucket = bucket
        options = {**moto.options(bucket), "prefix": "our/share", **self.options}
        async with raw_client(moto) as self.client, S3Adapter("store", options) as adapter:
            await adapter.prepare()
            yield adapter


class TestMotoSignatureV2(TestMoto):
    """The same calls over the library that still signs the old way."""

    options = {"signature": "v2"}

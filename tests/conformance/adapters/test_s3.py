import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
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
from cdir_adapters.testing.trial import MIB, MODIFIED, pattern, stalling, stream


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


@pytest_asyncio.fixture
async def boto(moto: MotoS3Server) -> AsyncIterator[Any]:
    """A client of moto that does not go through the adapter."""
    config = aiobotocore.config.AioConfig(signature_version="s3v4", s3={"addressing_style": "path"})
    async with aiobotocore.session.get_session().create_client(
        "s3",
        endpoint_url=moto.endpoint,
        region_name="us-east-1",
        aws_access_key_id=moto.access_key,
        aws_secret_access_key=moto.secret_key,
        config=config,
    ) as client:
        yield client


@pytest_asyncio.fixture
async def opened() -> AsyncIterator[Callable[..., S3Adapter]]:
    """Opens adapters that are closed in the end."""
    async with AsyncExitStack() as stack:

        def open_adapter(options: Any, **changes: Any) -> S3Adapter:
            adapter = S3Adapter("store", {**options, **changes})
            stack.push_async_callback(adapter.aclose)
            return adapter

        yield open_adapter


class TestRclone(AdapterConformance):
    """A server that ignores conditions and answers ranges with status 200."""

    many = 1100

    @pytest.fixture
    async def adapter(self, rclone: RcloneS3Server, bucket: str) -> AsyncIterator[S3Adapter]:
        self.root = rclone.root / bucket
        async with S3Adapter("store", rclone.options(bucket)) as adapter:
            # what the probe finds when such a provider is added
            adapter.capability = dataclasses.replace(
                adapter.capability, write_if_absent=False, write_if_match=False, read_if_match=False
            )
            await adapter.prepare()
            yield adapter

    async def raw_put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    async def raw_get(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


class TestMoto(AdapterConformance):
    """A server close to Amazon's, with the provider's root below a prefix."""

    prefix = "conformance"
    options: dict[str, str] = {}

    @pytest.fixture
    async def adapter(self, moto: MotoS3Server, bucket: str, boto: Any) -> AsyncIterator[S3Adapter]:
        self.boto, self.bucket = boto, bucket
        options = {**moto.options(bucket), "prefix": "our/share", **self.options}
        async with S3Adapter("store", options) as adapter:
            await adapter.prepare()
            yield adapter

    async def raw_put(self, key: str, data: bytes) -> None:
        await self.boto.put_object(Bucket=self.bucket, Key=f"our/share/{key}", Body=data)

    async def raw_get(self, key: str) -> bytes | None:
        try:
            answer = await self.boto.get_object(Bucket=self.bucket, Key=f"our/share/{key}")
        except self.boto.exceptions.NoSuchKey:
            return None
        async with answer["Body"] as body:
            data: bytes = await body.read()
            return data


class TestMotoSignatureV2(TestMoto):
    """The same calls over the library that still signs the old way."""

    options = {"signature": "v2"}

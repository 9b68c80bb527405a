"""Access control lists of S3: what is sent, what is read back, and what happens where a bucket refuses them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiobotocore.session
import pytest
import pytest_asyncio

from cdir.errors import PermissionDenied, Unsupported
from cdir.v1 import entry_pb2
from cdir_adapters.acl import Access, Acl, Grant, Right, message_of_acl
from cdir_adapters.controlling import apply_acl
from cdir_adapters.probe import probe
from cdir_adapters.providers.s3 import S3Adapter
from cdir_adapters.testing.trial import MIB, MODIFIED, pattern, stream
from servers import moto_s3
from servers.faulty_http import Answer, FaultyHttp, Request, faulty_http
from servers.moto_s3 import MotoS3Server, moto_s3_server
from servers.requirement import require

EVERYONE = "http://acs.amazonaws.com/groups/global/AllUsers"
LOGS = "http://acs.amazonaws.com/groups/s3/LogDelivery"
SOMEBODY = "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def moto() -> AsyncIterator[MotoS3Server]:
    require(moto_s3)
    async with moto_s3_server() as server:
        yield server


@pytest.fixture
async def line(moto: MotoS3Server) -> AsyncIterator[FaultyHttp]:
    async with faulty_http(moto.port) as running:
        yield running


@pytest.fixture
async def adapter(moto: MotoS3Server, line: FaultyHttp) -> AsyncIterator[S3Adapter]:
    options = {**moto.options(f"cdir-{uuid.uuid4().hex}"), "endpoint": line.endpoint}
    async with S3Adapter("store", options) as opened:
        await opened.prepare()
        yield opened


@pytest.fixture
async def listed(moto: MotoS3Server, adapter: S3Adapter) -> AsyncIterator[Any]:
    """Looks at an object's list past the adapter: the grantees other than its owner, with what they may."""
    session = aiobotocore.session.AioSession()
    async with session.create_client(
        "s3",
        endpoint_url=moto.endpoint,
        region_name="us-east-1",
        aws_access_key_id=moto.access_key,
        aws_secret_access_key=moto.secret_key,
    ) as client:

        async def look(key: str) -> set[tuple[str, str]]:
            bucket = adapter.info.location.removeprefix("s3://").partition(" ")[0].partition("/")[0]
            answer = await client.get_object_acl(Bucket=bucket, Key=key)
            owner = answer["Owner"]["ID"]
            grants = ((each["Grantee"], each["Permission"]) for each in answer["Grants"])
            return {
                (grantee.get("URI") or grantee.get("ID", ""), permission)
                for grantee, permission in grants
                if grantee.get("ID") != owner
            }

        yield look


async def put(adapter: S3Adapter, data: bytes = b"content", access: Access | None = None) -> Access | None:
    stored = await adapter.write("object", data, size=len(data), modified=MODIFIED, access=access)
    return stored.access


async def test_what_is_stored_with_the_object(adapter: S3Adapter, listed: Any) -> None:
    assert await put(adapter) is None
    assert await listed("object") == set()
    assert await put(adapter, access=Access.PUBLIC_READ) is Access.PUBLIC_READ
    assert await listed("object") == {(EVERYONE, "READ")}
    large = stream(pattern(17 * MIB), 4 * MIB)
    stored = await adapter.write("object", large, size=17 * MIB, modified=MODIFIED, access=Access.PUBLIC_READ)
    assert stored.access is Access.PUBLIC_READ
    assert await listed("object") == {(EVERYONE, "READ")}
    assert await put(adapter, access=Access.PRIVATE) is Access.PRIVATE
    assert await listed("object") == set()


async def test_grants_beside_the_word(adapter: S3Adapter, line: FaultyHttp, listed: Any) -> None:
    """Looked at on their way: of several grantees with one right, the server here remembers the first."""
    await put(adapter)
    sent: dict[str, str] = {}

    async def passing(request: Request) -> Answer:
        sent.update({name.lower(): value for name, value in request.headers.items()})
        return await request.forward()

    line.break_by(passing)
    wanted = Acl(Access.PUBLIC_READ, (Grant(f"group:{LOGS}", Right.READ), Grant(f"user:{SOMEBODY}", Right.FULL)))
    assert await adapter.set_acl("object", wanted) == wanted
    assert sent["x-amz-grant-read"] == f'uri="{EVERYONE}", uri="{LOGS}"'
    owner, _, somebody = sent["x-amz-grant-full-control"].partition(", ")
    assert owner.startswith('id="')
    assert somebody == f'id="{SOMEBODY}"'
    assert "x-amz-acl" not in sent
    assert (await adapter.get_acl("object")).access is Access.PUBLIC_READ
    assert await adapter.set_acl("object", Acl(Access.PRIVATE)) == Acl(Access.PRIVATE)
    assert await listed("object") == set()


async def test_what_is_no_right_on_an_object_is_left_out_and_told(adapter: S3Adapter, listed: Any) -> None:
    await put(adapter)
    wanted = Acl(
        Access.PRIVATE,
        (Grant("group:staff", Right.READ), Grant(f"user:{SOMEBODY}", Right.READ), Grant("user:x", Right.WRITE)),
    )
    outcome = await apply_acl(adapter, "object", message_of_acl(wanted))
    assert outcome.state == entry_pb2.ACL_STATE_NARROWER
    assert "group:staff (read), user:x (write)" in outcome.note
    assert await listed("object") == {(SOMEBODY, "READ")}


async def test_access_changed_outside_is_seen(moto: MotoS3Server, adapter: S3Adapter) -> None:
    await put(adapter, access=Access.PRIVATE)
    bucket = adapter.info.location.removeprefix("s3://").partition(" ")[0].partition("/")[0]
    session = aiobotocore.session.AioSession()
    async with session.create_client(
        "s3",
        endpoint_url=moto.endpoint,
        region_name="us-east-1",
        aws_access_key_id=moto.access_key,
        aws_secret_access_key=moto.secret_key,
    ) as client:
        for access in (Access.PUBLIC_READ, Access.AUTHENTICATED_READ, Access.PRIVATE):
            await client.put_object_acl(Bucket=bucket, Key="object", ACL=str(access))
            assert await adapter.get_acl("object") == Acl(access)
        await client.put_object_acl(Bucket=bucket, Key="object", GrantRead=f'id="{SOMEBODY}"')
    assert await adapter.get_acl("object") == Acl(Access.PRIVATE, (Grant(f"user:{SOMEBODY}", Right.READ),))


def refusing(status: int, code: str, *words: str) -> Any:
    """A bucket that refuses requests which name one of these canned lists, or any list at all."""

    async def fault(request: Request) -> Answer:
        named = next((value for name, value in request.headers.items() if name.lower() == "x-amz-acl"), "")
        asks = request.target.partition("?")[2].startswith("acl")
        if (named and (not words or named in words)) or (asks and not words):
            body = f"<Error><Code>{code}</Code><Message>not here</Message></Error>".encode()
            return Answer(status, {"Content-Type": "application/xml"}, body)
        return await request.forward()

    return fault


async def test_a_bucket_with_lists_turned_off(adapter: S3Adapter, line: FaultyHttp, listed: Any) -> None:
    line.break_by(refusing(400, "AccessControlListNotSupported"))
    found = await probe(adapter)
    assert (found.acl, found.acl_grants, found.write_access) == (False, False, False)
    # turned off after the provider was added: what is written is stored all the same, and nothing is claimed of it
    assert await put(adapter, access=Access.PUBLIC_READ) is None
    large = stream(pattern(17 * MIB), 4 * MIB)
    stored = await adapter.write("large", large, size=17 * MIB, modified=MODIFIED, access=Access.AUTHENTICATED_READ)
    assert stored.access is None
    with pytest.raises(Unsupported, match="turned off"):
        await adapter.set_acl("object", Acl(Access.PUBLIC_READ))
    with pytest.raises(Unsupported, match="turned off"):
        await adapter.get_acl("object")
    outcome = await apply_acl(adapter, "object", message_of_acl(Acl(Access.PUBLIC_READ)))
    assert outcome.state == entry_pb2.ACL_STATE_UNSUPPORTED
    assert "turned off" in outcome.note
    assert await listed("object") == set()


async def test_a_bucket_that_blocks_public_lists(adapter: S3Adapter, line: FaultyHttp, listed: Any) -> None:
    """What is refused leaves nothing wide behind: the object becomes private, and that is told."""
    await put(adapter, access=Access.AUTHENTICATED_READ)
    line.break_by(refusing(403, "AccessDenied", "public-read", "authenticated-read"))
    found = await probe(adapter)
    assert (found.acl, found.write_access) == (True, True)
    with pytest.raises(PermissionDenied):
        await adapter.set_acl("object", Acl(Access.PUBLIC_READ))
    outcome = await apply_acl(adapter, "object", message_of_acl(Acl(Access.PUBLIC_READ)))
    assert outcome.state == entry_pb2.ACL_STATE_NARROWER
    assert "private" in outcome.note
    assert "AccessDenied" in outcome.note
    assert await listed("object") == set()
    assert await put(adapter, access=Access.PUBLIC_READ) is None
    assert await listed("object") == set()

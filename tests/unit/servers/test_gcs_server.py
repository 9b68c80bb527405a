"""The tests' own server of Google Cloud Storage, as Google's client library sees it."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.api_core.exceptions import BadRequest, Conflict, NotFound, PreconditionFailed
from google.auth.exceptions import InvalidOperation
from google.cloud import storage  # type: ignore[import-untyped] # Google types only a part
from google.oauth2.service_account import Credentials

from cdir_adapters.testing.trial import pattern
from servers.gcs import GcsServer, gcs_server
from servers.gcs_store import QUANTUM

Work = Callable[[storage.Bucket], Any]
Run = Callable[[Work], Any]


@pytest.fixture
async def server() -> AsyncIterator[GcsServer]:
    async with gcs_server() as started:
        yield started


@pytest.fixture
def run(server: GcsServer) -> Run:
    """Works with the library, which blocks, in a thread."""

    def work(task: Work) -> Any:
        credentials = Credentials.from_service_account_info(
            json.loads(server.credentials), scopes=["https://www.googleapis.com/auth/devstorage.read_write"]
        )
        with storage.Client(
            project=server.project, credentials=credentials, client_options={"api_endpoint": server.endpoint}
        ) as client:
            bucket = client.bucket("shelf")
            if not bucket.exists():
                client.create_bucket(bucket)
            return task(bucket)

    return lambda task: asyncio.to_thread(work, task)


async def test_small_objects(server: GcsServer, run: Run) -> None:
    data = pattern(1000)

    def work(bucket: storage.Bucket) -> None:
        blob = bucket.blob("folder/ä & b?")
        metadata = {"mtime": "2001-02-03T04:05:07Z"}
        blob.metadata = metadata
        blob.upload_from_string(data, content_type="text/plain", checksum="md5")
        blob.upload_from_string(data, content_type="text/plain", checksum="crc32c")
        found = bucket.get_blob("folder/ä & b?")
        assert (found.size, found.content_type, found.metadata) == (1000, "text/plain", metadata)
        assert found.metageneration == 1
        assert found.generation == blob.generation
        # both are held against the bytes by the library
        for checksum in ("md5", "crc32c"):
            assert found.download_as_bytes(checksum=checksum) == data
        assert found.download_as_bytes(start=10, end=19) == data[10:20]
        found.metadata = {"mtime": None, "other": "x"}
        found.patch()
        found.reload()
        assert (found.metadata, found.metageneration) == ({"other": "x"}, 2)
        found.delete()
        assert bucket.get_blob("folder/ä & b?") is None
        with pytest.raises(NotFound):
            found.delete()

    await run(work)
    assert server.contents("shelf") == {}


async def test_upload_in_chunks(server: GcsServer, run: Run) -> None:
    data = pattern(3 * QUANTUM + 17)

    def work(bucket: storage.Bucket) -> None:
        for size, checksum in ((len(data), "md5"), (None, "crc32c")):
            blob = bucket.blob("large", chunk_size=QUANTUM)
            blob.upload_from_file(io.BytesIO(data), size=size, checksum=checksum)
            assert (blob.size, blob.download_as_bytes(checksum=checksum)) == (len(data), data)
        # of the one whose size is not known: three whole chunks and a rest
        assert [method for method, _ in server.requests].count("PUT") == 4

    await run(work)
    assert server.unfinished() == []


async def test_conditions(run: Run) -> None:
    def work(bucket: storage.Bucket) -> None:
        blob = bucket.blob("one")
        blob.upload_from_string(b"first", if_generation_match=0)
        with pytest.raises(PreconditionFailed):
            bucket.blob("one").upload_from_string(b"second", if_generation_match=0)
        first = blob.generation
        bucket.blob("one").upload_from_string(b"second", if_generation_match=first)
        in_chunks = bucket.blob("one", chunk_size=QUANTUM)
        attempts: tuple[Callable[[], object], ...] = (
            lambda: bucket.blob("one").upload_from_string(b"third", if_generation_match=first),
            lambda: bucket.blob("one").delete(if_generation_match=first),
            lambda: bucket.blob("one").download_as_bytes(if_generation_match=first),
            lambda: in_chunks.upload_from_file(io.BytesIO(b"x"), if_generation_match=first),
        )
        for refused in attempts:
            with pytest.raises(PreconditionFailed):
                refused()
        with pytest.raises(NotFound):
            bucket.blob("one", generation=first).download_as_bytes()
        with pytest.raises(Conflict):
            bucket.client.create_bucket("shelf")
        assert bucket.blob("one").download_as_bytes() == b"second"

    await run(work)


async def test_listing(server: GcsServer, run: Run) -> None:
    server.most_listed = 2
    names = ["a", "a/1", "a/2", "b/1", "b/c/1", "c", "ä", "😀"]
    for name in reversed(names):
        server.put("shelf", name, b"x")

    def work(bucket: storage.Bucket) -> None:
        assert [blob.name for blob in bucket.list_blobs()] == names
        assert [blob.name for blob in bucket.list_blobs(prefix="b/")] == ["b/1", "b/c/1"]
        assert [blob.name for blob in bucket.list_blobs(start_offset="b/c")] == names[4:]
        pages = bucket.list_blobs(delimiter="/")
        assert [blob.name for blob in pages] == ["a", "c", "ä", "😀"]
        assert pages.prefixes == {"a/", "b/"}
        assert [blob.size for blob in bucket.list_blobs(fields="items(name,size),nextPageToken")] == [1] * len(names)

    await run(work)


async def test_rewriting_and_composing(server: GcsServer, run: Run) -> None:
    data = pattern(1000)
    server.most_rewritten = 400
    server.put("shelf", "source", data, metadata={"a": "b"})

    def work(bucket: storage.Bucket) -> None:
        source, target = bucket.blob("source"), bucket.blob("target")
        token, written, size = target.rewrite(source)
        assert (written, size) == (400, 1000)
        while token is not None:
            token, written, size = target.rewrite(source, token=token)
        assert written == 1000
        target = bucket.get_blob("target")
        assert (target.metadata, target.download_as_bytes(checksum="md5")) == ({"a": "b"}, data)
        whole = bucket.blob("whole")
        whole.compose([source, target])
        assert (whole.component_count, whole.md5_hash) == (2, None)
        assert whole.download_as_bytes(checksum="crc32c") == data + data

    await run(work)


async def test_refusals(server: GcsServer, run: Run) -> None:
    def work(bucket: storage.Bucket) -> None:
        blob = bucket.blob("wrong")
        blob.crc32c = "AAAAAA=="
        with pytest.raises(BadRequest, match="calculated"):
            blob.upload_from_string(b"x", checksum=None)
        server.tokens.clear()  # the library asks for another one by itself
        assert bucket.get_blob("wrong") is None
        assert server.signed_in == 2

    await run(work)
    # which the library has no other for
    with pytest.raises(InvalidOperation):
        await asyncio.to_thread(_without_token, server)


def _without_token(server: GcsServer) -> None:
    with storage.Client.create_anonymous_client() as client:
        client._connection.API_BASE_URL = server.endpoint
        client.bucket("shelf").exists()

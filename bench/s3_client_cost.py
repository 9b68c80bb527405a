"""CPU cost of the ways to speak S3: what one small put and get and one mebibyte of a large object take.

Counts the processor time of this process, its threads included and the server's not, against ``rclone serve s3`` on
loopback. The wall clock says little here: client and server share the machine's cores.

    python bench/s3_client_cost.py [--objects N] [--large MIB]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import hashlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiobotocore.config
import aiobotocore.session
import obstore
from obstore.store import S3Store

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from cdir_adapters.adapter import ByteRange
from cdir_adapters.providers.s3.connections import Connections
from cdir_adapters.providers.s3.faults import Faults
from cdir_adapters.providers.s3.settings import S3Settings
from cdir_adapters.providers.s3.wire import BotoWire, Condition, PlainWire, Wire
from servers.rclone_s3 import RcloneS3Server, rclone_s3_server

SMALL = 10 * 1024
IN_FLIGHT = 16
PART = 16 * 1024 * 1024
PARTS_IN_FLIGHT = 3
PIECE = 4 * 1024 * 1024
BLOCKS_IN_FLIGHT = 4
BUCKET = "bench"


async def run_all(jobs: Iterable[Callable[[], Awaitable[object]]], in_flight: int) -> None:
    waiting = iter(jobs)

    async def worker() -> None:
        for job in waiting:
            await job()

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())


def each(
    call: Callable[[int], Awaitable[object]], count: int, in_flight: int = IN_FLIGHT
) -> Callable[[], Awaitable[object]]:
    """What calls ``call`` with every number below ``count``, ``in_flight`` at once."""

    def job(number: int) -> Callable[[], Awaitable[object]]:
        return lambda: call(number)

    return lambda: run_all((job(number) for number in range(count)), in_flight)


async def measure(title: str, unit: str, count: int, run: Callable[[], Awaitable[object]]) -> None:
    before, wall = time.process_time(), time.perf_counter()
    await run()
    cpu, wall = time.process_time() - before, time.perf_counter() - wall
    print(f"{title:38} {cpu / count * 1000:7.3f} ms CPU per {unit:4} {count / wall:8.0f} {unit}s/s")


async def pieces(size: int) -> AsyncIterator[bytes]:
    piece = os.urandom(PIECE)
    for _ in range(size // PIECE):
        yield piece


async def parts(size: int) -> AsyncIterator[bytes]:
    waiting: list[bytes] = []
    async for piece in pieces(size):
        waiting.append(piece)
        if len(waiting) * PIECE == PART:
            yield b"".join(waiting)
            waiting.clear()


async def with_aiobotocore(server: RcloneS3Server, objects: int, large: int) -> None:
    config = aiobotocore.config.AioConfig(
        max_pool_connections=IN_FLIGHT,
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path", "payload_signing_enabled": False},
    )
    data = os.urandom(SMALL)
    async with aiobotocore.session.get_session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=config,
    ) as client:
        await client.create_bucket(Bucket=BUCKET)

        async def put(index: int) -> None:
            answer = await client.put_object(
                Bucket=BUCKET, Key=f"b/{index}", Body=data, Metadata={"mtime": "1700000000.123456"}
            )
            assert answer["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()

        async def get(index: int) -> None:
            answer = await client.get_object(Bucket=BUCKET, Key=f"b/{index}", Range=f"bytes=0-{SMALL - 1}")
            async with answer["Body"] as body:
                assert len(await body.read()) == SMALL

        async def put_large() -> None:
            upload = await client.create_multipart_upload(Bucket=BUCKET, Key="large-b")
            room = asyncio.Semaphore(PARTS_IN_FLIGHT)
            done: list[dict[str, Any]] = []

            async def send(number: int, part: bytes) -> None:
                try:
                    digest = asyncio.to_thread(lambda: hashlib.md5(part, usedforsecurity=False).hexdigest())
                    answer, _ = await asyncio.gather(
                        client.upload_part(
                            Bucket=BUCKET, Key="large-b", UploadId=upload["UploadId"], PartNumber=number, Body=part
                        ),
                        digest,
                    )
                    done.append({"PartNumber": number, "ETag": answer["ETag"]})
                finally:
                    room.release()

            async with asyncio.TaskGroup() as group:
                number = 0
                async for part in parts(large):
                    number += 1
                    await room.acquire()
                    group.create_task(send(number, part))
            await client.complete_multipart_upload(
                Bucket=BUCKET,
                Key="large-b",
                UploadId=upload["UploadId"],
                MultipartUpload={"Parts": sorted(done, key=lambda part: part["PartNumber"])},
            )

        async def get_block(index: int) -> None:
            block = f"bytes={index * PIECE}-{index * PIECE + PIECE - 1}"
            answer = await client.get_object(Bucket=BUCKET, Key="large-b", Range=block)
            async with answer["Body"] as body:
                assert len(await body.read()) == PIECE

        await put(0)
        await measure("aiobotocore, put 10 KiB", "put", objects, each(put, objects))
        await measure("aiobotocore, ranged get 10 KiB", "get", objects, each(get, objects))
        if large:
            await measure("aiobotocore, large put, MD5 per part", "MiB", large >> 20, put_large)
            await measure(
                "aiobotocore, large get", "MiB", large >> 20, each(get_block, large // PIECE, BLOCKS_IN_FLIGHT)
            )


async def with_our_own(server: RcloneS3Server, objects: int, large: int) -> None:
    """As the adapter does it. Reads the large object that aiobotocore put."""
    settings = S3Settings.from_options(server.options(BUCKET))
    connections, faults = Connections(settings), Faults("bench", BUCKET)
    boto = BotoWire(connections, faults, settings)
    wire = PlainWire(connections, faults, settings, boto)
    data = os.urandom(SMALL)

    async def put(index: int) -> None:
        etag = await wire.put(f"c/{index}", data, {"mtime": "1700000000.123456"}, Condition())
        assert str(etag).strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()

    async def get(index: int) -> None:
        _, body = await wire.fetch(f"c/{index}", ByteRange(0, SMALL), None)
        assert len(body) == SMALL

    async def head(index: int) -> None:
        assert (await wire.head(f"c/{index}")).size == SMALL

    async def get_block(index: int) -> None:
        _, body = await wire.fetch("large-b", ByteRange(index * PIECE, PIECE), None)
        assert len(body) == PIECE

    async def list_all(lister: Wire) -> None:
        await lister.list({"prefix": "c/", "max-keys": "1000"})

    async with contextlib.aclosing(connections):
        await put(0)
        await measure("our own, put 10 KiB", "put", objects, each(put, objects))
        await measure("our own, get 10 KiB", "get", objects, each(get, objects))
        await measure("our own, head", "head", objects, each(head, objects))
        for title, lister in (("our own", wire), ("aiobotocore", boto)):
            await lister.list({"prefix": "nothing"})
            listed = min(1000, objects)
            await measure(f"{title}, list 1000", "key", listed, functools.partial(list_all, lister))
        if large:
            blocks = each(get_block, large // PIECE, BLOCKS_IN_FLIGHT)
            await measure("urllib3 in threads, large get", "MiB", large >> 20, blocks)


async def with_obstore(server: RcloneS3Server, objects: int, large: int) -> None:
    def make(*, unsigned: bool) -> S3Store:
        return S3Store(
            BUCKET,
            endpoint=server.endpoint,
            region="us-east-1",
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
            unsigned_payload=unsigned,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
        )

    data = os.urandom(SMALL)
    attributes = {"mtime": "1700000000.123456"}
    for unsigned in (False, True):
        store = make(unsigned=unsigned)

        async def put(index: int, store: S3Store = store) -> None:
            answer = await obstore.put_async(store, f"o/{index}", data, attributes=attributes, use_multipart=False)
            assert str(answer["e_tag"]).strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()

        async def get(index: int, store: S3Store = store) -> None:
            # not ranged: this server answers ranges with status 200, which the library refuses
            answer = await obstore.get_async(store, f"o/{index}")
            assert len(bytes(await answer.bytes_async())) == SMALL

        async def put_large(store: S3Store = store) -> None:
            await obstore.put_async(
                store, "large-o", pieces(large), use_multipart=True, chunk_size=PART, max_concurrency=PARTS_IN_FLIGHT
            )

        title = f"obstore{', unsigned' if unsigned else ''}"
        await put(0)
        await measure(f"{title}, put 10 KiB", "put", objects, each(put, objects))
        await measure(f"{title}, get 10 KiB", "get", objects, each(get, objects))
        if large:
            await measure(f"{title}, large put, no MD5", "MiB", large >> 20, put_large)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=2000, help="small objects per measurement (default 2000)")
    parser.add_argument("--large", type=int, default=256, metavar="MIB", help="size of the large object (default 256)")
    arguments = parser.parse_args()
    async with rclone_s3_server(dir_cache="5m") as server:
        await with_aiobotocore(server, arguments.objects, arguments.large << 20)
        await with_our_own(server, arguments.objects, arguments.large << 20)
        await with_obstore(server, arguments.objects, arguments.large << 20)


if __name__ == "__main__":
    asyncio.run(main())

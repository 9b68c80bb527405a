"""CPU cost of one small put and get for every kind, beside ``rclone copy`` to the same server.

Counts processor time of the client, its threads and kernel included and the server's not: cdir's adapter with the
layers it has in production, in a process of its own, and rclone's whole process less what it takes to copy nothing.
The wall clock says little here: client and server share the machine's cores.

    PYTHONPATH=tests python bench/kind_cost.py [--objects N] [--kinds KIND,…]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from timing import table

from cdir_adapters.adapter import Adapter, ByteRange
from cdir_adapters.layers import stack
from cdir_adapters.registry import open_adapter
from cdir_adapters.sentinel import Mark, write_mark
from deployments.background import Background
from servers.apache_dav import apache_dav_server
from servers.azurite import azurite_server
from servers.gcs import gcs_server
from servers.openssh import openssh_server
from servers.rclone_s3 import rclone_binary, rclone_s3_server
from servers.swift_cluster import swift_cluster
from servers.vsftpd import vsftpd_server

SIZE = 10 * 1024
IN_FLIGHT = 8
BUCKET = "files"
MODIFIED = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Contender:
    """One server, as cdir and as rclone are told of it."""

    options: Mapping[str, object]
    remote: Mapping[str, object]
    """An rclone remote's settings; empty where rclone has nothing to do with it."""
    folder: str = ""
    """Where in the remote to copy to."""


def contenders(background: Background, scratch: Path, kind: str) -> Contender:
    """Start the server of a kind."""
    remote: dict[str, object]
    match kind:
        case "local":
            return Contender({"root": str(scratch / "disk")}, {"type": "local"}, str(scratch / "other"))
        case "rclone":
            return Contender(
                {"type": "local", "root": str(scratch / "disk")}, {"type": "local"}, str(scratch / "other")
            )
        case "s3":
            s3 = background.enter(rclone_s3_server())
            (s3.root / BUCKET).mkdir()
            keys = {"access_key_id": s3.access_key, "secret_access_key": s3.secret_key}
            remote = {"type": "s3", "provider": "Rclone", "endpoint": s3.endpoint, **keys}
            return Contender(s3.options(BUCKET), remote, f"{BUCKET}/other")
        case "sftp":
            sftp = background.enter(openssh_server())
            remote = {"type": "sftp", "host": sftp.host, "port": sftp.port, "user": sftp.user}
            remote |= {"key_file": str(sftp.key_file)}
            return Contender(sftp.options(), remote, f"{sftp.root}/other")
        case "webdav":
            dav = background.enter(apache_dav_server())
            remote = {"type": "webdav", "url": f"http://127.0.0.1:{dav.port}/dav", "vendor": "other", "user": dav.user}
            remote |= {"pass": _obscured(dav.password)}
            return Contender(dav.options(BUCKET), remote, "other")
        case "ftp":
            ftp = background.enter(vsftpd_server())
            remote = {"type": "ftp", "host": ftp.host, "port": ftp.port, "user": "anonymous", "pass": _obscured("x")}
            return Contender(ftp.options(), remote, "files/other")
        case "swift":
            swift = background.enter(swift_cluster())
            remote = {"type": "swift", "auth": swift.auth_url, "user": swift.user, "key": swift.password}
            return Contender(swift.options(BUCKET), remote, "other")
        case "azure":
            azure = background.enter(azurite_server())
            remote = {"type": "azureblob", "account": azure.account, "key": azure.account_key}
            remote |= {"endpoint": azure.endpoint}
            return Contender(azure.options(BUCKET), remote, "other")
        case "gcs":
            gcs = background.enter(gcs_server())
            # the server wants what the service signs, and rclone signs in only at Google itself
            return Contender(gcs.options(BUCKET), {})
    raise SystemExit(f"there is no kind {kind} here")


def _obscured(password: str) -> str:
    binary = rclone_binary()
    assert binary is not None
    return subprocess.run(
        [binary, "obscure", "-"], input=password, capture_output=True, text=True, check=True
    ).stdout.strip()


async def _all(jobs: list[Callable[[], Awaitable[object]]]) -> float:
    """Do everything, several at a time; return milliseconds of processor time for each."""
    waiting = iter(jobs)

    async def worker() -> None:
        for job in waiting:
            await job()

    begin = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(worker())
    return (time.process_time() - begin) / len(jobs) * 1000


async def measure(kind: str, options: Mapping[str, str], count: int) -> tuple[float, float]:
    """Put and get ``count`` objects; return milliseconds of each."""
    data = random.randbytes(SIZE)
    async with stack(open_adapter(kind, "bench", options)) as adapter:
        await adapter.prepare()
        await write_mark(adapter, Mark.new(home_id="bench", provider_id="bench", name="bench"))
        for warm in range(IN_FLIGHT):
            await _put(adapter, f"warm/{warm}", data)
            await adapter.fetch(f"warm/{warm}", range=ByteRange(0, SIZE))
        keys = [f"small/{number:05}" for number in range(count)]
        put = await _all([functools.partial(_put, adapter, key, data) for key in keys])
        get = await _all([functools.partial(adapter.fetch, key, range=ByteRange(0, SIZE)) for key in keys])
    return put, get


async def _put(adapter: Adapter, key: str, data: bytes) -> None:
    await adapter.write(key, data, size=len(data), modified=MODIFIED)


def rclone_cost(given: Contender, source: Path, scratch: Path, count: int) -> tuple[float, float]:
    """Let rclone copy there and back; return milliseconds of processor time for each file."""
    binary = rclone_binary()
    assert binary is not None
    config = scratch / "rclone.conf"
    config.write_text("[bench]\n" + "".join(f"{name} = {value}\n" for name, value in given.remote.items()))
    empty, back = scratch / "empty", scratch / "back"
    empty.mkdir(exist_ok=True)

    def run(one: str, other: str) -> float:
        command = [binary, "copy", "--config", str(config), "--transfers", str(IN_FLIGHT), one, other]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, errors = b"", process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"rclone failed: {errors.decode(errors='replace')[-500:]}")
        return usage.ru_utime + usage.ru_stime

    there = f"bench:{given.folder}"
    nothing = run(str(empty), f"{there}/nothing")
    put = run(str(source), there) - nothing
    get = run(there, str(back)) - nothing
    shutil.rmtree(back)
    return put / count * 1000, get / count * 1000


def main() -> None:
    """Measure every kind and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=400, help="objects of 10 KiB per kind (default 400)")
    parser.add_argument("--kinds", default="local,s3,swift,azure,gcs,sftp,webdav,ftp,rclone")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(asyncio.run(measure(asked.measure, json.load(sys.stdin), asked.objects))))
        return
    rows = []
    for kind in asked.kinds.split(","):
        scratch = Path(tempfile.mkdtemp(prefix="cdir-"))
        try:
            with Background() as background:
                given = contenders(background, scratch, kind)
                source = scratch / "source"
                source.mkdir()
                for number in range(asked.objects):
                    (source / f"{number:05}").write_bytes(random.randbytes(SIZE))
                ours = subprocess.run(
                    [sys.executable, __file__, "--measure", kind, "--objects", str(asked.objects)],
                    input=json.dumps({name: str(value) for name, value in given.options.items()}),
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if ours.returncode:
                    raise SystemExit(ours.stderr[-2000:])
                put, get = json.loads(ours.stdout)
                row = [kind, f"{put:.2f}", f"{get:.2f}"]
                if given.remote:
                    their_put, their_get = rclone_cost(given, source, scratch, asked.objects)
                    row += [f"{their_put:.2f}", f"{their_get:.2f}", f"{put / their_put:.1f}", f"{get / their_get:.1f}"]
                else:
                    row += ["", "", "", ""]
                rows.append(row)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"Milliseconds of the client's processor time for one object of 10 KiB; {asked.objects} of each.\n")
    print(table(["kind", "cdir put", "cdir get", "rclone put", "rclone get", "put, times", "get, times"], rows))


if __name__ == "__main__":
    main()

"""OpenSSH's own ssh-agent, with the keys that a test gives it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh

from servers.process import START_DEADLINE, accepts_connections, fresh_folder

__all__ = ["missing", "ssh_agent"]


def missing() -> str | None:
    return None if shutil.which("ssh-agent") else "ssh-agent is missing: apt-get install openssh-client"


@asynccontextmanager
async def ssh_agent(keys: Sequence[asyncssh.SSHKey] = ()) -> AsyncIterator[Path]:
    """Start an agent that holds ``keys``; yields the path of its socket, for SSH_AUTH_SOCK."""
    async with fresh_folder() as folder:
        socket = folder / "agent"
        process = await asyncio.create_subprocess_exec(
            "ssh-agent", "-D", "-a", str(socket), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(START_DEADLINE):
                while not await accepts_connections(socket):  # noqa: ASYNC110 # nothing tells of it
                    await asyncio.sleep(0.01)
            if keys:
                async with asyncssh.connect_agent(str(socket)) as agent:
                    await agent.add_keys(list(keys))
            yield socket
        finally:
            process.terminate()
            await process.wait()

"""The child process ``rclone rcd``: found, started, watched over and ended.

Its remote control is as good as a shell, so it listens on a Unix socket in a folder that only this user can enter, and
asks for a password besides. Everything it is told at the start goes through its environment.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

import aiohttp

from cdir.errors import Unsupported
from cdir_adapters.providers.rclone.faults import Faults
from cdir_adapters.providers.rclone.settings import RcloneSettings

__all__ = ["Program"]

_DOING: Final = "starting rclone"
_START_DEADLINE: Final = 60.0
_STOP_DEADLINE: Final = 10.0
_FIRST_VERSION: Final = (1, 75)
"""Older ones have known holes in the remote control and in backends."""
_LONGEST_SOCKET: Final = 100
"""Bytes that the path of a socket may have on every system."""
_CONNECTIONS: Final = 64

_GUARD: Final = """
folder=$1; staging=$2; shift 2
exec 3<&0 </dev/null
"$@" 3<&- &
child=$!
(
    read -r line <&3
    trap '' TERM
    kill "$child" 2>/dev/null
    for turn in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        kill -0 "$child" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$child" 2>/dev/null
    rm -rf -- "$folder" "$staging"
) &
guard=$!
wait "$child"
status=$?
kill "$guard" 2>/dev/null
exit "$status"
"""
"""Runs rclone until it ends or until standard input is closed, as it is when this process dies, however it dies. Only
then the folders are removed: they hold credentials and bytes of files. A signal for the death of a parent, which Linux
knows, would fire at the end of the thread that started the child, and macOS has none."""


class Program:
    """The process of one adapter. It is started when it is first needed, and again when it has ended by itself."""

    def __init__(self, settings: RcloneSettings, faults: Faults) -> None:
        self._settings = settings
        self._faults = faults
        self._folder: Path | None = None
        self._staging: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._http: aiohttp.ClientSession | None = None
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether the process was started and is not known to have ended."""
        return self._http is not None and self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Of the process that watches over rclone; it leads a session of its own."""
        return None if self._process is None else self._process.pid

    @property
    def http(self) -> aiohttp.ClientSession:
        """What requests are made with while the process is alive. Raises ProviderUnavailable when it is not."""
        if self._http is None:
            raise self._faults.unavailable("rclone does not run; try again", _DOING)
        return self._http

    @property
    def staging(self) -> Path:
        """Folder for files on their way; there is one once the process was started."""
        assert self._staging is not None
        return self._staging

    async def start(self) -> bool:
        """Start the process and wait until it answers; tell whether it is the first one. One caller at a time."""
        if self._closed:
            raise self._faults.unavailable("the adapter was closed", _DOING)
        await self._end()
        program = self._find()
        first = self._folder is None
        if first:
            await asyncio.to_thread(self._make_folders)
        assert self._folder is not None
        socket, user, password = self._folder / "rc.sock", "cdir", secrets.token_urlsafe(32)
        socket.unlink(missing_ok=True)
        environment = self._environment(socket, user, password)
        try:
            with await asyncio.to_thread((self._folder / "start.log").open, "wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *("/bin/sh", "-c", _GUARD, "sh", str(self._folder), str(self._staging), program, "rcd"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=self._folder,
                    env=environment,
                    start_new_session=True,
                )
            self._http = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(socket), limit=_CONNECTIONS),
                headers={"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"},
                # how long a transfer may take is decided by who waits for it
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=1 << 19,
            )
            await self._wait_ready()
        except BaseException:
            await self._end()
            raise
        return first

    def _find(self) -> str:
        chosen = self._settings.program
        if chosen is not None:
            if not os.access(chosen, os.X_OK) or os.path.isdir(chosen):
                raise self._faults.config(f"there is no program {chosen}", "program")
            return chosen
        # where the PyPI package puts it, also when that environment's folder of programs is not on the path
        beside = os.path.join(os.path.dirname(sys.executable), "rclone")
        found = beside if os.access(beside, os.X_OK) else shutil.which("rclone")
        if found is None:
            raise Unsupported(
                f"provider {self._faults.provider}: kind rclone needs the program rclone, which is not installed:"
                " pip install 'cdir[rclone]', or see https://rclone.org/install/",
                provider=self._faults.provider,
            )
        return found

    def _make_folders(self) -> None:
        try:
            folder = tempfile.mkdtemp(prefix="cdir-rclone-")
            if len(os.fsencode(folder)) + len("/rc.sock") > _LONGEST_SOCKET:
                os.rmdir(folder)
                folder = tempfile.mkdtemp(prefix="cdir-rclone-", dir="/tmp")
            self._folder = Path(folder)
        except OSError as error:
            raise self._faults.unavailable(f"no temporary folder can be made ({error.strerror})", _DOING) from None
        try:
            self._staging = Path(tempfile.mkdtemp(prefix="cdir-staging-", dir=self._settings.staging))
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            self._folder = None
            raise self._faults.config(
                f"no folder can be made in {self._settings.staging or tempfile.gettempdir()} ({error.strerror})",
                "staging",
            ) from None
        if self._settings.type is not None:
            os.close(os.open(self._folder / "rclone.conf", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def _environment(self, socket: Path, user: str, password: str) -> dict[str, str]:
        """What the process sees. Settings of rclone that lie about are not for it: one could make it copy nothing."""
        own = self._settings.type is not None
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RCLONE_") or (not own and name.startswith("RCLONE_CONFIG"))
        }
        said = {
            "RC_ADDR": f"unix://{socket}",
            "RC_USER": user,
            "RC_PASS": password,
            "RC_SERVE": "true",
            # a key of 4000 bytes, each as three characters
            "RC_MAX_HEADER_BYTES": "65536",
            # the longest a transfer may take
            "RC_SERVER_READ_TIMEOUT": "720h",
            "RC_SERVER_WRITE_TIMEOUT": "720h",
            "ASK_PASSWORD": "false",
            "CACHE_DIR": f"{self._folder}/cache",
            "TEMP_DIR": f"{self._staging}",
            "LOG_FILE": f"{self._folder}/rclone.log",
            "LOG_FILE_MAX_SIZE": "1M",
            "LOG_FILE_MAX_BACKUPS": "1",
            "STATS": "0",
            "CONTIMEOUT": "20s",
            "BUFFER_SIZE": "4M",
            # a layer above retries calls; only rclone itself can repeat a piece in the middle of a transfer
            "LOW_LEVEL_RETRIES": "2",
        }
        if own:
            said["CONFIG"] = f"{self._folder}/rclone.conf"
        elif self._settings.config is not None:
            said["CONFIG"] = self._settings.config
        if self._settings.config_password is not None:
            said["CONFIG_PASS"] = self._settings.config_password
        return environment | {f"RCLONE_{name}": value for name, value in said.items()}

    async def _wait_ready(self) -> None:
        assert self._process is not None
        try:
            async with asyncio.timeout(_START_DEADLINE):
                while self._process.returncode is None:
                    with contextlib.suppress(aiohttp.ClientConnectionError):
                        await self._require_version()
                        return
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise self._faults.unavailable("rclone does not answer", _DOING) from None
        said = await asyncio.to_thread(self._last_words)
        error = self._faults.error(500, said, _DOING)
        # nothing was asked of the service yet, so it must be the configuration
        raise self._faults.config(f"rclone cannot be started ({error.message})", "config")

    def _last_words(self) -> str:
        assert self._folder is not None
        for name in ("rclone.log", "start.log"):
            with contextlib.suppress(OSError):
                lines = (self._folder / name).read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
                if lines:
                    return lines[-1]
        return "no word was said"

    async def _require_version(self) -> None:
        try:
            async with self.http.post("http://rclone/core/version", json={}) as answer:
                told = await answer.json()
        except (ValueError, aiohttp.ContentTypeError):
            told = {}
        version = tuple(told.get("decomposed") or ())
        if version < _FIRST_VERSION:
            raise Unsupported(
                f"provider {self._faults.provider}: rclone {told.get('version', 'of an unknown version')} is too old;"
                f" {'.'.join(map(str, _FIRST_VERSION))} or newer is needed: pip install 'cdir[rclone]'",
                provider=self._faults.provider,
            )

    async def _end(self) -> None:
        """End the process and what belongs to it. Its folders stay."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()

    async def aclose(self) -> None:
        """End the process, give it a moment to break transfers off, and remove the folders. Idempotent."""
        self._closed = True
        process = self._process
        if process is not None and process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_DEADLINE):
                    await process.wait()
        try:
            await self._end()
        finally:
            for folder in (self._folder, self._staging):
                if folder is not None:
                    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

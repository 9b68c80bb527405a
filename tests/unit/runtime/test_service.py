"""Processes: how they end, and what they say. Each test runs one."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap

import pytest

from cdir_runtime.allocator import keep_freed_memory
from cdir_runtime.background import run_forever

pytestmark = pytest.mark.timeout(120)


def start(body: str, patience: float = 1.0, **environment: str) -> subprocess.Popen[str]:
    """Start a service whose ``serve`` has this body."""
    program = f"""
import asyncio, sys, time
from cdir.errors import ConfigInvalid
from cdir_runtime.service import run_service, until_stopped

async def serve(settings):
{textwrap.indent(textwrap.dedent(body), "    ")}

sys.exit(run_service("probe", serve, patience={patience}))
"""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_service_well(number: signal.Signals) -> None:
    process = start("""
        print("ready", flush=True)
        await until_stopped()
        print("closed", flush=True)
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "closed\n")
    assert "Traceback" not in err


def test_a_signal_during_the_start_is_not_lost() -> None:
    process = start("""
        print("starting", flush=True)
        time.sleep(1)
        await until_stopped()
        print("closed", flush=True)
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "starting\n"
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "closed\n")


def test_a_second_signal_ends_it_at_once() -> None:
    process = start(
        """
        print("ready", flush=True)
        await until_stopped()
        print("stopping", flush=True)
        await asyncio.sleep(600)
    """,
        patience=600.0,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.stdout.readline() == "stopping\n"
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 1


def test_an_error_is_one_line() -> None:
    process = start('raise ConfigInvalid("the port is in use")')
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "cdir-probe: the port is in use\n")


def test_a_wrong_setting_is_one_line() -> None:
    process = start("pass", CDIR_LOG_LEVEL="loud")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert "loud" in err


def test_a_defect_has_its_traceback_in_the_log() -> None:
    process = start('raise ValueError("boom")', CDIR_LOG_FORMAT="json")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 70
    record, last = err.splitlines()
    assert "ValueError: boom" in record
    assert last == "cdir-probe: failed unexpectedly; its log says why"


def test_a_thread_that_hangs_does_not_keep_a_service_alive() -> None:
    process = start("""
        stuck = asyncio.create_task(asyncio.to_thread(time.sleep, 600))
        print("ready", flush=True)
        await until_stopped()
    """)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "ending as it is" in err


def test_work_that_ignores_cancellation_does_not_keep_a_service_alive() -> None:
    process = start("""
        print("ready", flush=True)
        await until_stopped()
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass
    """)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_allocator_can_be_set_anywhere() -> None:
    keep_freed_memory()
    assert len(bytearray(8 << 20)) == 8 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="capability: only glibc's allocator is set")
def test_what_was_freed_between_what_lives_on_is_given_back() -> None:
    body = """
        kept, freed = [], []
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096 >> 20
        for number in range(1_000):
            freed.append(b"x" * 100_000)
            kept.append(b"x" * 20_000)
        most = resident()
        await asyncio.sleep(0.6)  # so that it sees how far the process has grown
        freed.clear()
        freed += [b"x" * 100_000 for _ in range(150)]
        kept.append(b"x" * (13 << 20))  # fits into no gap: the process grows again
        async with asyncio.timeout(30):
            while resident() > most - 60:
                await asyncio.sleep(0.1)
    """
    process = start(body)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors


async def test_background_work_goes_on_after_errors() -> None:
    rounds: list[str] = []
    enough = asyncio.Event()

    async def once() -> None:
        rounds.append("round")
        if len(rounds) == 1:
            raise ValueError("the first round fails")
        enough.set()

    task = asyncio.create_task(run_forever("role", once, interval=600))
    await enough.wait()
    assert rounds == ["round", "round"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

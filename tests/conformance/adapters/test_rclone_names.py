"""Names of any kind through rclone, over a folder whose names rclone must write in another way, as for Windows.

rclone itself is asked what it sees, and what it stores is looked at from here: no two names may become one, and each
comes back as it was given.
"""

from __future__ import annotations

import subprocess
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdir_adapters.adapter import Adapter
from cdir_adapters.names import ESCAPE, is_key
from cdir_adapters.providers.rclone.spelling import spelled
from cdir_adapters.registry import open_adapter
from cdir_adapters.sentinel import MARK_KEY
from cdir_adapters.testing.trial import MODIFIED
from deployments.background import Background
from servers.rclone_s3 import missing, rclone_binary

ENCODING = "Slash,LtGt,DoubleQuote,Colon,Question,Asterisk,Pipe,BackSlash,Ctl,RightSpace,RightPeriod,InvalidUtf8,Dot"
FORBIDDEN = '<>:"|?*\\'
LOOK_ALIKES = "＜＞：＂｜？＊＼．␠／␀⸮q"
LONGEST = 60
"""Bytes of a name; each may take three times as many where it lies."""

odd = st.sampled_from(f"{FORBIDDEN}{LOOK_ALIKES}{ESCAPE}. ~%aA1é")
any_text = st.characters(exclude_categories=("Cs", "Cc", "Cn"), exclude_characters="/")
names = (
    st.text(odd | any_text, min_size=1, max_size=12)
    .map(lambda name: unicodedata.normalize("NFC", name))
    .filter(lambda name: is_key(name) and len(name.encode()) <= LONGEST)
)


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    with Background() as running:
        yield running


@pytest.fixture(scope="module")
def bridged(background: Background) -> tuple[Adapter, Path]:
    """An adapter, and the folder that it works in."""
    if said := missing():
        pytest.skip(said)
    root = Path(tempfile.mkdtemp(prefix="cdir-"))
    (root / MARK_KEY).parent.mkdir()
    (root / MARK_KEY).touch()
    options = {"type": "local", "root": str(root), "parameters": f'encoding="{ENCODING}"'}
    return background.enter(open_adapter("rclone", "r", options)), root


def listed_by_rclone(folder: Path) -> list[str]:
    binary = rclone_binary()
    assert binary is not None
    command = [binary, "lsf", "--config", "", "--local-encoding", ENCODING, str(folder)]
    told = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return sorted(told.stdout.decode().splitlines())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sets(names, min_size=8, max_size=24))
def test_names_come_back_through_rclone(background: Background, bridged: tuple[Adapter, Path], keys: set[str]) -> None:
    adapter, root = bridged

    async def round_trip() -> None:
        for key in keys:
            await adapter.write(f"folder/{key}", key.encode(), size=len(key.encode()), modified=MODIFIED)
        listed = {info.key async for page in adapter.list("folder") for info in page.objects}
        assert listed == {f"folder/{key}" for key in keys}
        stored = [path.name for path in (root / "folder").iterdir()]
        assert len(stored) == len(keys)
        assert not [name for name in stored if set(name) & set(FORBIDDEN) or name.endswith((" ", "."))]
        assert listed_by_rclone(root / "folder") == sorted(map(spelled, keys))
        for key in keys:
            assert (await adapter.fetch(f"folder/{key}")).data == key.encode()
            await adapter.delete(f"folder/{key}")

    background.run(round_trip())
    assert not (root / "folder").exists() or not list((root / "folder").iterdir())

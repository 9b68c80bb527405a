"""The package itself: cheap to import, its names all there."""

import subprocess
import sys

import pytest

import cdir
from cdir.locations import Home, default_address, home


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = "import sys, cdir; print([n for n in ('grpc', 'google.protobuf', 'asyncio', 'click') if n in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("name", cdir.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(cdir, name).__name__ == name
    assert name in dir(cdir)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = cdir.nonsense


def test_the_home_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDIR_HOME", "/somewhere/else")
    monkeypatch.delenv("CDIR_ADDRESS", raising=False)
    assert str(home().path) == "/somewhere/else"
    assert default_address() == "unix:/somewhere/else/daemon.sock"


def test_an_address_wins_over_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDIR_ADDRESS", "gateway:7420")
    assert default_address() == "gateway:7420"


@pytest.mark.skipif(sys.platform != "linux", reason="capability: other systems ask platformdirs itself")
def test_the_default_home_is_what_platformdirs_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from platformdirs import user_data_path

    monkeypatch.delenv("CDIR_HOME", raising=False)
    for value in ("/data", ""):
        monkeypatch.setenv("XDG_DATA_HOME", value)
        assert home() == Home(user_data_path("cdir", appauthor=False))

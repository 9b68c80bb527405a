import importlib.metadata
import os
from importlib.metadata import EntryPoint
from typing import NoReturn

import pytest

from cdir.errors import CdirError, ConfigInvalid, InvalidArgument, Unsupported
from cdir_adapters import registry
from cdir_adapters.providers.local import LocalAdapter
from cdir_adapters.providers.memory import MemoryAdapter
from cdir_adapters.registry import KindSpec, OptionSpec, OptionType, open_adapter, split_secrets, validate_options


def test_every_option_of_the_command_line_is_there() -> None:
    options = {kind: {option.name for option in spec.options} for kind, spec in registry.kinds().items()}
    assert options["local"] == {"root"}
    assert options["memory"] == set()
    assert options["s3"] == {
        *("bucket", "endpoint", "region", "prefix", "path_style", "profile", "signature", "access_key", "secret_key"),
        *("session_token", "ca_file"),
    }
    assert options["sftp"] == {
        *("host", "port", "user", "root", "host_key", "key_file", "password", "passphrase", "jump", "jump_host_key")
    }


def test_secrets_are_told_apart() -> None:
    secret = {
        kind: {option.name for option in spec.options if option.secret} for kind, spec in registry.kinds().items()
    }
    assert secret["s3"] == {"secret_key", "session_token"}
    assert secret["sftp"] == {"password", "passphrase"}
    assert split_secrets("sftp", {"host": "h", "password": "p"}) == ({"host": "h"}, {"password": "p"})
    with pytest.raises(InvalidArgument):
        split_secrets("sftp", {"hots": "h"})


def test_options_get_their_types_and_defaults() -> None:
    values = validate_options("sftp", {"host": "example.org", "key_file": "~/.ssh/id", "user": ""})
    assert values == {"host": "example.org", "port": 22, "root": "", "key_file": os.path.expanduser("~/.ssh/id")}
    assert validate_options("sftp", {"host": "h", "port": "2222"})["port"] == 2222
    assert validate_options("s3", {"bucket": "b", "path_style": "Yes"})["path_style"] is True
    assert validate_options("s3", {"bucket": "b", "path_style": "off"})["path_style"] is False
    assert validate_options("local", {"root": "/srv//data/"}) == {"root": "/srv/data"}


@pytest.mark.parametrize(
    ("kind", "options", "error", "said"),
    [
        ("tape", {}, InvalidArgument, "azure, ftp, gcs, local, memory, rclone, s3, sftp, swift, webdav"),
        ("local", {"rot": "/x"}, InvalidArgument, "root"),
        ("memory", {"root": "/x"}, InvalidArgument, "none"),
        ("local", {}, ConfigInvalid, "root"),
        ("local", {"root": ""}, ConfigInvalid, "root"),
        ("local", {"root": "relative"}, ConfigInvalid, "absolute"),
        ("s3", {"bucket": "b", "signature": "v5"}, ConfigInvalid, "v4, v2"),
        ("s3", {"bucket": "b", "path_style": "maybe"}, ConfigInvalid, "true or false"),
        ("sftp", {"host": "h", "port": "-1"}, ConfigInvalid, "whole number"),
    ],
)
def test_a_wrong_option_is_named(kind: str, options: dict[str, str], error: type[CdirError], said: str) -> None:
    with pytest.raises(error) as raised:
        validate_options(kind, options)
    assert said in raised.value.message
    assert "\n" not in raised.value.message


def test_adapters_are_opened_by_kind() -> None:
    memory = open_adapter("memory", "scratch", {})
    assert isinstance(memory, MemoryAdapter)
    assert (memory.info.kind, memory.info.name) == ("memory", "scratch")
    local = open_adapter("local", "disk", {"root": "/srv/data"})
    assert isinstance(local, LocalAdapter)
    assert local.info.location == "/srv/data"
    assert registry.declared_capability("local").write_atomic


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = KindSpec("lost", "cdir_adapters_lost.module:Class", "A kind of the test.", extra="lost")
    monkeypatch.setattr(registry, "kinds", lambda: {"lost": spec})
    with pytest.raises(ModuleNotFoundError):
        open_adapter("lost", "x", {})

    def find(name: str) -> NoReturn:
        raise ModuleNotFoundError("No module named 'vendor'", name="vendor.sdk")

    monkeypatch.setattr(importlib, "import_module", find)
    with pytest.raises(Unsupported, match=r"pip install 'cdir\[lost\]'"):
        open_adapter("lost", "x", {})


def test_kinds_from_outside_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    points = (
        EntryPoint("tape", f"{__name__}:TAPE", "cdir.adapters"),
        EntryPoint("local", f"{__name__}:IMPOSTOR", "cdir.adapters"),
        EntryPoint("broken", "no_such_module_anywhere:X", "cdir.adapters"),
        EntryPoint("odd", f"{__name__}:os", "cdir.adapters"),
    )
    own = set(registry.kinds())
    monkeypatch.setattr(EntryPoint, "load", lambda point: globals()[point.attr])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    registry.kinds.cache_clear()
    try:
        kinds = registry.kinds()
    finally:
        monkeypatch.undo()
        registry.kinds.cache_clear()
    assert set(kinds) == own | {"tape"}
    assert kinds["local"].target == "cdir_adapters.providers.local:LocalAdapter"


TAPE = KindSpec(
    "tape",
    "cdir_adapters.providers.memory:MemoryAdapter",
    "A kind from outside.",
    options=(OptionSpec("drive", "Which drive.", OptionType.INT),),
)
IMPOSTOR = KindSpec("local", "elsewhere:Class", "Pretends to be a kind of the table.")

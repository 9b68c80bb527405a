"""The mark at a provider's root: who may use it, and what a check makes of it."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from cdir.errors import InvalidArgument, PreconditionFailed, ProviderUnavailable
from cdir.status import translated
from cdir.v1 import adapter_service_pb2 as pb


def mark_of(root: Path) -> dict[str, Any]:
    values = json.loads((root / ".cdir/provider").read_text())
    assert isinstance(values, dict)
    return values


async def check(bench: Any, ref: pb.ProviderRef) -> float:
    with translated():
        response = await bench.adapters.CheckMark(pb.CheckMarkRequest(provider=ref))
    assert isinstance(response, pb.CheckMarkResponse)
    return response.seconds


async def test_probing_marks_the_root_and_tells_what_it_can_do(bench: Any) -> None:
    request = bench.probe_request("disk")
    response = await bench.probe(request)
    root = bench.folder / "disk"
    mark = mark_of(root)
    assert mark["format"] == 1
    assert (mark["home_id"], mark["provider_id"], mark["name"]) == (bench.home_id, request.provider_id, "disk")
    assert response.root == str(root)
    assert response.capability["move"] is True
    assert response.capability["write_if_match"] is False
    # nothing but the mark is left behind
    assert [path.name for path in (root / ".cdir").iterdir()] == ["provider"]


async def test_probing_the_same_provider_again_leaves_the_mark_alone(bench: Any) -> None:
    request = bench.probe_request("disk")
    await bench.probe(request)
    before = (bench.folder / "disk/.cdir/provider").read_bytes()
    await bench.probe(request)
    assert (bench.folder / "disk/.cdir/provider").read_bytes() == before


async def test_one_root_cannot_be_two_providers(bench: Any) -> None:
    await bench.add("disk")
    again = bench.probe_request("disk", adopt=True)
    again.name = "second"
    with pytest.raises(PreconditionFailed, match="registered already as disk"):
        await bench.probe(again)


async def test_the_root_of_a_provider_that_was_removed_can_be_used_again(bench: Any) -> None:
    await bench.probe(bench.probe_request("disk"))
    again = bench.probe_request("disk")
    again.name = "second"
    await bench.probe(again)
    assert mark_of(bench.folder / "disk")["provider_id"] == again.provider_id


async def test_the_root_of_another_home_is_refused_until_it_is_adopted(bench: Any) -> None:
    await bench.probe(bench.probe_request("disk", home_id=uuid.uuid4().hex))
    mine = bench.probe_request("disk")
    with pytest.raises(PreconditionFailed, match="another cdir home"):
        await bench.probe(mine)
    assert mark_of(bench.folder / "disk")["home_id"] != bench.home_id
    mine.adopt = True
    await bench.probe(mine)
    mark = mark_of(bench.folder / "disk")
    assert (mark["home_id"], mark["provider_id"]) == (bench.home_id, mine.provider_id)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}", b'{"format": 2, "home_id": "x"}'])
async def test_a_mark_that_cannot_be_read_is_never_overwritten(bench: Any, content: bytes) -> None:
    mark = bench.folder / "disk/.cdir/provider"
    mark.parent.mkdir(parents=True)
    mark.write_bytes(content)
    with pytest.raises(PreconditionFailed, match="damaged"):
        await bench.probe(bench.probe_request("disk", adopt=True))
    assert mark.read_bytes() == content


async def test_an_option_that_the_kind_does_not_have_is_named_but_its_secret_is_not(bench: Any) -> None:
    request = bench.probe_request("disk")
    request.sealed_secrets = await bench.vault.seal({"pasword": "hunter2"}, request.provider_id)
    with pytest.raises(InvalidArgument, match="pasword") as caught:
        await bench.probe(request)
    assert "hunter2" not in str(caught.value)


async def test_an_unknown_kind_is_refused(bench: Any) -> None:
    with pytest.raises(InvalidArgument, match="tape"):
        await bench.probe(bench.probe_request("archive", kind="tape"))


@pytest.mark.parametrize("kind", ["local", "memory"])
async def test_a_check_finds_the_mark_that_probing_left(bench: Any, kind: str) -> None:
    ref = await bench.add("disk", kind)
    assert 0 <= await check(bench, ref) < 60


async def test_a_missing_mark_is_unknown_content_and_a_missing_root_is_unavailable(bench: Any) -> None:
    ref = await bench.add("disk")
    root = bench.folder / "disk"
    mark = root / ".cdir/provider"
    content = mark.read_bytes()
    mark.unlink()
    with pytest.raises(PreconditionFailed, match="mark"):
        await check(bench, ref)
    with pytest.raises(ProviderUnavailable):
        await bench.put(ref, "a", b"content")
    shutil.rmtree(root)
    with pytest.raises(ProviderUnavailable):
        await check(bench, ref)
    assert not root.exists()
    mark.parent.mkdir(parents=True)
    mark.write_bytes(content)
    await check(bench, ref)


async def test_the_mark_of_someone_else_is_not_ours(bench: Any) -> None:
    ref = await bench.add("disk")
    mark = bench.folder / "disk/.cdir/provider"
    values = mark_of(bench.folder / "disk")
    mark.write_text(json.dumps(values | {"provider_id": uuid.uuid4().hex, "name": "other"}))
    with pytest.raises(PreconditionFailed, match="other"):
        await check(bench, ref)
    mark.write_text(json.dumps(values | {"home_id": uuid.uuid4().hex}))
    with pytest.raises(PreconditionFailed, match="another cdir home"):
        await check(bench, ref)

"""Conformance cases: listings are complete, and names survive."""

from __future__ import annotations

import asyncio
import unicodedata

from cdir.errors import Unsupported
from cdir_adapters.adapter import ObjectKind
from cdir_adapters.testing.trial import Trial, case, expect, same

NAMES = (
    "plain.txt",
    "two words and  more",
    " leading space",
    "trailing space ",
    "trailing dot.",
    ".hidden",
    "-dash",
    'it\'s "quoted" `here`',
    "100%",
    "%41%2F%00",
    "a+b=c&d;e,f",
    "what? #1 (x) [y] {z}",
    "back\\slash|pipe<less>more:colon*star",
    "$HOME ~user @team !bang ^caret",
    "Grüße, Žluťoučký kůň",
    "日本語のファイル名",
    "العربية",
    "🙂 emoji 👩‍💻",
    "‛E2 escape",
    "é" * 120,
)


@case()
async def list_missing(trial: Trial) -> None:
    same(await trial.objects("missing"), [], "the listing of a missing folder")
    same(await trial.objects("missing/deeper", recursive=True), [], "the recursive listing of a missing folder")


@case()
async def list_one_level(trial: Trial) -> None:
    for name in (
        "folder/file",
        "folder/inner/file",
        "folder/inner/other",
        "folder/inner/deep/file",
        "folder.txt",
        "folder2/x",
    ):
        await trial.put(name, b"123")
    same(sorted(await trial.names()), ["folder.txt", "folder/", "folder2/"], "the listing of the case's folder")
    same(sorted(await trial.names("folder")), ["folder/file", "folder/inner/"], "the listing of a folder")
    kinds = {info.key: (info.kind, info.size) for info in await trial.objects("folder")}
    same(kinds[trial.key("folder/file")], (ObjectKind.FILE, 3), "kind and size of a listed file")
    same(kinds[trial.key("folder/inner")][0], ObjectKind.DIRECTORY, "the kind of a listed folder")


@case()
async def list_recursively(trial: Trial) -> None:
    wanted = ["folder/a/b/c/file", "folder/a/file", "folder/file", "folder/z"]
    for name in [*wanted, "folder.txt", "folder2/x"]:
        await trial.put(name, b"123")
    found = [info for info in await trial.objects("folder", recursive=True) if info.kind is not ObjectKind.DIRECTORY]
    same(sorted(info.key for info in found), [trial.key(name) for name in wanted], "the recursive listing")
    same({info.size for info in found}, {3}, "the sizes in a recursive listing")


@case()
async def list_many(trial: Trial) -> None:
    slots = asyncio.Semaphore(8)

    async def put(name: str) -> None:
        async with slots:
            await trial.write(name, b"x")

    names = [f"folder/{number % 7}/object-{number:05}" for number in range(trial.many)]
    async with asyncio.TaskGroup() as writers:
        for name in names:
            writers.create_task(put(name))
    found = [name for name in await trial.names(recursive=True) if not name.endswith("/")]
    same(len(found), trial.many, "the number of objects listed")
    same(sorted(found), sorted(names), "the objects listed")
    below = await trial.names("folder/3")
    same(len(below), len([name for name in names if name.startswith("folder/3/")]), "the objects of one folder")
    async for page in trial.adapter.list(trial.prefix, recursive=True):
        assert page.objects, "a page is empty"
        break  # a listing left early holds nothing up
    same(len(await trial.names()), 1, "the listing after one that was left early")


@case(lambda capability: capability.list_ordered, "list_ordered")
async def list_in_order(trial: Trial) -> None:
    names = ["a", "a.txt", "a/b", "a/ä", "a0", "aa", "b/1", "ä", "é/x", "日"]
    for name in names:
        await trial.put(name, b"x")
    found = await trial.names(recursive=True)
    same(found, sorted(names, key=str.encode), "the order of a recursive listing")
    found = await trial.names()
    same(found, sorted(found, key=str.encode), "the order of a listing")
    for start in ("a.txt", "a/c", "日"):
        same(
            await trial.names(recursive=True, start_after=trial.key(start)),
            [name for name in sorted(names, key=str.encode) if name.encode() > start.encode()],
            f"the listing after {start}",
        )


@case(lambda capability: not capability.list_ordered, "a provider without list_ordered")
async def list_start_after_unsupported(trial: Trial) -> None:
    await trial.put("object", b"x")
    with expect(Unsupported):
        await trial.objects(start_after=trial.key("a"))


@case(lambda capability: capability.unicode_preserving, "unicode_preserving")
async def names_survive(trial: Trial) -> None:
    slots = asyncio.Semaphore(4)

    async def one(number: int, name: str) -> None:
        async with slots:
            data = f"content {number}".encode()
            await trial.write(f"names/{name}", data)
            same(await trial.get(f"names/{name}"), data, f"{name!r} behind the adapter's back")
            same(await trial.fetch(f"names/{name}"), data, f"{name!r} fetched")
            same((await trial.adapter.stat(trial.key(f"names/{name}"))).key, trial.key(f"names/{name}"), "the key")

    names = [unicodedata.normalize("NFC", name) for name in NAMES]
    async with asyncio.TaskGroup() as tasks:
        for number, name in enumerate(names):
            tasks.create_task(one(number, name))
    wanted = sorted(f"names/{name}" for name in names)
    same(sorted(await trial.names("names")), wanted, "the names listed")
    same(sorted(await trial.names(recursive=True)), wanted, "the names listed recursively")
    for name in names:
        await trial.adapter.delete(trial.key(f"names/{name}"))
    same(await trial.objects("names"), [], "the names left")


@case()
async def folder_names_survive(trial: Trial) -> None:
    key = "with space/Grüße/100%/it's/" + "ö" * 100 + "/" + "ж" * 100
    await trial.put(key, b"x")
    same(await trial.fetch(key), b"x", "the object in folders with odd names")
    same([name for name in await trial.names(recursive=True) if not name.endswith("/")], [key], "its listing")
    await trial.adapter.delete(trial.key(key))
    same(await trial.get(key), None, "the object after it was deleted")


@case(lambda capability: capability.case_sensitive, "case_sensitive")
async def case_matters(trial: Trial) -> None:
    await trial.write("Name", b"upper")
    await trial.write("name", b"lower")
    same((await trial.fetch("Name"), await trial.fetch("name")), (b"upper", b"lower"), "two names that differ in case")
    same(sorted(await trial.names()), ["Name", "name"], "the names listed")

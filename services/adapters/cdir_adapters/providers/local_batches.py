"""Several small files of a ``local`` provider in one go: the folder that some of them share is reached once.

Most of a small file's work is reaching its folder and making the name in it durable, and each step of it is a call to
the system, around which the interpreter changes threads. What cannot be done together is done one by one, as for a file
by itself, so that every file has the outcome it would have had alone.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, ParamSpec, TypeVar

from cdir.errors import CdirError
from cdir_adapters.adapter import Beginning, ByteRange, FetchedObject, ObjectInfo
from cdir_adapters.providers.local_transfers import FileReader, Upload
from cdir_adapters.providers.local_tree import Tree, info_of, sync_folder

__all__ = ["SmallUpload", "fetch_beginnings", "store_small"]

P = ParamSpec("P")
T = TypeVar("T")


class SmallUpload(NamedTuple):
    """An upload whose content is known."""

    key: str
    data: bytes
    upload: Upload


def fetch_beginnings(tree: Tree, beginnings: Sequence[Beginning]) -> list[FetchedObject | CdirError]:
    """Read several beginnings; an error stands in the place of what failed."""
    found: list[FetchedObject | CdirError] = []
    # neighbours alone: what is asked for together mostly comes folder by folder
    for dirname, group in itertools.groupby(beginnings, lambda one: _dirname(one.key)):
        wanted = list(group)
        with _shared_folder(tree, dirname, len(wanted), make=False) as folder:
            for key, length in wanted:
                reader = FileReader(tree, key, ByteRange(0, length), None)
                found.append(_outcome(tree, key, reader.read_all, folder))
    return found


def store_small(tree: Tree, uploads: Sequence[SmallUpload]) -> list[ObjectInfo | CdirError]:
    """Store several files; an error stands in the place of what failed. Raises CutOff when their caller is gone."""
    stored: list[ObjectInfo | CdirError] = []
    for dirname, group in itertools.groupby(uploads, lambda one: _dirname(one.key)):
        stored.extend(_store_in_folder(tree, dirname, list(group)))
    return stored


def _store_in_folder(tree: Tree, dirname: str, uploads: Sequence[SmallUpload]) -> list[ObjectInfo | CdirError]:
    with _shared_folder(tree, dirname, len(uploads), make=True) as folder:
        if folder is None:
            return [_outcome(tree, one.key, _store_alone, one) for one in uploads]
        stored = [_outcome(tree, one.key, _store_in, one, folder) for one in uploads]
        try:
            sync_folder(folder)
        except OSError as error:
            failed = [tree.translate(error, one.key) for one in uploads]
            return [one if isinstance(one, CdirError) else other for one, other in zip(stored, failed, strict=True)]
        return stored


def _store_alone(one: SmallUpload) -> ObjectInfo:
    return info_of(one.key, one.upload.finish([one.data]))


def _store_in(one: SmallUpload, folder: int) -> ObjectInfo:
    try:
        return info_of(one.key, one.upload.finish_in(folder, [one.data]))
    except FileNotFoundError:
        # the folder was removed, being empty; alone, the file makes it anew
        return _store_alone(one)


@contextmanager
def _shared_folder(tree: Tree, dirname: str, sharers: int, *, make: bool) -> Iterator[int | None]:
    """Give a folder opened for several; ``None`` where each has to reach it, and to say what is wrong with it."""
    folder = None
    if sharers > 1:
        try:
            folder = tree.open_folder(dirname, make=make)
        except (CdirError, OSError):
            folder = None
    try:
        yield folder
    finally:
        if folder is not None:
            os.close(folder)


def _outcome(tree: Tree, key: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | CdirError:
    try:
        return work(*args, **kwargs)
    except CdirError as error:
        return error
    except OSError as error:
        return tree.translate(error, key)


def _dirname(key: str) -> str:
    return key.rpartition("/")[0]

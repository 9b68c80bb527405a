"""The blocking half of the ``local`` kind: a folder marked as cdir's, and everything done to the files below it.

Every operation opens the root folder anew and reaches its object name by name from there, through directory descriptors
and never through a symbolic link. So nothing outside the root can be touched, an operation that has begun stays on the
file system it began on, and no path is too long. The root itself must carry the sentinel ``.cdir/provider``: a mount
point whose disk is missing is an empty folder without it, and is refused rather than taken for an empty provider.

Nothing here knows of asyncio; :mod:`cdir_adapters.providers.local` runs it in threads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as stat_bits
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from cdir.errors import (
    AlreadyExists,
    CdirError,
    ConfigInvalid,
    DirectoryNotEmpty,
    InvalidPath,
    IsDirectory,
    NotDirectory,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ProviderUnavailable,
    QuotaExceeded,
)
from cdir_adapters.adapter import ObjectInfo, ObjectKind, Usage, WriteMode
from cdir_adapters.sentinel import MARK_KEY, PROBE_PREFIX

__all__ = [
    "DIRECTORY",
    "NOT_POSSIBLE",
    "NOT_THERE",
    "RACES",
    "TEMPORARY",
    "Tree",
    "info_of",
    "nanoseconds_of",
    "sync_folder",
]

SENTINEL_FOLDER = ".cdir"

TEMPORARY = ".cdir-tmp-"
"""How the names of unfinished writes begin. They lie beside their targets, since a rename works only within a disk."""

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# without O_NONBLOCK, opening a FIFO would wait for a writer
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_BAD_NAME = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})
NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
NOT_POSSIBLE = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})

RACES = 20
"""How often an operation begins anew because its folder was removed, being empty, under its hands."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def nanoseconds_of(moment: datetime) -> int:
    """Return nanoseconds since the epoch, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"


def info_of(key: str, status: os.stat_result) -> ObjectInfo:
    """Say what ``status`` says, in the words of the interface."""
    modified = _EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000)
    if stat_bits.S_ISREG(status.st_mode):
        return ObjectInfo(key=key, size=status.st_size, modified=modified, etag=_etag(status))
    kind = ObjectKind.DIRECTORY if stat_bits.S_ISDIR(status.st_mode) else ObjectKind.OTHER
    return ObjectInfo(key=key, size=0, kind=kind, modified=modified)


def sync_folder(folder: int) -> None:
    """Make the names in a folder durable, where the file system knows such a thing."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NOT_POSSIBLE:
            raise


class Tree:
    """The folder ``root`` of the provider ``name``."""

    def __init__(self, root: str, name: str) -> None:
        self.root = root
        self.name = name

    def translate(self, error: OSError, key: str) -> CdirError:
        """Return what ``error`` means, as an error of cdir."""
        where = f"{key or 'the root'} at provider {self.name} ({self.root})"
        said = error.strerror or str(error)
        match error.errno:
            case code if code in _FULL_DISK:
                return QuotaExceeded(f"{where}: {said}; make room there", key=key)
            case code if code in _FORBIDDEN:
                return PermissionDenied(f"{where}: {said}; check who may write there", key=key)
            case code if code in _BAD_NAME:
                return InvalidPath(f"{where}: this disk cannot hold the name: {said}", key=key)
            case errno.ENOENT | errno.ELOOP:
                return NotFound(f"{where} does not exist", key=key)
            case errno.EEXIST:
                return AlreadyExists(f"{where} exists already", key=key)
            case errno.ENOTDIR:
                return NotDirectory(f"{where}: a part of the path is not a folder", key=key)
            case errno.EISDIR:
                return IsDirectory(f"{where} is a folder", key=key)
            case errno.ENOTEMPTY:
                return DirectoryNotEmpty(f"{where} is not empty", key=key)
            case _:
                # input/output errors, stale network mounts, devices gone: nothing is known about the content
                return ProviderUnavailable(f"{where}: {said}", key=key, provider=self.name)

    def _not_mounted(self) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"provider {self.name}: the root {self.root} is not there or is not the folder cdir marked;"
            " is the disk mounted?",
            provider=self.name,
        )

    def contended(self, key: str) -> ProviderUnavailable:
        """The error when others kept removing the folder of ``key`` while it was to be used."""
        return ProviderUnavailable(
            f"{key} at provider {self.name}: its folder is removed again and again; try later", provider=self.name
        )

    # --- reaching an object -------------------------------------------------------------------------------------------

    def open_root(self, key: str) -> int:
        """Open the root on behalf of an operation on ``key``. Raises ProviderUnavailable when it is not the marked
        folder; only the sentinel itself and the probe's folder may be used before the sentinel exists."""
        try:
            # the user may have put a symbolic link in place of the root itself; below it none is followed
            root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in NOT_THERE:
                raise self._not_mounted() from error
            raise
        if key == MARK_KEY or key.startswith(PROBE_PREFIX):
            return root
        try:
            os.stat(MARK_KEY, dir_fd=root, follow_symlinks=False)
        except OSError as error:
            os.close(root)
            if error.errno in NOT_THERE:
                raise self._not_mounted() from error
            raise
        return root

    def open_folder(self, key: str, *, make: bool = False, asked_for: str | None = None) -> int:
        """Open the directory ``key``. Raises NotFound or NotDirectory; with ``make``, missing ones are made, durably.

        ``asked_for`` is the key of the operation, when it is another one.
        """
        folder = self.open_root(asked_for or key)
        try:
            for name in key.split("/") if key else ():
                inner = self._open_inner(folder, name, make)
                os.close(folder)
                folder = inner
        except OSError as error:
            os.close(folder)
            if error.errno == errno.ELOOP:
                raise NotDirectory(
                    f"{key}: a part of the path is a symbolic link, which cdir does not follow"
                ) from error
            raise self.translate(error, asked_for or key) from error
        return folder

    @staticmethod
    def _open_inner(folder: int, name: str, make: bool) -> int:
        for _ in range(RACES if make else 0):
            with contextlib.suppress(FileNotFoundError):
                return os.open(name, DIRECTORY, dir_fd=folder)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=folder)
                sync_folder(folder)
        return os.open(name, DIRECTORY, dir_fd=folder)

    @contextmanager
    def _parent(self, key: str) -> Iterator[tuple[int, str]]:
        """Give the open folder that holds ``key``, and the name in it."""
        dirname, _, name = key.rpartition("/")
        folder = self.open_folder(dirname, asked_for=key)
        try:
            yield folder, name
        finally:
            os.close(folder)

    def _missing(self, key: str) -> NotFound:
        return NotFound(f"{key} does not exist at provider {self.name} ({self.root})", key=key)

    def stat(self, key: str) -> os.stat_result:
        """Return what lies at ``key``. Raises NotFound, also where a parent is a file or a symbolic link."""
        if not key:
            root = self.open_root(key)
            try:
                return os.fstat(root)
            finally:
                os.close(root)
        try:
            with self._parent(key) as (folder, name):
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except (NotDirectory, FileNotFoundError, NotFound) as error:
            raise self._missing(key) from error

    def open_file(self, key: str, folder: int | None = None) -> tuple[int, os.stat_result]:
        """Open a regular file for reading, in its folder if that is open. Raises NotFound or IsDirectory."""
        if not key:
            raise IsDirectory(f"the root of provider {self.name} is a folder", key=key)
        try:
            if folder is not None:
                file = os.open(key.rpartition("/")[2], _READ, dir_fd=folder)
            else:
                with self._parent(key) as (parent, name):
                    file = os.open(name, _READ, dir_fd=parent)
        except (NotDirectory, NotFound) as error:
            raise self._missing(key) from error
        except OSError as error:
            # ENXIO is the answer of a socket or of a FIFO nobody writes to
            if error.errno in NOT_THERE or error.errno == errno.ENXIO:
                raise self._missing(key) from error
            raise
        status = os.fstat(file)
        if stat_bits.S_ISREG(status.st_mode):
            return file, status
        os.close(file)
        if stat_bits.S_ISDIR(status.st_mode):
            raise IsDirectory(f"{key} at provider {self.name} is a folder", key=key)
        raise self._missing(key)

    def file_status(self, key: str, mode: int | None = None) -> os.stat_result:
        """Return the status of a regular file, after setting its mode bits where they are given."""
        file, status = self.open_file(key)
        try:
            if mode is None:
                return status
            os.fchmod(file, mode)
            return os.fstat(file)
        finally:
            os.close(file)

    def match(self, key: str, etag: str | None, status: os.stat_result) -> None:
        """Raise PreconditionFailed unless ``status`` has that ETag."""
        if etag is not None and etag != _etag(status):
            raise PreconditionFailed(f"{key} at provider {self.name} is not the version asked for", key=key)

    def refuse_occupied(self, key: str, folder: int, name: str, mode: WriteMode) -> None:
        """Raise what can be known before a byte is written; the rename or link has the last word."""
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat_bits.S_ISDIR(status.st_mode):
            raise IsDirectory(f"{key} at provider {self.name} is a folder", key=key)
        if mode is WriteMode.CREATE:
            raise AlreadyExists(f"{key} exists already at provider {self.name}", key=key)

    # --- the operations; their contracts are those of the adapter interface -------------------------------------------

    def check(self) -> None:
        if not os.path.isdir(self.root):
            raise self._not_mounted()
        if not os.access(self.root, os.R_OK | os.X_OK):
            raise PermissionDenied(f"provider {self.name}: the folder {self.root} cannot be read")

    def prepare(self) -> None:
        try:
            os.makedirs(self.root, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigInvalid(f"the root {self.root} is not a folder; choose another", option="root") from error

    def delete(self, key: str) -> None:
        if not key:
            raise IsDirectory(f"the root of provider {self.name} is a folder", key=key)
        try:
            with self._parent(key) as (folder, name):
                try:
                    os.unlink(name, dir_fd=folder)
                except OSError as error:
                    if error.errno in NOT_THERE:
                        return
                    # Linux says EISDIR, others EPERM
                    if error.errno in {errno.EISDIR, errno.EPERM} and self._is_folder(folder, name):
                        raise IsDirectory(f"{key} at provider {self.name} is a folder", key=key) from error
                    raise
        except (NotFound, NotDirectory):
            return
        self._prune(key)

    @staticmethod
    def _is_folder(folder: int, name: str) -> bool:
        return stat_bits.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)

    def _prune(self, key: str) -> None:
        """Remove the folders above ``key`` that are empty; never the root and never cdir's own."""
        dirname = key.rpartition("/")[0]
        while dirname and dirname != SENTINEL_FOLDER:
            try:
                with self._parent(dirname) as (folder, name):
                    os.rmdir(name, dir_fd=folder)
            except (OSError, CdirError):
                return  # not empty, used by a write that began meanwhile, or not ours to remove
            dirname = dirname.rpartition("/")[0]

    def move(self, source: str, target: str) -> os.stat_result:
        dirname, _, name = target.rpartition("/")
        for _ in range(RACES):
            status = self.stat(source)
            if stat_bits.S_ISDIR(status.st_mode):
                raise IsDirectory(f"{source} at provider {self.name} is a folder", key=source)
            if not stat_bits.S_ISREG(status.st_mode):
                raise self._missing(source)
            if source == target:
                return status
            try:
                folder = self.open_folder(dirname, make=True, asked_for=target)
            except NotFound:
                continue
            try:
                self.refuse_occupied(target, folder, name, WriteMode.OVERWRITE)
                with self._parent(source) as (source_folder, source_name):
                    os.replace(source_name, name, src_dir_fd=source_folder, dst_dir_fd=folder)
                    moved = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    sync_folder(folder)
                    sync_folder(source_folder)
            except (FileNotFoundError, NotFound):
                # the source has gone, which the next look tells, or the target's folder was removed, being empty
                continue
            finally:
                os.close(folder)
            self._prune(source)
            return moved
        raise self.contended(target)

    def make_directory(self, key: str) -> None:
        os.close(self.open_folder(key, make=True))

    def remove_directory(self, key: str) -> None:
        if not key or key == SENTINEL_FOLDER:
            raise DirectoryNotEmpty(f"{key or 'the root'} of provider {self.name} stays", key=key)
        with contextlib.suppress(NotFound, FileNotFoundError), self._parent(key) as (folder, name):
            os.rmdir(name, dir_fd=folder)

    def usage(self) -> Usage:
        # asked before the sentinel is written, too
        root = self.open_root(MARK_KEY)
        try:
            disk = os.fstatvfs(root)
        finally:
            os.close(root)
        unit = disk.f_frsize
        return Usage(used=(disk.f_blocks - disk.f_bfree) * unit, free=disk.f_bavail * unit, total=disk.f_blocks * unit)

    def sweep(self, older_than: float) -> int:
        limit = time.time() - older_than
        removed = 0
        os.close(self.open_root(""))
        for _, _, names, folder in os.fwalk(self.root, follow_symlinks=False):
            for name in names:
                if not name.startswith(TEMPORARY):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(name, dir_fd=folder, follow_symlinks=False).st_ctime <= limit:
                        os.unlink(name, dir_fd=folder)
                        removed += 1
        return removed

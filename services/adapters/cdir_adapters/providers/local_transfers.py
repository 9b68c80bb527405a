"""Work on the files of a ``local`` provider that takes several steps: writing one, reading one, listing a folder.

A step runs in a thread; between two steps the event loop has the word, and may leave. So each of these holds what is
open, orders its steps with a lock, and can be told at any time to let go.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat as stat_bits
import threading
import uuid
from collections.abc import Sequence

from cdir.errors import IntegrityError, NotDirectory, NotFound, Unsupported
from cdir_adapters.adapter import ByteRange, FetchedObject, ObjectInfo, WriteMode
from cdir_adapters.modes import PRIVATE_MODE
from cdir_adapters.providers.local_tree import (
    DIRECTORY,
    NOT_POSSIBLE,
    NOT_THERE,
    RACES,
    TEMPORARY,
    Tree,
    info_of,
    sync_folder,
)
from cdir_adapters.shapes import PAGE_SIZE, PIECE_SIZE, resolve_range

__all__ = ["CutOff", "FileReader", "Upload", "Walker"]

_COPY_STEP = 64 << 20
"""Bytes that are copied between two looks at whether anyone still wants the copy."""

_WRITE_SIZE = 256 << 10
"""Bytes written at once. For a write of megabytes the kernel may take huge pages; in a virtual machine that gets its
memory from the host as it is used, that was seen to cost up to ten times the copying."""
_READ_SIZE = 4 << 20
"""Bytes of a piece that is read; each takes a change of threads."""
_THIS_PROCESS = uuid.uuid4().hex
_numbers = itertools.count()
"""With the process, what tells the temporary files apart."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class CutOff(Exception):
    """The caller of a write was cancelled before the write took effect."""


class Upload:
    """One object being written: a temporary file beside its target, then kept under the target's name or removed.

    Made on the event loop; the other methods run in threads, ordered by one lock, except :meth:`cut_off`. A caller who
    is cancelled calls that and leaves: whatever thread still works for it gives up, unless it has passed the point of
    no return, and a later :meth:`drop` removes the file.
    """

    def __init__(self, tree: Tree, key: str, nanoseconds: int, mode: WriteMode, permissions: int | None = None) -> None:
        """``permissions`` are the mode bits that the file shall have; ``None`` leaves them to the process's umask."""
        self._permissions = permissions
        self._tree = tree
        self._key = key
        self._nanoseconds = nanoseconds
        self._mode = mode
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._cut_off = False
        self._passed = False
        self._folder = self._file = -1
        self._folder_is_lent = False
        self._temporary = self._target = ""

    def cut_off(self) -> None:
        """Let nothing take effect any more, if nothing has yet. Never blocks."""
        with self._gate:
            self._cut_off = not self._passed

    @property
    def is_open(self) -> bool:
        """Whether there is a temporary file."""
        return self._file >= 0

    def _hold(self) -> None:
        """Raise CutOff when the caller has gone."""
        if self._cut_off:
            raise CutOff

    def _pass(self) -> None:
        with self._gate:
            if self._cut_off:
                raise CutOff
            self._passed = True

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append ``pieces``; the first call makes the folders and the file."""
        with self._lock:
            self._hold()
            self._open()
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(self._file, rest[:_WRITE_SIZE]) :]

    def finish(self, pieces: Sequence[bytes]) -> os.stat_result:
        """Write the last pieces, for a small object the only ones, and make the object durable and visible."""
        try:
            self.write(pieces)
            return self._keep()
        finally:
            self.drop()

    def finish_in(self, folder: int, pieces: Sequence[bytes]) -> os.stat_result:
        """As :meth:`finish`, in the open folder of the key; the caller makes the name in it durable, and closes it.

        Raises FileNotFoundError where that folder has been removed, being empty.
        """
        self._folder, self._folder_is_lent = folder, True
        try:
            return self.finish(pieces)
        finally:
            self._folder, self._folder_is_lent = -1, False

    def copy(self, source: str) -> os.stat_result:
        """Take the content, the modified time and the mode bits of the file at the key ``source`` instead."""
        file, status = self._tree.open_file(source)
        self._nanoseconds = status.st_mtime_ns
        self._permissions = status.st_mode & 0o777 if os.name == "posix" else None
        try:
            self.write([])
            self._copy_content(file, status.st_size)
            return self._keep()
        finally:
            self.drop()
            os.close(file)

    def _open(self) -> None:
        if self._file >= 0:
            return
        dirname, _, self._target = self._key.rpartition("/")
        self._temporary = f"{TEMPORARY}{_THIS_PROCESS}-{next(_numbers)}"
        if self._folder_is_lent:
            self._open_file()
            return
        for _ in range(RACES):
            # NotFound and FileNotFoundError: another operation removed a folder on the way, because it was empty
            with contextlib.suppress(NotFound, FileNotFoundError):
                self._folder = self._tree.open_folder(dirname, make=True, asked_for=self._key)
                try:
                    self._tree.refuse_occupied(self._key, self._folder, self._target, self._mode)
                    self._open_file()
                    return
                finally:
                    if self._file < 0:
                        os.close(self._folder)
                        self._folder = -1
        raise self._tree.contended(self._key)

    def _open_file(self) -> None:
        mode = 0o666 if self._permissions is None else PRIVATE_MODE
        self._file = os.open(self._temporary, _CREATE, mode, dir_fd=self._folder)

    def _copy_content(self, source: int, size: int) -> None:
        """Copy inside the kernel where the system can (some file systems then share the blocks), else by hand."""
        in_kernel = hasattr(os, "copy_file_range")
        done = 0
        while done < size:
            self._hold()
            step = min(size - done, _COPY_STEP)
            if in_kernel:
                try:
                    copied = os.copy_file_range(source, self._file, step, done, done)
                except OSError as error:
                    if done or error.errno not in NOT_POSSIBLE | {errno.EXDEV}:
                        raise
                    in_kernel = False
                    continue
            else:
                copied = os.pwrite(self._file, os.pread(source, min(step, PIECE_SIZE), done), done)
            if not copied:
                raise IntegrityError(f"{self._key}: its source became shorter while it was copied", key=self._key)
            done += copied

    def _keep(self) -> os.stat_result:
        with self._lock:
            os.utime(self._file, ns=(self._nanoseconds, self._nanoseconds))
            if self._permissions is not None:
                os.fchmod(self._file, self._permissions)
            os.fsync(self._file)
            self._pass()
            if self._mode is WriteMode.CREATE:
                self._link()
            else:
                os.replace(self._temporary, self._target, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            status = os.fstat(self._file)
            if not self._folder_is_lent:
                sync_folder(self._folder)
            self._close()
            return status

    def _link(self) -> None:
        try:
            os.link(
                self._temporary,
                self._target,
                src_dir_fd=self._folder,
                dst_dir_fd=self._folder,
                follow_symlinks=False,
            )
        except FileExistsError:
            self._tree.refuse_occupied(self._key, self._folder, self._target, self._mode)
            raise
        except OSError as error:
            if error.errno in NOT_POSSIBLE | {errno.EPERM, errno.EMLINK}:
                raise Unsupported(
                    f"the file system of provider {self._tree.name} has no hard links, so it cannot create a file only"
                    " if it is absent",
                    provider=self._tree.name,
                ) from error
            raise
        os.unlink(self._temporary, dir_fd=self._folder)

    def drop(self) -> None:
        """Remove the temporary file, if there is one still."""
        with self._lock:
            if self._file >= 0:
                with contextlib.suppress(OSError):
                    os.unlink(self._temporary, dir_fd=self._folder)
                self._close()

    def _close(self) -> None:
        os.close(self._file)
        if not self._folder_is_lent:
            os.close(self._folder)
        self._file = self._folder = -1


class FileReader:
    """A range of a file, read piece by piece. The methods run in threads, ordered by one lock."""

    def __init__(self, tree: Tree, key: str, range: ByteRange, if_match: str | None) -> None:
        self._tree = tree
        self._key = key
        self._range = range
        self._if_match = if_match
        self._lock = threading.Lock()
        self._file = -1
        self._offset = 0
        self.left = 0
        """Bytes of the range not read yet."""

    def open(self, folder: int | None = None) -> tuple[ObjectInfo, bytes]:
        """Open the file and read the first piece; a small file is closed again at once.

        ``folder`` is the one that holds it, where the caller has opened that.
        """
        with self._lock:
            self._file, status = self._tree.open_file(self._key, folder)
            try:
                self._tree.match(self._key, self._if_match, status)
                self._offset, self.left = resolve_range(self._range, status.st_size, self._key)
                return info_of(self._key, status), self._next(_READ_SIZE)
            except BaseException:
                self._close()
                raise

    def read(self) -> bytes:
        """Read the next piece; empty at the end of the range. Raises IntegrityError when the file became shorter."""
        with self._lock:
            return self._next(_READ_SIZE)

    def read_all(self, folder: int | None = None) -> FetchedObject:
        """Open the file, as :meth:`open` does, and read the range whole."""
        info, first = self.open(folder)
        with self._lock:
            try:
                return FetchedObject(info, first + self._next(self.left) if self.left else first)
            finally:
                self._close()

    def _next(self, most: int) -> bytes:
        pieces: list[bytes] = []
        wanted = min(self.left, most)
        while wanted:
            piece = os.pread(self._file, wanted, self._offset)
            if not piece:
                raise IntegrityError(
                    f"{self._key} became shorter while it was read from provider {self._tree.name}", key=self._key
                )
            pieces.append(piece)
            wanted -= len(piece)
            self._offset += len(piece)
            self.left -= len(piece)
        if not self.left:
            self._close()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        self.left = 0
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Walker:
    """A listing in progress: one open folder for each level of depth, whatever the size of the tree.

    Names that are not UTF-8 have no key and are passed over.
    """

    def __init__(self, tree: Tree, prefix: str, recursive: bool) -> None:
        self._tree = tree
        self._prefix = prefix
        self._recursive = recursive
        self._lock = threading.Lock()
        self._levels: list[tuple[str, int, os._ScandirIterator[str]]] = []
        self._begun = False

    def next_page(self) -> tuple[ObjectInfo, ...]:
        """Return the next objects; none at the end."""
        with self._lock:
            if not self._begun:
                self._begun = True
                with contextlib.suppress(NotFound, NotDirectory):
                    self._enter(self._tree.open_folder(self._prefix), self._prefix)
            found: list[ObjectInfo] = []
            while self._levels and len(found) < PAGE_SIZE:
                self._step(found)
            if not found:
                # a disk that went away in the middle must not pass for one with fewer files
                os.close(self._tree.open_root(self._prefix))
            return tuple(found)

    def _enter(self, folder: int, prefix: str) -> None:
        try:
            entries = os.scandir(folder)
        except BaseException:
            os.close(folder)
            raise
        self._levels.append((f"{prefix}/" if prefix else "", folder, entries))

    def _step(self, found: list[ObjectInfo]) -> None:
        prefix, folder, entries = self._levels[-1]
        entry = next(entries, None)
        if entry is None:
            self._leave()
            return
        name = entry.name
        if name.startswith(TEMPORARY) or any("\ud800" <= character <= "\udfff" for character in name):
            return
        key = prefix + name
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if self._recursive and stat_bits.S_ISDIR(status.st_mode):
                self._enter(os.open(name, DIRECTORY, dir_fd=folder), key)
                return
        except OSError as error:
            if error.errno in NOT_THERE:
                return  # removed, or turned into something else, since its folder was read
            raise
        found.append(info_of(key, status))

    def close(self) -> None:
        with self._lock:
            self._begun = True
            while self._levels:
                self._leave()

    def _leave(self) -> None:
        _, folder, entries = self._levels.pop()
        entries.close()
        os.close(folder)

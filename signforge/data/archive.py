"""FileTree: named files in a folder or in zip archives, read without extraction.

Nothing outside the folder or archive can be reached through a tree: links, absolute names and
names with ``..`` are refused, and no file gives more bytes than its cap.
"""

import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Protocol, Self

from signforge.errors import SignforgeError

MAX_FILE_BYTES = 256 * 2**20
"""Most bytes that one file of a tree may give, counted as they are read."""
MAX_FILES = 5_000_000

_DRIVE = re.compile(r"[A-Za-z]:")
_SKIPPED_FOLDERS = frozenset({"__MACOSX"})


class FileTree(Protocol):
    """Files by their POSIX path below a root; used as a context manager.

    source: the path as the user knows it, for messages.
    """

    source: str

    def names(self) -> tuple[str, ...]:
        """All files, sorted; hidden files and ``__MACOSX`` are left out."""
        ...

    def folders(self) -> tuple[str, ...]:
        """All folders, sorted, the empty ones too; without the root itself."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one of ``names()``; SignforgeError where that fails."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class FolderTree:
    """A folder on disk. ``stamps()`` tells when something in it has changed.

    Raises SignforgeError for a link inside the folder and for a folder that cannot be listed.
    """

    def __init__(self, root: Path) -> None:
        self.source = str(root)
        self._root = root.resolve()
        self._stamps: dict[str, tuple[int, int]] = {}
        self._folders: list[str] = []
        self._scan("")

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._stamps))

    def folders(self) -> tuple[str, ...]:
        return tuple(sorted(self._folders))

    def stamps(self) -> list[tuple[str, int, int]]:
        """(name, size in bytes, modification time in ns) of every file, sorted by name."""
        return [(name, *self._stamps[name]) for name in self.names()]

    def read(self, name: str) -> bytes:
        if name not in self._stamps:
            raise SignforgeError(f"{self.source}: there is no file {name} in this folder.")
        # Checked again at reading: a folder may have become a link since it was listed.
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root):
            raise SignforgeError(f"{self.source}: {name} leads outside the folder; remove it.")
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise SignforgeError(
                f"{self.source}: {name} cannot be read: {error.strerror}."
            ) from None
        return _within_cap(data, self.source, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def _scan(self, folder: str) -> None:
        try:
            with os.scandir(self._root / folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise SignforgeError(
                f"{self.source}: folder {folder or '.'} cannot be listed: {error.strerror}."
            ) from None
        for entry in entries:
            if _skipped(entry.name):
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_symlink():
                raise SignforgeError(
                    f"{self.source}: {name} is a link; put the file or folder itself in its place."
                )
            if entry.is_dir():
                self._folders.append(name)
                self._scan(name)
            elif entry.is_file():
                status = entry.stat()
                self._stamps[name] = (status.st_size, status.st_mtime_ns)
                if len(self._stamps) > MAX_FILES:
                    raise SignforgeError(
                        f"{self.source} holds more than {MAX_FILES:,} files; name the folder of "
                        "the data set itself."
                    )


class ZipTree:
    """One or several zip archives seen as one tree.

    Raises SignforgeError for a file that is no zip, an entry whose name could leave the archive,
    an entry that is a link, and a name that appears twice.
    """

    def __init__(self, paths: Sequence[Path], source: str | None = None) -> None:
        self.source = source if source is not None else ", ".join(str(path) for path in paths)
        self._archives: list[zipfile.ZipFile] = []
        self._members: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        self._folders: set[str] = set()
        try:
            for path in paths:
                self._add(path)
        except BaseException:
            self.close()
            raise

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._members))

    def folders(self) -> tuple[str, ...]:
        return tuple(sorted(self._folders))

    def read(self, name: str) -> bytes:
        if name not in self._members:
            raise SignforgeError(f"{self.source}: there is no file {name} in this archive.")
        archive, member = self._members[name]
        try:
            with archive.open(member) as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except (
            zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError
        ) as error:  # fmt: skip
            raise SignforgeError(
                f"{archive.filename}: {name} is damaged ({error}); get the archive again."
            ) from None
        except (RuntimeError, NotImplementedError) as error:
            raise SignforgeError(f"{archive.filename}: {name} cannot be read: {error}.") from None
        return _within_cap(data, self.source, name)

    def close(self) -> None:
        for archive in self._archives:
            archive.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _add(self, path: Path) -> None:
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise SignforgeError(
                f"{path} is not a whole zip archive ({error}); get it again."
            ) from None
        except OSError as error:
            raise SignforgeError(f"{path} cannot be opened: {error.strerror or error}.") from None
        self._archives.append(archive)
        for member in archive.infolist():
            self._add_member(path, archive, member)

    def _add_member(self, path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        name = member.filename
        parts = PurePosixPath(name).parts
        if not parts:  # "./", which some programs write for the root itself
            return
        if name.startswith("/") or ".." in parts or "\\" in name or _DRIVE.match(parts[0]):
            raise SignforgeError(
                f"{path}: the entry {member.filename!r} could lead outside the archive; "
                "do not use this file."
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise SignforgeError(f"{path}: the entry {name} is a link; do not use this file.")
        if any(_skipped(part) for part in parts):
            return
        name = "/".join(parts)
        self._folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
        if member.is_dir():
            self._folders.add(name)
            return
        if name in self._members:
            raise SignforgeError(
                f"{path}: {name} appears twice in {self.source}; keep one of the two."
            )
        self._members[name] = (archive, member)
        if len(self._members) > MAX_FILES:
            raise SignforgeError(f"{path} holds more than {MAX_FILES:,} files; split it.")


def children(names: Iterable[str], folder: str) -> list[str]:
    """Those of ``names`` (files or folders) that lie directly in ``folder`` ("" is the root)."""
    prefix = f"{folder}/" if folder else ""
    return [name for name in names if name.startswith(prefix) and "/" not in name[len(prefix) :]]


def _skipped(part: str) -> bool:
    return part.startswith(".") or part in _SKIPPED_FOLDERS


def _within_cap(data: bytes, source: str, name: str) -> bytes:
    if len(data) > MAX_FILE_BYTES:
        raise SignforgeError(
            f"{source}: {name} is larger than {MAX_FILE_BYTES // 2**20} MiB; remove it."
        )
    return data

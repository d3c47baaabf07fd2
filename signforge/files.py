"""Files that are either whole or not there, also after a kill or a power cut."""

import errno
import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from signforge.errors import SignforgeError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def sha256(content: bytes) -> str:
    """SHA-256 of ``content`` as hex."""
    return hashlib.sha256(content).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes to a temporary name, fsyncs, renames and fsyncs the folder: no half file, ever.

    Raises SignforgeError where the file system refuses (disk full, no permission); what stood
    at ``path`` before is then still there, and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        make_folder(path.parent)
        write_synced(temporary, content)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # where a folder of the path is a file, unlink fails too
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None


def move_into_place(source: Path, path: Path) -> None:
    """Renames ``source`` to ``path``, in the same folder, in one step that survives a power cut.

    Raises SignforgeError where the file system refuses; both are then as they were.
    """
    try:
        source.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_synced(path: Path, content: bytes) -> None:
    """Writes ``content`` and waits until it is on the disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """Creates ``folder`` and its parents so that their names survive a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Puts the names in ``folder`` on the disk: fsync of a file does not reach its own name."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # network file systems without this operation
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, names: str = "*") -> None:
    """Deletes the temporary files and folders that a killed writer left in ``folder``.

    names: pattern of what was to be written, for a folder that may hold files of others.
    Files of ``write_atomically`` name their process; those of one that is alive are left to it.
    """
    for leftover in folder.glob(f".{names}.tmp"):
        if _is_anothers(leftover):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _is_anothers(leftover: Path) -> bool:
    """Whether its name ends in the number of another process that is alive on this machine."""
    number = leftover.name.removesuffix(".tmp").rpartition(".")[2]
    if os.name == "nt" or not number.isdecimal() or int(number) in (0, os.getpid()):
        return False  # on Windows, signal 0 would end the process
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def cannot_write(path: Path, error: OSError) -> SignforgeError:
    """The sentence for a file that the system refuses to write."""
    remedy = "; free some space there and run it again" if error.errno in NO_ROOM else ""
    return SignforgeError(f"Cannot write {path}: {error.strerror}{remedy}.")


def expanded(path: str) -> Path:
    """``path`` with the home folder that its ``~`` means. Raises SignforgeError for no such."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SignforgeError(
            f"{path} names the home folder of a user that there is not; write it out."
        ) from None

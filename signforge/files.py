"""Files that are either whole or not there."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from signforge.errors import SignforgeError


def sha256(content: bytes) -> str:
    """SHA-256 of ``content`` as hex."""
    return hashlib.sha256(content).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes to a temporary name, fsyncs and renames, so no reader ever sees half a file.

    Raises SignforgeError where the file system refuses (disk full, no permission); what stood
    at ``path`` before is then still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # where a folder of the path is a file, unlink fails too
            temporary.unlink(missing_ok=True)
        raise SignforgeError(f"Cannot write {path}: {error.strerror}.") from None

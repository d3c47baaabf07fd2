"""Decoded images of a source as one memory-mapped file beside a JSON manifest.

Both are written to temporary names, fsynced and renamed, the manifest last. What does not match
its hashes or its key is rebuilt, never trusted.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
from safetensors.torch import load_file, save_file
from torch import Tensor

from signforge.data.images import LabeledImages, LabeledSplits
from signforge.errors import SignforgeError
from signforge.files import expanded, remove_leftovers

_FIELDS = ("images", "labels", "groups")
_SPLITS = ("train", "val", "test")
_FORMAT = 2
_STEM = "images-"


@dataclass(frozen=True)
class CacheKey:
    """What decides the content of a cache.

    origin: the source and the options it is read with; names the cache file, so that a changed
        source replaces its older cache.
    state: the source's files with size and mtime, and the readers' own version (SHA-256, hex).
    """

    origin: str
    state: str


def make_key(
    origin: Mapping[str, str | int | float], stamps: Sequence[tuple[str, int, int]]
) -> CacheKey:
    """The key of a source: ``origin`` such as resolved path, resolution and crop; ``stamps`` its
    files as (name, size in bytes, mtime in ns)."""
    state = {"stamps": stamps, "readers": _readers_version(), "format": _FORMAT}
    return CacheKey(_sha256_json(dict(origin)), _sha256_json({"origin": dict(origin), **state}))


def default_cache_folder() -> Path | None:
    """$SIGNFORGE_CACHE, or ``signforge`` in the XDG cache folder.

    None where that is in a home folder that is not there, as for a user without an account.
    """
    own = os.environ.get("SIGNFORGE_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME", "")
    base = shared if Path(shared).is_absolute() else "~/.cache"
    try:
        return expanded(own or f"{base}/signforge")
    except SignforgeError:
        return None


def open_cached(folder: Path, key: CacheKey, source: str) -> LabeledSplits | None:
    """The splits cached under ``key``, memory-mapped; None if there are none, or damaged ones.

    source: the source as it is named now; another path may lead to the same files.
    """
    data_path, manifest_path = _paths(folder, key)
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        body = manifest["body"]
        if manifest["state"] != key.state or manifest["body_sha256"] != _sha256_json(body):
            return None
        if _sha256_file(data_path) != body["data_sha256"]:
            return None
        tensors = load_file(data_path)
        splits = {
            split: LabeledImages(
                **{field: tensors[f"{split}.{field}"] for field in _FIELDS},
                class_names=tuple(body["class_names"]),
                names=tuple(body["splits"][split]["names"]),
                source=source + body["splits"][split]["source_suffix"],
            )
            for split in body["splits"]
        }
        return LabeledSplits(
            train=splits["train"],
            val=splits.get("val"),
            test=splits.get("test"),
            notes=tuple(body["notes"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SignforgeError):
        return None
    except Exception as error:
        if type(error).__name__ == "SafetensorError":
            return None
        raise


def write_cached(folder: Path, key: CacheKey, splits: LabeledSplits, source: str) -> None:
    """Writes ``splits`` (without unreadable files) under ``key``; OSError where that fails.

    source: what the ``source`` of every split starts with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # those of another user may stay
        remove_leftovers(folder, f"{_STEM}*")
    tensors: dict[str, Tensor] = {}
    for split, images in splits.named().items():
        for field in _FIELDS:
            tensors[f"{split}.{field}"] = getattr(images, field).contiguous()
    data_path, manifest_path = _paths(folder, key)

    def write_data(path: Path) -> None:
        try:
            save_file(tensors, path)
        except Exception as error:  # safetensors wraps a full disk in an error of its own
            raise OSError(str(error)) from error

    digest = _write_whole(data_path, write_data)
    body = {
        "data_sha256": digest,
        "class_names": list(splits.train.class_names),
        "notes": list(splits.notes),
        "splits": {
            split: {
                "source_suffix": images.source.removeprefix(source),
                "names": list(images.names),
            }
            for split, images in splits.named().items()
        },
    }
    text = json.dumps({"state": key.state, "body_sha256": _sha256_json(body), "body": body})
    _write_whole(manifest_path, lambda path: _write_text(path, text))


def _paths(folder: Path, key: CacheKey) -> tuple[Path, Path]:
    stem = f"{_STEM}{key.origin[:20]}"
    return folder / f"{stem}.safetensors", folder / f"{stem}.json"


def _write_whole(path: Path, write: Callable[[Path], None]) -> str:
    """Makes ``path`` appear whole or not at all; returns its SHA-256."""
    # A folder, as safetensors goes by a temporary name of its own. The token is for processes of
    # two machines that share the cache, and may have the same number.
    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.tmp")
    folder.mkdir()
    temporary = folder / path.name
    try:
        write(temporary)
        with suppress(OSError):  # where the file system has no permissions
            temporary.chmod(folder.stat().st_mode & 0o666)  # safetensors lets its owner alone read
        digest = _sha256_file(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return digest


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _readers_version() -> str:
    """SHA-256 of this folder's code and Pillow's version: another reader, another cache."""
    digest = hashlib.sha256(PIL.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _sha256_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

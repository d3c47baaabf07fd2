"""Decoded images of a source as one memory-mapped file beside a JSON manifest.

Both are written to temporary names, fsynced and renamed, the manifest last. What does not match
its hashes or its key is rebuilt, never trusted.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
from safetensors.torch import load_file, save_file
from torch import Tensor

from signforge.data.images import LabeledImages, LabeledSplits
from signforge.errors import SignforgeError

_FIELDS = ("images", "labels", "groups")
_SPLITS = ("train", "val", "test")
_FORMAT = 1


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


def default_cache_folder() -> Path:
    """$SIGNFORGE_CACHE, or ``signforge`` in the XDG cache folder."""
    own = os.environ.get("SIGNFORGE_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(shared) if Path(shared).is_absolute() else Path("~/.cache").expanduser()
    return base / "signforge"


def open_cached(folder: Path, key: CacheKey) -> LabeledSplits | None:
    """The splits cached under ``key``, memory-mapped; None if there are none, or damaged ones."""
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
                source=body["splits"][split]["source"],
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


def write_cached(folder: Path, key: CacheKey, splits: LabeledSplits) -> None:
    """Writes ``splits`` (without unreadable files) under ``key``; OSError where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
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
            split: {"source": images.source, "names": list(images.names)}
            for split, images in splits.named().items()
        },
    }
    text = json.dumps({"state": key.state, "body_sha256": _sha256_json(body), "body": body})
    _write_whole(manifest_path, lambda path: _write_text(path, text))


def _paths(folder: Path, key: CacheKey) -> tuple[Path, Path]:
    stem = f"images-{key.origin[:20]}"
    return folder / f"{stem}.safetensors", folder / f"{stem}.json"


def _write_whole(path: Path, write: Callable[[Path], None]) -> str:
    """Makes ``path`` appear whole or not at all; returns its SHA-256."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        digest = _sha256_file(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
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

"""A balanced data set as PNG files in class folders, for training code that is not torch."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.data.encode import encode_png
from signforge.errors import SignforgeError
from signforge.export.folder import (
    MANIFEST,
    SPLITS,
    ExportReport,
    finish_export,
    open_export,
    remove_strays,
)
from signforge.export.manifest import (
    Exportable,
    ManifestRow,
    count_origins,
    manifest_csv,
    manifest_rows,
)
from signforge.files import cannot_write, make_folder, write_atomically
from signforge.progress import Track, no_progress

_CHUNK = 256


def export_images(
    splits: Mapping[str, Exportable],
    out: Path,
    *,
    request: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
    track: Track = no_progress,
) -> ExportReport:
    """Writes every item of the data sets below ``out``, one folder a split, one a class in it.

    ``out/train/00014_Stop/real_000000.png``: the number is the item's index in the data set.
    torchvision's ImageFolder and ``--data out`` read it back with equal pixels and labels. A file
    that already holds what would be written is kept.

    splits: by name, of ``SPLITS``, all with the same classes; a SyntheticBalancedDataset is
        written as it is at its present epoch.
    request: see ``open_export``. facts: JSON-ready, recorded in export.json when all is done.

    Raises SignforgeError as ``open_export``, for a class without image, for a data set with a
    transform or a pool on an accelerator, and where the file system refuses (then run it again to
    go on).
    """
    rows = _plan(splits)
    finished = open_export(out, request)
    if finished is not None:
        return finished
    remove_strays(out, rows)
    written = sum(
        _write_split(out, [row for row in rows if row.split == split], data, track)
        for split, data in splits.items()
    )
    write_atomically(out / MANIFEST, manifest_csv(rows))
    if hasattr(os, "sync"):
        os.sync()  # one for all: an fsync of each image would take minutes
    report = ExportReport(out, count_origins(rows), written, False, facts or {})
    finish_export(report, request)
    return report


def _plan(splits: Mapping[str, Exportable]) -> list[ManifestRow]:
    unknown = next((split for split in splits if split not in SPLITS), None)
    if unknown is not None or not splits:
        raise SignforgeError(f"Cannot export split {unknown!r}: there are {', '.join(SPLITS)}.")
    rows = []
    names = next(iter(splits.values())).class_names
    for split, data in splits.items():
        if data.class_names != names:
            raise SignforgeError(f"The classes of {split} are not those of the other splits.")
        if isinstance(data, SyntheticBalancedDataset):
            _refuse_hidden_pixels(data)
        rows += manifest_rows(split, data)
    return rows


def _refuse_hidden_pixels(data: SyntheticBalancedDataset) -> None:
    if data.transform is not None:
        raise SignforgeError(
            "The data set has a transform, but files hold images as they are before it; set its "
            "transform to None for the export."
        )
    if data.pool_images.device.type != "cpu":
        raise SignforgeError(
            f"The synthetic images lie on {data.pool_images.device}, out of reach of an export; "
            "make the data set with pool_device='cpu'."
        )


def _write_split(out: Path, rows: list[ManifestRow], data: Exportable, track: Track) -> int:
    """Writes the images that are not there yet; returns how many."""
    for folder in sorted({(out / row.file).parent for row in rows}):
        try:
            make_folder(folder)
        except OSError as error:
            raise cannot_write(folder, error) from None
    written = 0
    starts = range(0, len(rows), _CHUNK)
    for start in track(starts, f"Writing {rows[0].split}", len(starts)):
        chunk = rows[start : start + _CHUNK]
        items = data.__getitems__(range(start, start + len(chunk)))
        for row, item in zip(chunk, items, strict=True):
            written += _put(out / row.file, encode_png(item[0]), out / f".image.{os.getpid()}.tmp")
    return written


def _put(path: Path, content: bytes, temporary: Path) -> bool:
    """Whether ``content`` had to be written to ``path``. Whole or not at all, but not synced."""
    try:
        with suppress(FileNotFoundError):
            if path.read_bytes() == content:
                return False
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None
    return True

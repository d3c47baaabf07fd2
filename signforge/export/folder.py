"""The folder of an exported data set: whose it is, and how far an earlier export came.

export.json says what was asked for and whether all of it is there, manifest.csv what each file
is. Every file is whole or not there, so an export that was killed is taken up where it stopped.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from signforge.errors import SignforgeError
from signforge.export.manifest import ORIGINS, ManifestRow, count_origins, read_manifest
from signforge.files import remove_leftovers, write_atomically

FORMAT = "signforge-export-1"
RECORD, MANIFEST, GATE = "export.json", "manifest.csv", "gate"
SPLITS = ("train", "val", "test")

_NAMED_DIFFERENCES = 3
_CLASS_FOLDER = re.compile(r"\d{5,}_[A-Za-z0-9-]+")
_IMAGE = re.compile(rf"({'|'.join(ORIGINS)})_\d{{6,}}\.png")


@dataclass(frozen=True)
class ExportReport:
    """What an exported folder holds.

    counts: images by split, class folder and origin.
    written: files that this call wrote; the others were there and right.
    was_complete: nothing was left to do.
    facts: what the caller had recorded beside the counts.
    """

    folder: Path
    counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    written: int
    was_complete: bool
    facts: Mapping[str, Any]

    def total(self, split: str, origin: str) -> int:
        """Images of one origin (real, synthetic, oversampled) in one split."""
        return sum(classes[origin] for classes in self.counts[split].values())


def open_export(out: Path, request: Mapping[str, Any]) -> ExportReport | None:
    """Claims ``out`` for an export of ``request``; its report if that export is complete there.

    request: JSON-ready; all that decides the images. It is written to ``out`` before anything
        else, and compared when an export is taken up again.

    Raises SignforgeError, having written nothing, where ``out`` holds something that is no part
    of such an export, or an export of another request (the sentence says what differs).
    """
    wanted = json.loads(json.dumps(request))
    record = _read_record(out)
    if record is None:
        _refuse_if_filled(out)
        _write_record(out, _record(wanted))
        return None
    _refuse_other_request(out, record["request"], wanted)
    rows = _finished_rows(out) if record["complete"] else None
    if rows is not None:
        return ExportReport(out, count_origins(rows), 0, True, record["facts"])
    _refuse_foreign_files(out)
    _write_record(out, _record(wanted))
    return None


def finish_export(report: ExportReport, request: Mapping[str, Any]) -> None:
    """Marks an export as complete; the last thing that is written."""
    _write_record(report.folder, _record(request, report))


def remove_strays(out: Path, rows: Iterable[ManifestRow]) -> None:
    """Deletes what a killed export left in ``out`` that is not among ``rows``.

    Its gate may have decided otherwise on some image, on another machine.
    """
    remove_leftovers(out)
    for file in set(_images(out)) - {row.file for row in rows}:
        (out / file).unlink()


def _read_record(out: Path) -> dict[str, Any] | None:
    """export.json; None where there is none."""
    path = out / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT or not isinstance(record["request"], dict):
            raise ValueError
        if not isinstance(record["complete"], bool) or set(record) != set(_record({})):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SignforgeError(f"Cannot read {path}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise SignforgeError(
            f"{path} is not the record of an export that this version can take up; give another "
            "folder."
        ) from None
    return dict(record)


def _record(request: Mapping[str, Any], report: ExportReport | None = None) -> dict[str, Any]:
    """export.json; without ``report`` that of an export that is under way."""
    return {
        "format": FORMAT,
        "complete": report is not None,
        "request": dict(request),
        "counts": report.counts if report else {},
        "facts": report.facts if report else {},
    }


def _write_record(out: Path, record: Mapping[str, Any]) -> None:
    content = json.dumps(record, indent=2, allow_nan=False) + "\n"
    write_atomically(out / RECORD, content.encode())


def _refuse_if_filled(out: Path) -> None:
    if not out.exists():
        return
    try:
        names = sorted(path.name for path in out.iterdir() if not _hidden(path))
    except OSError as error:
        raise SignforgeError(f"Cannot export to {out}: {error.strerror}.") from None
    if names:
        raise SignforgeError(
            f"{out} already holds {names[0]} and is no export; give a new or an empty folder."
        )


def _refuse_other_request(out: Path, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    old, new = dict(_flat(before)), dict(_flat(wanted))
    absent = object()
    differing = [
        f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}"
        for key in dict.fromkeys((*old, *new))
        if old.get(key, absent) != new.get(key, absent)
    ]
    if differing:
        more = len(differing) - _NAMED_DIFFERENCES
        named = "; ".join(differing[:_NAMED_DIFFERENCES]) + (f"; {more} more" if more > 0 else "")
        raise SignforgeError(
            f"{out} holds another export ({named}); ask for that one again or give another folder."
        )


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of the leaves."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield prefix + key, inner


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}..."


def _finished_rows(out: Path) -> list[ManifestRow] | None:
    """The manifest, if every file in it is still there."""
    try:
        rows = read_manifest(out / MANIFEST)
    except SignforgeError:
        return None
    present = set(_images(out))
    return rows if all(row.file in present for row in rows) else None


def _images(out: Path) -> Iterator[str]:
    """Every file in a class folder of a split, as the manifest writes it; no hidden ones."""
    for split in SPLITS:
        for folder in _visible(out / split):
            yield from (f"{split}/{folder}/{name}" for name in _visible(out / split / folder))


def _visible(folder: Path) -> list[str]:
    """Names in a folder, hidden ones left out; none where it is no folder."""
    if not folder.is_dir():
        return []
    return [path.name for path in folder.iterdir() if not _hidden(path)]


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _refuse_foreign_files(out: Path) -> None:
    """Raises for what an export would not have written; hidden files are nobody's."""
    foreign = [name for name in _visible(out) if name not in {RECORD, MANIFEST, GATE, *SPLITS}]
    for split in SPLITS:
        names = _visible(out / split)
        foreign += [f"{split}/{name}" for name in names if not _CLASS_FOLDER.fullmatch(name)]
    foreign += [file for file in _images(out) if not _IMAGE.fullmatch(file.rsplit("/", 1)[1])]
    if foreign:
        raise SignforgeError(
            f"{out} holds {min(foreign)}, which is no part of the export begun there; move it "
            "away, or give another folder."
        )

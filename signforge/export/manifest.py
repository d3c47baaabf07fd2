"""What an exported data set consists of: one row a file, planned before any file is written."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.data.encode import class_folders
from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.errors import SignforgeError

Exportable: TypeAlias = SyntheticBalancedDataset | LabeledImages
Origin = Literal["real", "synthetic", "oversampled"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)
_NOT_UTF8 = "surrogateescape"  # how Python reads a class folder whose name is no UTF-8


class ManifestRow(NamedTuple):
    """One image file.

    file: POSIX path below the export's folder; its number is the item's index in the data set.
    source_index: index of the real item that the file shows, in its split; None for synthetic.
    group: of that real item (a GTSRB track); None where unknown. Files of one group show one
        physical sign, so a later split must keep them together.
    """

    file: str
    split: str
    label: int
    class_name: str
    origin: Origin
    source_index: int | None
    group: int | None


def manifest_rows(split: str, data: Exportable) -> list[ManifestRow]:
    """A row for each item of ``data``, in its order, in the folder ``split``.

    Raises SignforgeError for a class without any item: readers of class folders number the
    folders that are there, so all later classes would get another label.
    """
    empty = (data.class_counts == 0).nonzero().flatten().tolist()
    if empty:
        raise SignforgeError(
            f"Class {empty[0]} ({data.class_names[empty[0]]!r}) has no image in {split}, and an "
            "image folder cannot hold an empty class; leave the class out or add images of it."
        )
    folders = class_folders(data.class_names)
    width = max(6, len(str(len(data) - 1)))
    groups = _groups(data)
    rows = []
    shown = _real_indices(data)
    for index, (label, source) in enumerate(zip(data.targets, shown, strict=True)):
        origin = _origin(index, source)
        group = groups[source] if groups and source >= 0 else UNKNOWN_GROUP
        rows.append(
            ManifestRow(
                file=f"{split}/{folders[label]}/{origin}_{index:0{width}d}.png",
                split=split,
                label=label,
                class_name=data.class_names[label],
                origin=origin,
                source_index=source if source >= 0 else None,
                group=group if group != UNKNOWN_GROUP else None,
            )
        )
    return rows


def count_origins(rows: Iterable[ManifestRow]) -> dict[str, dict[str, dict[str, int]]]:
    """``{split: {class folder: {origin: files}}}``, classes in label order, every origin named."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows:
        split, folder, _ = row.file.split("/")
        none_yet: dict[str, int] = dict.fromkeys(ORIGINS, 0)
        counts.setdefault(split, {}).setdefault(folder, none_yet)[row.origin] += 1
    return {split: dict(sorted(classes.items())) for split, classes in counts.items()}


def manifest_csv(rows: Iterable[ManifestRow]) -> bytes:
    """UTF-8 CSV with a header; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ManifestRow._fields)
    writer.writerows(rows)
    return text.getvalue().encode(errors=_NOT_UTF8)


def read_manifest(path: Path) -> list[ManifestRow]:
    """The rows of a manifest.csv. Raises SignforgeError where it is missing or none."""
    try:
        text = path.read_text(encoding="utf-8", errors=_NOT_UTF8)
        header, *lines = csv.reader(io.StringIO(text, newline=""))
        if tuple(header) != ManifestRow._fields:
            raise ValueError
        return [_row(line) for line in lines]
    except OSError as error:
        raise SignforgeError(f"Cannot read {path}: {error.strerror}.") from None
    except (ValueError, TypeError, csv.Error):
        raise SignforgeError(f"{path} is not the manifest of an export.") from None


def _row(line: list[str]) -> ManifestRow:
    file, split, label, class_name, origin, source_index, group = line
    if origin not in ORIGINS or file.count("/") != 2:
        raise ValueError(line)
    return ManifestRow(
        file,
        split,
        int(label),
        class_name,
        origin,
        int(source_index) if source_index else None,
        int(group) if group else None,
    )


def _origin(index: int, source: int) -> Origin:
    if source < 0:
        return "synthetic"
    return "real" if source == index else "oversampled"


def _real_indices(data: Exportable) -> list[int]:
    """The real item that each item shows, -1 where that is a synthetic image."""
    if isinstance(data, LabeledImages):
        return list(range(len(data)))
    return data.real_indices(torch.arange(len(data))).tolist()


def _groups(data: Exportable) -> list[int]:
    """Groups of the real items; empty where the data set knows none."""
    real = data if isinstance(data, LabeledImages) else data.real
    return real.groups.tolist() if isinstance(real, LabeledImages) else []

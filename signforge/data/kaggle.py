"""Reader of GTSRB as Kaggle distributes it: Train.csv and Test.csv beside folders of PNG files.

``Train/<ClassId>/<class5>_<track5>_<frame5>.png``; the column Path often does not resolve as
written (another case, another root), so a file is also looked for by its name.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from signforge.data.archive import FileTree
from signforge.data.images import UNKNOWN_GROUP
from signforge.data.listing import ImageEntry, Listing, number_groups
from signforge.data.names import GTSRB_CLASS_NAMES
from signforge.data.tables import Row, gtsrb_label, gtsrb_roi, read_table, require_columns
from signforge.errors import SignforgeError

_TRACK_NAME = re.compile(r"\d{5}_(\d{5})_\d{5}$")


def list_kaggle(tree: FileTree) -> Listing | None:
    """Files of Train.csv and Test.csv; None if ``tree`` has no Train.csv with ClassId and Path.

    Raises SignforgeError for a ClassId outside 0..42 and a row whose file is not to be found.
    """
    tables = {name.lower(): name for name in tree.names() if name.count("/") <= 1}
    table = next((tables[name] for name in sorted(tables) if _file(name) == "train.csv"), None)
    if table is None:
        return None
    rows = read_table(tree, table)
    if not rows or not {"ClassId", "Path"} <= rows[0].keys():
        return None
    folder = _folder(table)
    files = _Files(tree.names(), folder)
    notes: list[str] = []
    train = _entries(tree, table, rows, files, "train", notes)
    keys = [_track_key(entry) for entry in train]
    if None in keys:
        notes.append(
            f"{keys.count(None):,} training images are not named CLASS_TRACK_FRAME: track unknown."
        )
    groups = number_groups(keys, UNKNOWN_GROUP)
    train = [
        ImageEntry(entry.path, entry.name, entry.label, group, entry.roi)
        for entry, group in zip(train, groups, strict=True)
    ]
    test: list[ImageEntry] = []
    test_table = tables.get(f"{folder}test.csv".lower())
    test_rows = [] if test_table is None else read_table(tree, test_table)
    if test_table is not None and test_rows and "ClassId" in test_rows[0]:
        test = _entries(tree, test_table, test_rows, files, "test", notes)
    else:
        notes.append("No Test.csv with ClassId: test is cut from training by track.")
    return Listing(GTSRB_CLASS_NAMES, train=tuple(train), test=tuple(test), notes=tuple(notes))


class _Files:
    """Finds the file that a row means, by path, by path in any case, then by name."""

    def __init__(self, names: tuple[str, ...], folder: str) -> None:
        self._folder = folder
        self._exact = frozenset(names)
        self._lower: Mapping[str, str] = {name.lower(): name for name in reversed(names)}

    def find(self, path: str, split: str, label: int) -> tuple[str | None, bool]:
        """(file or None, whether Path resolved as written)."""
        path = path.replace("\\", "/").removeprefix("./")
        if self._folder + path in self._exact:
            return self._folder + path, True
        file = PurePosixPath(path).name
        places = [f"{split}/{label}/{file}", f"{split}/{label:05d}/{file}", f"{split}/{file}"]
        if split == "test":
            places.reverse()
        for place in (path, *places):
            found = self._lower.get((self._folder + place).lower())
            if found is not None:
                return found, False
        return None, False


def _entries(
    tree: FileTree, table: str, rows: list[Row], files: _Files, split: str, notes: list[str]
) -> list[ImageEntry]:
    require_columns(rows, ("ClassId", "Path"), f"{tree.source}: {table}")
    entries: dict[str, ImageEntry] = {}
    moved = 0
    for row in rows:
        where = f"{tree.source}: {table}, {row['Path']}"
        label = gtsrb_label(row, where)
        path, as_written = files.find(row["Path"], split, label)
        if path is None:
            raise SignforgeError(f"{where}: the file is missing; restore it or drop the line.")
        if path in entries:
            raise SignforgeError(f"{where}: two lines name the file {path}; drop one of them.")
        moved += not as_written
        entries[path] = ImageEntry(path, path, label, UNKNOWN_GROUP, gtsrb_roi(row, where))
    if moved:
        notes.append(
            f"{moved:,} paths in {table} do not resolve as written; their files were found by name."
        )
    return list(entries.values())


def _track_key(entry: ImageEntry) -> tuple[int, int] | None:
    match = _TRACK_NAME.fullmatch(PurePosixPath(entry.path).stem)
    return None if match is None else (entry.label, int(match[1]))


def _file(name: str) -> str:
    return PurePosixPath(name).name


def _folder(name: str) -> str:
    parent = str(PurePosixPath(name).parent)
    return "" if parent == "." else f"{parent}/"

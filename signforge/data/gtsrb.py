"""Readers of GTSRB's official layout (zips or extracted) and of torchvision's tree.

Layout: ``Final_Training/Images/000NN/TTTTT_FFFFF.ppm`` (class, track, frame) with one
``GT-000NN.csv`` a folder, ``Final_Test/Images/NNNNN.ppm`` and ``GT-final_test.csv``; torchvision
has ``Training/000NN`` instead. Labels come from the folder's number.
"""

import re
from collections import Counter
from pathlib import Path, PurePosixPath

from signforge.data.archive import FileTree, children
from signforge.data.images import UNKNOWN_GROUP
from signforge.data.listing import ImageEntry, Listing, number_groups
from signforge.data.names import GTSRB_CLASS_NAMES
from signforge.data.tables import Row, gtsrb_label, gtsrb_roi, read_table, require_columns
from signforge.errors import SignforgeError

TRAINING_ZIP = "GTSRB_Final_Training_Images.zip"
TEST_ZIP = "GTSRB_Final_Test_Images.zip"
TEST_LABELS_ZIP = "GTSRB_Final_Test_GT.zip"

# torchvision unpacks below gtsrb/GTSRB/; file managers unpack into a folder named as the zip.
_OUTER = r"(?:gtsrb/|GTSRB[-_][A-Za-z_]+/)?(?:GTSRB/)?"
_CLASS_FOLDER = re.compile(rf"({_OUTER}(?:Final_Training/Images|Training)/|(?:Images/)?)(\d{{5}})")
_TEST_FOLDER = re.compile(rf"{_OUTER}Final_Test/Images")
_TEST_TABLE = re.compile(rf"{_OUTER}(?:Final_Test/)?(?:Images/)?GT-final_test(?:\.\w+)?\.csv")
_FRAME = re.compile(r"(\d{5})_\d{5}$")
_IMAGE_SUFFIXES = frozenset({".ppm", ".png", ".jpg", ".jpeg"})


def find_zips(folder: Path) -> list[Path]:
    """The official zips that lie in ``folder``, training first; empty without that one."""
    found = [folder / name for name in (TRAINING_ZIP, TEST_ZIP, TEST_LABELS_ZIP)]
    found = [path for path in found if path.is_file()]
    return found if found and found[0].name == TRAINING_ZIP else []


def list_gtsrb(tree: FileTree) -> Listing | None:
    """Training and test files of an official or torchvision tree; None if ``tree`` is neither.

    Raises SignforgeError for a class outside 0..42, a class folder without image, a CSV that
    names a missing file or contradicts its folder, and two training sets in one tree.
    """
    base, folders = _class_folders(tree)
    if not folders:
        return None
    notes: list[str] = []
    train = _list_training(tree, folders, notes)
    test = _list_test(tree, notes)
    if PurePosixPath(base).name == "Training":
        notes.append(
            f"{base} is torchvision's older training set ({len(train):,} images here); the "
            f"official one, {TRAINING_ZIP}, has 39,209."
        )
    absent = sorted(set(range(len(GTSRB_CLASS_NAMES))) - {entry.label for entry in train})
    if absent:
        notes.append(f"No training image of class {', '.join(map(str, absent))}.")
    return Listing(GTSRB_CLASS_NAMES, train=train, test=test, notes=tuple(notes))


def download_gtsrb(root: Path) -> Path:
    """Downloads torchvision's GTSRB (26,640 training and 12,630 test images) below ``root``.

    Returns ``root``, a source for ``load_splits``. Raises SignforgeError without a network.
    """
    from torchvision.datasets import GTSRB

    try:
        for split in ("train", "test"):
            GTSRB(root, split=split, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SignforgeError(
            f"GTSRB could not be downloaded to {root}: {reason}; check the network and the folder."
        ) from None
    return root


def _class_folders(tree: FileTree) -> tuple[str, dict[int, str]]:
    """The folder that holds the class folders, and those by class."""
    names = set(tree.names())
    found: dict[str, dict[int, str]] = {}
    for folder in tree.folders():
        match = _CLASS_FOLDER.fullmatch(folder)
        if match is None:
            continue
        base, number = match[1], match[2]
        # Bare class folders could be any data set: GTSRB's have their table inside.
        if "Training" not in base and f"{folder}/GT-{number}.csv" not in names:
            continue
        found.setdefault(base, {})[int(number)] = folder
    if not found:
        return "", {}
    final = [base for base in found if not base.endswith("/Training/") and base != "Training/"]
    candidates = final or list(found)
    if len(candidates) > 1:
        raise SignforgeError(
            f"{tree.source} holds several training sets ({', '.join(sorted(candidates))}); "
            "name the folder of one of them."
        )
    folders = found[candidates[0]]
    last = len(GTSRB_CLASS_NAMES) - 1
    outside = [folder for label, folder in sorted(folders.items()) if label > last]
    if outside:
        raise SignforgeError(
            f"{tree.source}: class folder {outside[0]} is outside 0..{last}; rename or remove it."
        )
    return candidates[0].rstrip("/"), folders


def _list_training(
    tree: FileTree, folders: dict[int, str], notes: list[str]
) -> tuple[ImageEntry, ...]:
    images: dict[str, list[str]] = {folder: [] for folder in folders.values()}
    names = set(tree.names())
    for name in sorted(names):
        parent, _, file = name.rpartition("/")
        if parent in images and PurePosixPath(file).suffix.lower() in _IMAGE_SUFFIXES:
            images[parent].append(file)
    found: list[tuple[str, int, Row | None, str]] = []
    without_row = 0
    for label, folder in sorted(folders.items()):
        table = f"{folder}/GT-{PurePosixPath(folder).name}.csv"
        rows = _training_rows(tree, table, label, set(images[folder])) if table in names else {}
        if not images[folder]:
            raise SignforgeError(
                f"{tree.source}: class folder {folder} has no image; fill it or remove it."
            )
        for file in images[folder]:
            row = rows.get(file)
            without_row += row is None
            found.append((f"{folder}/{file}", label, row, f"{tree.source}: {table}, {file}"))
    if without_row:
        notes.append(f"{without_row:,} training images have no row in a GT CSV and no region.")
    keys = [_track_key(path, label) for path, label, _, _ in found]
    if None in keys:
        notes.append(
            f"{keys.count(None):,} training images are not named TTTTT_FFFFF: track unknown."
        )
    return tuple(
        ImageEntry(
            path,
            _public_name(path),
            label,
            group,
            None if row is None else gtsrb_roi(row, where),
        )
        for (path, label, row, where), group in zip(
            found, number_groups(keys, UNKNOWN_GROUP), strict=True
        )
    )


def _training_rows(tree: FileTree, table: str, label: int, files: set[str]) -> dict[str, Row]:
    rows = read_table(tree, table)
    require_columns(rows, ("Filename",), f"{tree.source}: {table}")
    for row in rows:
        where = f"{tree.source}: {table}, {row['Filename']}"
        if row["Filename"] not in files:
            raise SignforgeError(f"{where}: the file is missing; restore it or drop the line.")
        if "ClassId" in row and gtsrb_label(row, where) != label:
            raise SignforgeError(
                f"{where} has ClassId {row['ClassId']} but lies in the folder of class {label}."
            )
    return _by_file(tree, table, rows)


def _list_test(tree: FileTree, notes: list[str]) -> tuple[ImageEntry, ...]:
    names = tree.names()
    folders = [folder for folder in tree.folders() if _TEST_FOLDER.fullmatch(folder)]
    tables = [name for name in names if _TEST_TABLE.fullmatch(name)]
    truths = {name: read_table(tree, name) for name in tables}
    # The test archive ships a table without ClassId beside its images: it is no ground truth.
    truths = {name: rows for name, rows in truths.items() if rows and "ClassId" in rows[0]}
    if not folders:
        notes.append("No test images (Final_Test/Images): test is cut from training by track.")
        return ()
    if not truths:
        notes.append(
            "Test images have no labels (GT-final_test.csv with ClassId is missing): test is cut "
            "from training by track."
        )
        return ()
    table, rows = next(iter(truths.items()))
    if len(folders) > 1 or any(other != rows for other in truths.values()):
        raise SignforgeError(
            f"{tree.source} holds several test sets ({', '.join([*folders, *truths])}); keep one."
        )
    require_columns(rows, ("Filename",), f"{tree.source}: {table}")
    present = set(children(names, folders[0]))
    entries = []
    for file, row in sorted(_by_file(tree, table, rows).items()):
        path, where = f"{folders[0]}/{file}", f"{tree.source}: {table}, {file}"
        if path not in present:
            raise SignforgeError(f"{where}: the file is missing; restore it or drop the line.")
        label = gtsrb_label(row, where)
        entries.append(
            ImageEntry(path, _public_name(path), label, UNKNOWN_GROUP, gtsrb_roi(row, where))
        )
    unlabelled = sum(path.lower().endswith(".ppm") for path in present) - len(entries)
    if unlabelled > 0:
        notes.append(f"{unlabelled:,} test images have no row in {table} and are left out.")
    return tuple(entries)


def _by_file(tree: FileTree, table: str, rows: list[Row]) -> dict[str, Row]:
    counts = Counter(row["Filename"] for row in rows)
    twice = next((file for file, count in counts.items() if count > 1), None)
    if twice is not None:
        raise SignforgeError(f"{tree.source}: {table} names {twice} twice; drop one line.")
    return {row["Filename"]: row for row in rows}


def _track_key(path: str, label: int) -> tuple[int, int] | None:
    match = _FRAME.fullmatch(PurePosixPath(path).stem)
    return None if match is None else (label, int(match[1]))


def _public_name(path: str) -> str:
    """The same for zips and trees: what follows the outer folders."""
    return re.sub(rf"^{_OUTER}(?=Final_|Training/)", "", path)

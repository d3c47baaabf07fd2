"""CSV tables of GTSRB and its copies: rows as dicts, with labels and regions checked.

The official files separate by ``;``, Kaggle's by ``,``; columns are found by name.
"""

import csv
import io
from collections.abc import Mapping

from signforge.data.archive import FileTree
from signforge.data.classes import id_in_digits
from signforge.data.decode import MAX_PIXELS, Roi
from signforge.data.names import GTSRB_CLASS_NAMES
from signforge.errors import SignforgeError

Row = Mapping[str, str]

_ROI_COLUMNS = ("Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2")


def read_table(tree: FileTree, name: str) -> list[Row]:
    """Rows of a CSV with a header line; every row has every column.

    Raises SignforgeError for a file that is no CSV and for a row with too few or many fields.
    """
    try:
        text = tree.read(name).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SignforgeError(f"{tree.source}: {name} is not a CSV in UTF-8.") from None
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header else ","
    rows: list[Row] = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [column.strip() for column in next(reader, [])]
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(columns):
                raise SignforgeError(
                    f"{tree.source}: {name}, line {reader.line_num} has {len(fields)} fields "
                    f"instead of {len(columns)}; correct the line."
                )
            rows.append(dict(zip(columns, (field.strip() for field in fields), strict=True)))
    except csv.Error as error:
        raise SignforgeError(f"{tree.source}: {name} is not a CSV: {error}.") from None
    return rows


def require_columns(rows: list[Row], columns: tuple[str, ...], where: str) -> None:
    """SignforgeError that names the first of ``columns`` which the table lacks."""
    for column in columns:
        if rows and column not in rows[0]:
            raise SignforgeError(f"{where} has no column {column}; add it.")


def gtsrb_label(row: Row, where: str) -> int:
    """The row's ClassId, 0..42; SignforgeError that names ``where`` and the value otherwise."""
    last = len(GTSRB_CLASS_NAMES) - 1
    text = row["ClassId"]
    label = id_in_digits(text) if text.isascii() else None
    if label is None or label > last:
        raise SignforgeError(f"{where} has ClassId {text!r}, outside 0..{last}; correct it.")
    return label


def gtsrb_roi(row: Row, where: str) -> Roi | None:
    """The row's region of interest; None where the table has no such columns."""
    if any(column not in row for column in _ROI_COLUMNS):
        return None
    try:
        roi = Roi(*(int(row[column]) for column in _ROI_COLUMNS))
    except ValueError:
        raise SignforgeError(
            f"{where} has a size or region that is not a whole number; correct it."
        ) from None
    inside = 0 <= roi.x1 < roi.x2 <= roi.width and 0 <= roi.y1 < roi.y2 <= roi.height
    if not inside or max(roi.width, roi.height) > MAX_PIXELS:
        raise SignforgeError(f"{where} has a region that does not lie in the image; correct it.")
    return roi

"""Pictures of a data set as PNG files: class counts side by side, image grids with named rows.

A grid's file says in a text chunk where its images lie, so that they can be taken out again.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from signforge.data.decode import MAX_PIXELS, decode_image
from signforge.errors import SignforgeError

T = TypeVar("T")

SPLIT_COLORS = ("#2f6db5", "#e08a1e", "#6a9a3b", "#8a5ca8")
MAX_HEIGHT_INCHES = 400.0
GAP = 1
"""White pixels between the images of a grid."""
MAX_ROWS = 64
"""Of a grid: what can still be looked at, and decoded again for the film and the trackers."""
MARGIN = 6
LAYOUT = "signforge-grid"
"""Name of the PNG text chunk with a grid's layout."""


def save_class_distribution(
    path: Path, counts: Mapping[str, Tensor], class_names: Sequence[str], title: str
) -> None:
    """Draws one horizontal bar for every class and split, with its count, into a PNG.

    counts: split name -> int64 (C,), in the order of ``class_names``.
    Raises SignforgeError if the file cannot be written.
    """
    num_classes = len(class_names)
    width = 0.84 / max(len(counts), 1)
    row_inches = 0.14 + 0.11 * len(counts)
    height = min(1.4 + row_inches * num_classes, MAX_HEIGHT_INCHES)
    figure = Figure(figsize=(10, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    positions = np.arange(num_classes)
    for place, (split, of_class) in enumerate(counts.items()):
        offset = (place - (len(counts) - 1) / 2) * width
        bars = axes.barh(
            positions + offset,
            of_class.numpy(),
            height=width,
            color=SPLIT_COLORS[place % len(SPLIT_COLORS)],
            label=f"{split} ({int(of_class.sum()):,} images)",
        )
        axes.bar_label(bars, padding=2, fontsize=6, color="#444444")
    labels = [f"{name}  {label}" for label, name in enumerate(class_names)]
    # A class name may hold a dollar sign, which matplotlib would read as mathematics.
    axes.set_yticks(positions, labels, fontsize=8, parse_math=False)
    axes.set_ylim(num_classes - 0.4, -0.6)
    axes.set_xlabel("images")
    axes.set_title(title, parse_math=False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if counts:
        axes.legend(loc="lower right", frameon=True)
    with _writing(path):
        figure.savefig(path, format="png")


def image_grid(rows: Sequence[Tensor], *, gap: int = GAP) -> Tensor:
    """Rows of uint8 (n_i, 3, H, W) images as one uint8 (3, rows * (H + gap), cols * (W + gap)).

    White fills the gaps, right of and below each image, and the ends of shorter rows.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise SignforgeError("There is no image to draw a grid of.")
    _, _, height, width = next(row.shape for row in rows if len(row))
    tile_height, tile_width = height + gap, width + gap
    grid = torch.full((3, len(rows) * tile_height, columns * tile_width), 255, dtype=torch.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = r * tile_height, c * tile_width
            grid[:, top : top + height, left : left + width] = image
    return grid


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` of them, evenly spread, the first and the last among them."""
    places = torch.linspace(0, len(items) - 1, min(most, len(items))).round().long()
    return [items[place] for place in places.tolist()]


def rows_that_fit(count: int, columns: int, height: int, width: int) -> list[int]:
    """Which of ``count`` rows of so many images a grid shows: ``spread`` over them.

    At most MAX_ROWS, and fewer where these would fill more than three quarters of the pixels that
    ``decode_image`` takes; the rest is for the names.
    """
    pixels = max(columns, 1) * (height + GAP) * (width + GAP)
    return spread(range(count), min(MAX_ROWS, max(MAX_PIXELS * 3 // 4 // pixels, 1)))


def save_image_grid(
    path: Path,
    rows: Sequence[Tensor],
    row_names: Sequence[str],
    column_titles: Sequence[str] | None = None,
    *,
    scale: int = 2,
) -> None:
    """Draws one row of images for every name, the name at its left, into a PNG.

    Of more rows than fit (``rows_that_fit``) only those, without any that has no image.

    rows: uint8 (n_i, 3, H, W) each, n_i may differ.
    column_titles: each stands over an equal share of the columns, set apart by a line, such as
        ("real", "synthetic") for rows of which the first half is real.
    scale: every pixel becomes scale x scale pixels, fewer where the file could not be read again.
    Raises SignforgeError if there is no image, names and rows differ in number, the titles do
    not share the columns evenly, or the file cannot be written.
    """
    if len(rows) != len(row_names):
        raise SignforgeError(
            f"A grid of {len(rows)} rows needs as many names, got {len(row_names)}."
        )
    shown = _shown_rows(rows)
    rows, row_names = [rows[r] for r in shown], [row_names[r] for r in shown]
    columns, titles = max(len(row) for row in rows), list(column_titles or [])
    if titles and columns % len(titles):
        raise SignforgeError(f"{columns} columns cannot be shared evenly by {len(titles)} titles.")
    grid = image_grid(rows)
    small = Image.fromarray(grid.permute(1, 2, 0).contiguous().numpy())
    top = 28 if titles else MARGIN
    scale, left, font = _place_names(row_names, small, top, scale)
    tiles = small.resize((small.width * scale, small.height * scale), Image.Resampling.NEAREST)
    row_height = tiles.height / len(rows)
    size = (left + tiles.width + MARGIN, top + tiles.height + MARGIN)
    sheet = Image.new("RGB", size, "white")
    sheet.paste(tiles, (left, top))
    draw = ImageDraw.Draw(sheet)
    for r, name in enumerate(row_names):
        middle = top + (r + 0.5) * row_height
        draw.text((left - MARGIN, middle), name, fill="black", font=font, anchor="rm")
    share = tiles.width / max(len(titles), 1)
    for t, title in enumerate(titles):
        draw.text((left + (t + 0.5) * share, top / 2), title, fill="black", font=font, anchor="mm")
        if t:
            x = left + t * share - scale / 2
            draw.line((x, MARGIN, x, sheet.height - MARGIN), fill="black", width=2)
    _, _, height, width = next(row.shape for row in rows if len(row))
    layout = {
        "left": left,
        "top": top,
        "height": height,
        "width": width,
        "scale": scale,
        "images": [len(row) for row in rows],
        "row_names": list(row_names),
    }
    text = PngInfo()
    text.add_text(LAYOUT, json.dumps(layout))
    with _writing(path):
        sheet.save(path, format="PNG", pnginfo=text)


def load_image_grid(path: Path) -> tuple[list[Tensor], list[str]]:
    """Rows uint8 (n_i, 3, H, W) and their names, out of what ``save_image_grid`` drew.

    Raises SignforgeError if the file cannot be read or is not such a grid.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SignforgeError(f"Cannot read {path}: {error.strerror}.") from None
    sheet = torch.from_numpy(np.array(decode_image(data, str(path)))).permute(2, 0, 1)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            layout = json.loads(str(getattr(image, "text", {})[LAYOUT]))
        names = [str(name) for name in layout["row_names"]]
        rows = _cut_out(sheet, layout)
        if len(rows) != len(names):
            raise ValueError
    except (OSError, ValueError, TypeError, LookupError):
        raise SignforgeError(f"{path} is no image grid that this version drew.") from None
    return rows, names


def _shown_rows(rows: Sequence[Tensor]) -> list[int]:
    """Numbers of the rows that ``save_image_grid`` draws; all of them where they fit."""
    filled = [r for r, row in enumerate(rows) if len(row)]
    if not filled:
        raise SignforgeError("There is no image to draw a grid of.")
    _, _, height, width = rows[filled[0]].shape
    columns = max(len(rows[r]) for r in filled)
    fitting = rows_that_fit(len(rows), columns, height, width)
    if len(fitting) == len(rows):
        return fitting
    return [filled[place] for place in rows_that_fit(len(filled), columns, height, width)]


def _place_names(
    row_names: Sequence[str], tiles: Image.Image, top: int, scale: int
) -> tuple[int, int, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """The scale of the tiles at which the sheet may still be decoded, the room left of them, and
    the font of the names there."""
    while True:
        row_height = tiles.height * scale / len(row_names)
        font = ImageFont.load_default(size=float(min(max(row_height * 0.4, 10), 18)))
        left = round(max(font.getlength(name) for name in row_names)) + 2 * MARGIN
        width = left + tiles.width * scale + MARGIN
        if scale == 1 or width * (top + tiles.height * scale + MARGIN) <= MAX_PIXELS:
            return scale, left, font
        scale -= 1


def _cut_out(sheet: Tensor, layout: Mapping[str, Any]) -> list[Tensor]:
    """The images that ``layout`` says are in ``sheet``, uint8 (3, H, W); ValueError if not."""
    keys = ("top", "left", "height", "width", "scale")
    top, left, height, width, scale = (int(layout[key]) for key in keys)
    small = sheet[:, max(top, 0) :: max(scale, 1), max(left, 0) :: max(scale, 1)]
    counts = [int(count) for count in layout["images"]]
    needed = (len(counts) * (height + GAP), max(counts) * (width + GAP))
    if min(height, width, *counts) < 0 or needed[0] > small.shape[1] or needed[1] > small.shape[2]:
        raise ValueError
    rows = []
    for r, count in enumerate(counts):
        band = small[:, r * (height + GAP) :][:, :height]
        images = [band[:, :, c * (width + GAP) :][:, :, :width] for c in range(count)]
        rows.append(torch.stack(images) if images else sheet.new_empty((0, 3, height, width)))
    return rows


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise SignforgeError(
            f"Cannot write {path}: {error.strerror}; choose a place that can be written to."
        ) from None

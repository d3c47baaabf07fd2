"""Pictures of a data set as PNG files: class counts side by side, image grids with named rows.

A grid's file says in a text chunk where its images lie, so that they can be taken out again.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from signforge.data.decode import decode_image
from signforge.errors import SignforgeError

SPLIT_COLORS = ("#2f6db5", "#e08a1e", "#6a9a3b", "#8a5ca8")
MAX_HEIGHT_INCHES = 400.0
GAP = 1
"""White pixels between the images of a grid."""
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


def save_image_grid(
    path: Path,
    rows: Sequence[Tensor],
    row_names: Sequence[str],
    column_titles: Sequence[str] | None = None,
    *,
    scale: int = 2,
) -> None:
    """Draws one row of images for every name, the name at its left, into a PNG.

    rows: uint8 (n_i, 3, H, W) each, n_i may differ.
    column_titles: each stands over an equal share of the columns, set apart by a line, such as
        ("real", "synthetic") for rows of which the first half is real.
    scale: every pixel becomes scale x scale pixels.
    Raises SignforgeError if there is no image, names and rows differ in number, the titles do
    not share the columns evenly, or the file cannot be written.
    """
    if len(rows) != len(row_names):
        raise SignforgeError(
            f"A grid of {len(rows)} rows needs as many names, got {len(row_names)}."
        )
    columns = max((len(row) for row in rows), default=0)
    titles = list(column_titles or [])
    if titles and columns % len(titles):
        raise SignforgeError(f"{columns} columns cannot be shared evenly by {len(titles)} titles.")
    grid = image_grid(rows)
    small = Image.fromarray(grid.permute(1, 2, 0).contiguous().numpy())
    tiles = small.resize((small.width * scale, small.height * scale), Image.Resampling.NEAREST)
    row_height = tiles.height / len(rows)
    font = ImageFont.load_default(size=float(min(max(row_height * 0.4, 10), 18)))
    margin = 6
    left = round(max(font.getlength(name) for name in row_names)) + 2 * margin
    top = 28 if titles else margin
    sheet = Image.new("RGB", (left + tiles.width + margin, top + tiles.height + margin), "white")
    sheet.paste(tiles, (left, top))
    draw = ImageDraw.Draw(sheet)
    for r, name in enumerate(row_names):
        middle = top + (r + 0.5) * row_height
        draw.text((left - margin, middle), name, fill="black", font=font, anchor="rm")
    share = tiles.width / max(len(titles), 1)
    for t, title in enumerate(titles):
        draw.text((left + (t + 0.5) * share, top / 2), title, fill="black", font=font, anchor="mm")
        if t:
            x = left + t * share - scale / 2
            draw.line((x, margin, x, sheet.height - margin), fill="black", width=2)
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

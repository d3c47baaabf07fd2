"""A run at a glance once it is over: its curves, and its sample grid as a film and as a strip.

Made from metrics.jsonl and samples/*.png alone, so they can be drawn again for any run.
"""

import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from signforge.data.charts import image_grid, load_image_grid, save_image_grid, spread
from signforge.errors import SignforgeError
from signforge.files import write_atomically

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("discriminator_loss", "generator_loss")),
    ("logits, mean", ("real_logits_mean", "fake_logits_mean")),
    ("learning rate", ("generator_learning_rate", "discriminator_learning_rate")),
    ("images a second", ("images_per_second",)),
    ("label agreement", ("label_agreement", "worst_class_label_agreement")),
    ("Frechet distance to validation", ("fd",)),
)
"""Title of each panel and the keys of metrics.jsonl that it shows."""
FROM_ZERO = frozenset({"learning rate", "images a second", "label agreement"})
"""Panels whose numbers are shares or rates: cut off at another height they would mislead."""
HELD = frozenset({"label agreement", "Frechet distance to validation"})
"""Panels of values that stay until the next probe: drawn as steps."""
COLORS = ("#0072B2", "#D55E00")

MAX_FRAMES = 16
FRAME_PIXELS = 100_000
"""Of one film frame: with MAX_FRAMES and FILM_COLORS a film of pure noise stays below 2 MB."""
FILM_COLORS = 128
FRAME_MILLISECONDS = 400
LAST_FRAME_MILLISECONDS = 2000
MAX_TILE = 64
"""Pixels; larger samples are averaged down."""
CAPTION_HEIGHT = 18
STRIP_CLASSES = 12
STRIP_TIMES = 10
STRIP_TILE = 96
"""Pixels that a tile of the strip is enlarged to, so that its kimg fits above it."""


def save_curves(run: Path) -> Path:
    """Draws metrics.jsonl against kimg into ``run``/curves.png and returns that path.

    Keys without a value leave their panel out. Lines that a roll-back made obsolete are left out
    and the roll-back itself is a dashed line. Raises SignforgeError if it cannot be written.
    """
    lines = read_metrics(run / "metrics.jsonl")
    panels = [
        (title, [key for key in keys if any(line.get(key) is not None for line in lines)])
        for title, keys in PANELS
    ]
    shown = [(title, keys) for title, keys in panels if keys] or [("no status line yet", [])]
    rows = math.ceil(len(shown) / 2)
    figure = Figure(figsize=(11, 0.4 + 2.6 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False, sharex=True)
    for place, (title, keys) in zip(axes.flat, shown, strict=False):
        _draw_panel(place, title, keys, lines)
    for unused in axes.flat[len(shown) :]:
        unused.remove()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    path = run / "curves.png"
    write_atomically(path, file.getvalue())
    return path


def save_film(run: Path) -> Path | None:
    """Writes film.gif and film.png into ``run`` and returns the path of film.gif.

    film.gif: the sample grid over kimg, as many samples of each class as keep it below 2 MB.
    film.png: a strip, one row for each of some classes, one column for each of some grids.
    None where the run has no sample grid. Raises SignforgeError if one cannot be written.
    """
    paths = _last_of_kind(run / "samples")
    if not paths:
        return None
    frames = [_frame(rows, kimg) for kimg, rows, _ in map(_read_grid, spread(paths, MAX_FRAMES))]
    durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_FRAME_MILLISECONDS]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    path = run / "film.gif"
    write_atomically(path, file.getvalue())
    _save_strip(run / "film.png", [_read_grid(path) for path in spread(paths, STRIP_TIMES)])
    return path


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl by rising kimg; of two at one place the later one counts.

    A line that goes back to an earlier kimg (after a roll-back) replaces all from there on. A
    missing file is empty, and a line cut off by a kill is left out.
    """
    lines: list[dict[str, Any]] = []
    if not path.is_file():
        return lines
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            seen_kimg = float(line["seen_kimg"])
        except (ValueError, KeyError, TypeError):
            continue
        while lines and lines[-1]["seen_kimg"] >= seen_kimg:
            lines.pop()
        lines.append(line)
    return lines


Grid = tuple[float, list[Tensor], list[str]]
"""kimg, rows of uint8 (n, 3, H, W) and their names."""


def _draw_panel(axes: Axes, title: str, keys: Sequence[str], lines: list[dict[str, Any]]) -> None:
    for key, color in zip(keys, COLORS, strict=False):
        points = [(line["seen_kimg"], line[key]) for line in lines if line.get(key) is not None]
        marker = "." if len(points) <= 30 else None
        label = key.replace("_", " ")
        style = "steps-post" if title in HELD else "default"
        kimgs, values = zip(*points, strict=True)
        axes.plot(kimgs, values, color=color, marker=marker, lw=1.2, label=label, drawstyle=style)
    for kimg in _rollbacks(lines):
        axes.axvline(kimg, color="0.5", linestyle="--", linewidth=1)
    if title in FROM_ZERO:
        axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("thousands of real images seen (kimg)", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    if len(keys) > 1:
        axes.legend(fontsize=8)


def _rollbacks(lines: list[dict[str, Any]]) -> Iterator[float]:
    """The kimg of each line whose count of roll-backs is higher than that of the line before."""
    before = 0
    for line in lines:
        rollbacks = line.get("rollbacks") or 0
        if rollbacks > before:
            yield float(line["seen_kimg"])
        before = rollbacks


def _kimg_of(path: Path) -> float | None:
    name = re.fullmatch(r"(\d+(?:\.\d+)?)kimg", path.stem)
    return float(name.group(1)) if name else None


def _read_grid(path: Path) -> Grid:
    rows, names = load_image_grid(path)
    return _kimg_of(path) or 0.0, rows, names


def _last_of_kind(folder: Path) -> list[Path]:
    """Grids by rising kimg that show the same classes at the same size as the last one.

    One at a time is decoded: all of a long run take gigabytes.
    """
    found: list[tuple[float, Path, object]] = []
    for path in folder.glob("*kimg.png"):
        kimg = _kimg_of(path)
        if kimg is None:
            continue
        try:
            rows, names = load_image_grid(path)
        except SignforgeError:  # not ours, too large, of another version: the film does without it
            continue
        if sum(map(len, rows)):
            found.append((kimg, path, (names, [row.shape for row in rows])))
    found.sort(key=lambda grid: grid[0])
    return [path for _, path, kind in found if kind == found[-1][2]]


def _frame(rows: list[Tensor], kimg: float) -> Image.Image:
    """One film frame with a palette: kimg above, then the classes in reading order."""
    size = min(rows[0].shape[-1], MAX_TILE)
    tile = (size + 1) ** 2
    classes = spread(rows, max(FRAME_PIXELS // tile, 1))
    columns = max(min(FRAME_PIXELS // (tile * len(classes)), max(map(len, rows))), 1)
    blocks = [_shrink(row[:columns], size) for row in classes]
    across = max(round(math.sqrt(len(blocks) / columns)), 1)
    bands = [torch.cat(blocks[start : start + across]) for start in range(0, len(blocks), across)]
    pixels = image_grid(bands)
    scale = max(min(int(math.sqrt(FRAME_PIXELS / (pixels.shape[1] * pixels.shape[2]))), 8), 1)
    tiles = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    tiles = tiles.resize((tiles.width * scale, tiles.height * scale), Image.Resampling.NEAREST)
    caption = f"{kimg:,g} kimg"
    font = ImageFont.load_default(size=13.0)
    width = max(tiles.width, round(font.getlength(caption)) + 8)
    frame = Image.new("RGB", (width, tiles.height + CAPTION_HEIGHT), "white")
    frame.paste(tiles, (0, CAPTION_HEIGHT))
    draw = ImageDraw.Draw(frame)
    draw.text((4, CAPTION_HEIGHT / 2), caption, fill="black", font=font, anchor="lm")
    return frame.quantize(FILM_COLORS, dither=Image.Dither.NONE)


def _save_strip(path: Path, grids: list[Grid]) -> None:
    classes = spread(range(len(grids[0][1])), STRIP_CLASSES)
    size = min(grids[0][1][0].shape[-1], MAX_TILE)
    rows = [
        torch.cat([_shrink(images[label][:1], size) for _, images, _ in grids]) for label in classes
    ]
    names = [grids[0][2][label] for label in classes]
    titles = [f"{kimg:,g} kimg" for kimg, _, _ in grids]
    save_image_grid(path, rows, names, titles, scale=math.ceil(STRIP_TILE / (size + 1)))


def _shrink(images: Tensor, size: int) -> Tensor:
    """uint8 (N, 3, H, W) -> (N, 3, size, size), averaged."""
    if images.shape[-1] == size or len(images) == 0:
        return images
    small = F.interpolate(images.float(), (size, size), mode="area")
    return small.round().clamp(0, 255).to(torch.uint8)

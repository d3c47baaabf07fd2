"""Images of chosen classes as PNG files, with a grid of them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from signforge.data.charts import rows_that_fit, save_image_grid
from signforge.data.encode import class_folders, encode_png
from signforge.files import write_atomically
from signforge.gan.run import row_names
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress

GRID_IMAGES = 100
GRID_COLUMNS = 10


def generate_images(
    sampler: ClassConditionalSampler,
    labels: Sequence[int],
    num: int,
    out: Path,
    *,
    seed: int = 0,
    variant: str = "",
    track: Track = no_progress,
) -> list[Path]:
    """Writes ``num`` PNG files of each class below ``out`` and ``out/grid.png``.

    The grid has up to ``GRID_IMAGES`` images of a single class, or one row each of as many
    classes as fit.
    A file's name holds class, seed, ``variant`` and number, so another seed adds files and replaces
    none; a sampler that draws otherwise from the same seed should have a variant of its own.
    Returns the files of images, class by class.
    """
    files: list[Path] = []
    rows: list[Tensor] = []
    folders, names = class_folders(sampler.class_names), row_names(sampler.class_names)
    side, alone = sampler.resolution, len(labels) == 1
    shown = rows_that_fit(len(labels), GRID_COLUMNS, side, side)
    for place, label in enumerate(track(labels, "Drawing", len(labels))):
        images = sampler.sample(torch.full((num,), label, dtype=torch.int64), seed)
        for index, image in enumerate(images):
            path = out / folders[label] / f"{label:05d}_seed{seed}{variant}_{index:05d}.png"
            write_atomically(path, encode_png(image))
            files.append(path)
        if place in shown:
            rows.append(images[: GRID_IMAGES if alone else GRID_COLUMNS].clone())
    if alone:
        rows = list(torch.split(rows[0], GRID_COLUMNS))
        row_titles = [names[labels[0]], *[""] * (len(rows) - 1)]
    else:
        row_titles = [names[labels[place]] for place in shown]
    save_image_grid(out / "grid.png", rows, row_titles)
    return files
